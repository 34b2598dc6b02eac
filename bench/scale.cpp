// T-12/memory: the memory of an idle key. T-14: the parent's memory for an idle worker. T-15: the time from the death
// of a parent until its 64 idle workers have exited.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <malloc.h>
#include <memory>
#include <poll.h>
#include <sstream>
#include <string>
#include <sys/syscall.h>
#include <vector>

#include "support/coroutine.hpp"
#include "support/raw.hpp"

namespace {

using bench::Clock;
using bench::Placement;
using namespace std::chrono_literals;

constexpr std::size_t worker_count = 64;

// T-12/memory ---------------------------------------------------------------------------------------------------------

constexpr std::uint64_t key_count = 1'000'000;

/// The bytes that malloc has handed out, see mallinfo2(3).
double malloced() {
  const auto info = ::mallinfo2();
  return static_cast<double>(info.uordblks) + static_cast<double>(info.hblkhd);
}

/// fill() creates the keys. The result is the memory of one of them, without the key and the value themselves.
template <class Fill>
void measure_keys(benchmark::State& state, Fill fill) {
  bench::Samples samples(state);
  for ([[maybe_unused]] auto _ : state) {
    const double before = malloced();
    const auto begin = Clock::now();
    const auto kept = fill();
    const auto taken = Clock::now() - begin;
    samples.add(state, taken, (malloced() - before) / key_count - 2 * sizeof(std::uint64_t));
  }
  samples.report(state);
}

void keys_raw(benchmark::State& state) {
  measure_keys(state, [] {
    std::unordered_map<std::uint64_t, std::uint64_t> map;
    for (std::uint64_t key = 0; key < key_count; ++key) map.emplace(key, key);
    return map;
  });
}

void keys_drover(benchmark::State& state) {
  using Pool = drover::ResourcePool<std::uint64_t, std::uint64_t>;
  asio::io_context context;
  measure_keys(state, [&] {
    auto pool = std::make_unique<Pool>(
        context.get_executor(), [](const std::uint64_t& key) { return key; }, Pool::Options{.ttl = 1h});
    const auto acquire_all = [](Pool* from) -> asio::awaitable<void> {
      for (std::uint64_t key = 0; key < key_count; ++key) co_await from->acquire(key);  // released at once
    };
    asio::co_spawn(context, acquire_all(pool.get()), [](std::exception_ptr failure) {
      if (failure) std::rethrow_exception(failure);
    });
    context.restart();
    context.run();
    if (pool->stats().pending_cleanup != key_count) throw std::runtime_error("not all keys are idle");
    return pool;
  });
}

// T-14 ----------------------------------------------------------------------------------------------------------------

/// The private memory of this process, and its Pss, which adds its share of shared pages, see proc_pid_smaps(5).
struct Memory {
  double private_kb = 0, pss_kb = 0;
};
Memory memory() {
  Memory found;
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    double kb = 0;
    if (!(words >> name >> kb)) continue;
    if (name == "Private_Clean:" || name == "Private_Dirty:") found.private_kb += kb;
    if (name == "Pss:") found.pss_kb = kb;
  }
  return found;
}
double descriptors() {
  return static_cast<double>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

asio::awaitable<void> start_workers(std::vector<drover::LocalWorker>* workers, std::size_t count) {
  const auto executor = co_await asio::this_coro::executor;
  const auto options = bench::worker_options(Placement::anywhere);
  for (std::size_t i = 0; i < count; ++i) {
    drover::LocalWorker worker(executor, options);
    co_await worker.start();
    const std::string text = "an idle worker has run a call";
    co_await worker.call<std::string>("echo", text);
    workers->push_back(std::move(worker));
  }
}

asio::awaitable<void> parent_memory(benchmark::State* state) {
  bench::Samples samples(*state);
  for ([[maybe_unused]] auto _ : *state) {
    std::vector<drover::LocalWorker> workers;
    workers.reserve(2 * worker_count);
    co_await start_workers(&workers, 4);  // the first ones also create what all workers share
    const auto memory_before = memory();
    const double descriptors_before = descriptors();
    const auto allocations_before = bench::allocations();
    const auto begin = Clock::now();
    co_await start_workers(&workers, worker_count);
    const auto taken = Clock::now() - begin;
    const auto memory_now = memory();
    const auto each = [](double before, double now) { return (now - before) / worker_count; };
    samples.add(*state, taken, each(memory_before.private_kb, memory_now.private_kb));
    state->counters["pss_kb"] = each(memory_before.pss_kb, memory_now.pss_kb);
    state->counters["descriptors"] = each(descriptors_before, descriptors());
    state->counters["allocations"] = static_cast<double>(bench::allocations() - allocations_before) / worker_count;
    for (auto& worker : workers) co_await worker.stop(0s);
  }
  samples.report(*state);
}

// T-15 ----------------------------------------------------------------------------------------------------------------

constexpr std::string_view parent_role = "--parent";

/// The parent that is killed. It writes the process ids of its workers to descriptor 3, then waits for SIGKILL.
asio::awaitable<void> run_parent() {
  drover::PoolOptions options;
  options.size = worker_count;
  options.worker = bench::worker_options(Placement::anywhere);
  drover::WorkerPool pool = co_await drover::WorkerPool::start(options);
  std::vector<pid_t> pids;
  for (const auto& worker : pool.workers()) pids.push_back(worker.pid);
  bench::checked(::write(3, pids.data(), pids.size() * sizeof(pid_t)), "write");
  asio::steady_timer never(co_await asio::this_coro::executor, Clock::time_point::max());
  co_await never.async_wait(asio::use_awaitable);
}

/// The same with plain system calls: each child exits at the end of file of a socket whose other end its parent holds.
void run_raw_parent() {
  std::vector<bench::Descriptor> ends;
  std::vector<pid_t> pids;
  for (std::size_t i = 0; i < worker_count; ++i) {
    auto [ours, theirs] = bench::stream_pair();
    const pid_t pid = bench::checked(::fork(), "fork");
    if (pid == 0) {
      ours.reset();
      ends.clear();
      bench::ReadableLoop loop(theirs.get());
      loop.wait();
      ::_exit(1);
    }
    pids.push_back(pid);
    ends.push_back(std::move(ours));
  }
  bench::checked(::write(3, pids.data(), pids.size() * sizeof(pid_t)), "write");
  for (;;) ::pause();
}

/// The same with children as drover's workers are: this program executed again, with an Asio loop that ends at the end
/// of file, and the end of main() after it.
void run_executing_parent() {
  std::vector<bench::RawWorker> workers;
  std::vector<pid_t> pids;
  for (std::size_t i = 0; i < worker_count; ++i) workers.emplace_back(Placement::anywhere);
  for (auto& worker : workers) {
    worker.wait_until_ready();
    pids.push_back(worker.pid());
  }
  bench::checked(::write(3, pids.data(), pids.size() * sizeof(pid_t)), "write");
  for (;;) ::pause();
}

/// `kind`: what the parent is.
void orphans(benchmark::State& state, std::string kind) {
  bench::pin_parent(Placement::anywhere);
  bench::Samples samples(state);
  for ([[maybe_unused]] auto _ : state) {
    auto [reading, writing] = bench::pipe_pair();
    bench::FileActions actions;
    actions.duplicate(writing.get(), 3);
    std::string program = "/proc/self/exe", role(parent_role);
    char* arguments[] = {program.data(), role.data(), kind.data(), nullptr};
    const pid_t parent = bench::spawn_process(program.c_str(), arguments, &actions);
    writing.reset();
    std::vector<pid_t> pids(worker_count);
    const auto wanted = static_cast<ssize_t>(pids.size() * sizeof(pid_t));
    if (::read(reading.get(), pids.data(), static_cast<std::size_t>(wanted)) != wanted)
      throw std::runtime_error("the parent did not start its workers");
    std::vector<bench::Descriptor> workers;
    for (const pid_t pid : pids)
      workers.emplace_back(static_cast<int>(bench::checked(::syscall(SYS_pidfd_open, pid, 0), "pidfd_open")));
    const auto begin = Clock::now();
    ::kill(parent, SIGKILL);
    for (const auto& worker : workers) {
      pollfd exited{worker.get(), POLLIN, 0};
      if (::poll(&exited, 1, 30000) != 1)
        throw std::runtime_error("a worker is still running 30 s after its parent's death");
    }
    const auto taken = Clock::now() - begin;
    samples.add(state, taken, bench::microseconds(taken) / 1000);
    bench::wait_for_exit(parent);
  }
  samples.report(state);
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add("echo", [](std::string text) { return text; });
  if (bench::run_if_raw_worker(argc, argv)) return 0;
  if (bench::in_worker()) return drover::serve(routines);
  if (argc > 2 && argv[1] == parent_role) {
    if (argv[2] == std::string_view("raw")) run_raw_parent();
    if (argv[2] == std::string_view("executed")) run_executing_parent();
    return drover::run_main(run_parent());
  }

  bench::add("T-12/memory/raw", 1, keys_raw);
  bench::add("T-12/memory/drover", 1, keys_drover);
  bench::add_coroutine("T-14/drover", 2, Placement::anywhere, parent_memory);
  for (const std::string kind : {"raw", "executed", "drover"}) bench::add("T-15/" + kind, 6, orphans, kind);
  return bench::run(argc, argv);
}
