// T-26: how long the start of a large pool takes, and for how long at a time it keeps the parent's loop from other
// work. T-14/idle: how often the threads of such a pool wake up afterwards, when no calls are made.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <sys/resource.h>
#include <utility>
#include <vector>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>

#include "support/coroutine.hpp"
#include "support/longest.hpp"
#include "support/raw.hpp"

namespace {

using bench::Clock;
using bench::Placement;
using namespace std::chrono_literals;

/// 1000, or DROVER_BENCH_WORKERS.
std::size_t worker_count() {
  const char* text = std::getenv("DROVER_BENCH_WORKERS");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 1000;
}

/// Raises the limit of open files, of which a worker takes three in the parent.
void allow_descriptors(std::size_t workers) {
  const rlim_t needed = 3 * workers + 64;
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur >= needed) return;
  limit.rlim_cur = std::min(needed, limit.rlim_max);
  if (limit.rlim_cur < needed || ::setrlimit(RLIMIT_NOFILE, &limit) != 0)
    throw bench::Unavailable(std::to_string(workers) + " workers take " + std::to_string(needed) +
                             " open files, of which the system allows fewer (ulimit -n)");
}

/// How long this thread has waited for a core, in microseconds, see the kernel's documentation of schedstats. 0 where
/// the kernel does not tell.
double waited_for_core() {
  static const bench::Descriptor file(::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC));
  char text[128] = {};
  if (file.get() < 0 || ::pread(file.get(), text, sizeof text - 1, 0) <= 0) return 0;
  char* end = nullptr;
  std::strtoull(text, &end, 10);  // the time on a core
  return static_cast<double>(std::strtoull(end, nullptr, 10)) / 1000;
}

/// The longest piece of work during which the loop does nothing else. The time in which it had no core because workers
/// were using it does not count; that in which it was suspended by vfork(2) does.
class Blocked {
 public:
  /// Times one piece of work during which the loop does nothing else.
  template <class Work>
  auto time(Work work) {
    const double waited = waited_for_core(), cpu = bench::thread_cpu();
    const auto begin = Clock::now();
    const auto result = work();
    latest_wall_ = bench::microseconds(Clock::now() - begin) / 1000;
    latest_cpu_ = (bench::thread_cpu() - cpu) / 1000;
    latest_ = std::max(latest_cpu_, latest_wall_ - (waited_for_core() - waited) / 1000);
    return result;
  }
  void count() {
    longest_ = std::max(longest_, latest_);
    longest_cpu_ = std::max(longest_cpu_, latest_cpu_);
    longest_wall_ = std::max(longest_wall_, latest_wall_);
  }
  void report(benchmark::State& state, Clock::duration total) const {
    state.counters["longest_ms"] = longest_;
    state.counters["longest_cpu_ms"] = longest_cpu_;
    state.counters["longest_wall_ms"] = longest_wall_;
    state.counters["total_ms"] = bench::microseconds(total) / 1000;
    state.counters["size"] = static_cast<double>(worker_count());
  }

 private:
  double latest_ = 0, latest_cpu_ = 0, latest_wall_ = 0;
  double longest_ = 0, longest_cpu_ = 0, longest_wall_ = 0;
};

/// The least that a loop can be blocked: it starts the program again with posix_spawn(3), one worker at a turn.
void start_raw(benchmark::State& state) {
  bench::pin_parent(Placement::anywhere);
  allow_descriptors(worker_count());
  for ([[maybe_unused]] auto _ : state) {
    Blocked blocked;
    std::vector<bench::RawWorker> workers;
    workers.reserve(worker_count());
    const auto begin = Clock::now();
    for (std::size_t i = 0; i < worker_count(); ++i) {
      blocked.time([&] { return &workers.emplace_back(Placement::anywhere); });
      blocked.count();
    }
    for (auto& worker : workers) worker.wait_until_ready();
    const auto total = Clock::now() - begin;
    state.SetIterationTime(bench::seconds(total));
    blocked.report(state, total);
    for (auto& worker : workers) worker.request_stop();
    for (auto& worker : workers) worker.wait_for_exit();
  }
}

asio::awaitable<void> start_pool(std::optional<drover::WorkerPool>* pool) {
  drover::PoolOptions options;
  options.size = worker_count();
  options.worker = bench::worker_options(Placement::anywhere);
  options.start_timeout = 300s;
  options.shutdown_grace = 0s;
  pool->emplace(co_await drover::WorkerPool::start(options));
}

/// Counts how often the threads of a process have gone to sleep, see proc_pid_status(5).
double sleeps(const std::string& process) {
  double count = 0;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/" + process + "/task")) {
    std::ifstream status(thread.path() / "status");
    const std::string wanted = "voluntary_ctxt_switches:";
    for (std::string line; std::getline(status, line);)
      if (line.starts_with(wanted)) count += std::stod(line.substr(wanted.size()));
  }
  return count;
}

/// Runs the loop for a while without work: 5 s, or 1 s in a quick run. A thread that makes a system call has woken up,
/// and goes to sleep again.
void stay_idle(benchmark::State& state, asio::io_context& context, const drover::WorkerPool& pool) {
  const auto all_workers = [&] {
    double count = 0;
    for (const auto& worker : pool.workers()) count += sleeps(std::to_string(worker.pid));
    return count;
  };
  const char* text = std::getenv("DROVER_BENCH_SECONDS");
  const std::chrono::duration<double> time(10 * (text != nullptr ? std::atof(text) : 0.5));
  // run_for() would wake up once a second.
  const auto run_for = [&](std::chrono::duration<double> wait) {
    bool over = false;
    asio::steady_timer timer(context, std::chrono::duration_cast<Clock::duration>(wait));
    timer.async_wait([&](std::error_code) { over = true; });
    while (!over) context.run_one();
  };
  run_for(100ms);  // the workers settle
  const double workers = all_workers(), parent = sleeps("self");
  run_for(time);
  state.counters["parent_sleeps"] = std::max(0.0, sleeps("self") - parent - 1);  // one is the wait for the end
  state.counters["worker_sleeps"] = all_workers() - workers;
  state.counters["idle_s"] = time.count();
}

asio::awaitable<void> stop_pool(std::optional<drover::WorkerPool>* pool) { co_await (*pool)->stop(); }

void start_drover(benchmark::State& state) {
  bench::pin_parent(Placement::anywhere);
  allow_descriptors(worker_count());
  for ([[maybe_unused]] auto _ : state) {
    asio::io_context context;
    const auto work = asio::make_work_guard(context);
    std::optional<drover::WorkerPool> pool;
    bool done = false;
    std::exception_ptr failure;
    const auto completed = [&](std::exception_ptr error) {
      done = true;
      failure = error;
    };
    Blocked blocked;
    const auto begin = Clock::now();
    asio::co_spawn(context, start_pool(&pool), completed);
    while (!done) {
      if (blocked.time([&] { return context.poll_one(); }) > 0)
        blocked.count();
      else
        ::usleep(50);  // nothing to do: this core is for the workers
    }
    const auto total = Clock::now() - begin;
    if (failure) std::rethrow_exception(failure);
    state.SetIterationTime(bench::seconds(total));
    blocked.report(state, total);
    stay_idle(state, context, *pool);
    done = false;
    asio::co_spawn(context, stop_pool(&pool), completed);
    while (!done) context.run_one();
    if (failure) std::rethrow_exception(failure);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (bench::run_if_raw_worker(argc, argv)) return 0;
  drover::Routines none;
  if (bench::in_worker()) return drover::serve(none);

  bench::add("T-26/raw", 1, start_raw);
  bench::add("T-26/drover", 1, start_drover);
  return bench::run(argc, argv);
}
