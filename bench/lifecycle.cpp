// T-3: the start of a worker. T-4: the reap of a process. T-5: the stop of an idle worker. T-6: the stop of a pool of
// 64 workers.
#include <chrono>
#include <filesystem>
#include <iterator>
#include <optional>
#include <string_view>
#include <vector>

#include "support/coroutine.hpp"
#include "support/raw.hpp"
#include "support/raw_threads.hpp"

namespace {

using bench::Clock;
using bench::Placement;
using namespace std::chrono_literals;

constexpr std::size_t pool_size = 64;

std::size_t entries(const char* folder) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

// T-3 -----------------------------------------------------------------------------------------------------------------

/// `with_threads` adds the least that drover's guarantees need: the child's attributes, its control thread, and a
/// reaper thread in the parent.
void start_raw(benchmark::State& state, bool with_threads) {
  bench::pin_parent(Placement::anywhere);
  const bench::ChildAttributes attributes;
  std::optional<bench::ReaperThread> reaper;
  if (with_threads) reaper.emplace();
  bench::Samples samples(state);
  for ([[maybe_unused]] auto _ : state) {
    const auto begin = Clock::now();
    bench::RawWorker worker(Placement::anywhere,
                            with_threads ? bench::threaded_raw_worker_role : bench::raw_worker_role,
                            with_threads ? &attributes : nullptr);
    if (reaper) reaper->watch(worker.pid());
    worker.wait_until_ready();
    samples.add(state, Clock::now() - begin);
    worker.request_stop();
    reaper ? reaper->wait() : worker.wait_for_exit();
  }
  samples.report(state);
}

asio::awaitable<void> start_drover(benchmark::State* state) {
  const auto executor = co_await asio::this_coro::executor;
  const auto options = bench::worker_options(Placement::anywhere);
  bench::Samples samples(*state);
  for ([[maybe_unused]] auto _ : *state) {
    drover::LocalWorker worker(executor, options);
    const auto begin = Clock::now();
    co_await worker.start();
    samples.add(*state, Clock::now() - begin);
    co_await worker.stop(0s);
  }
  samples.report(*state);
}

// T-4 -----------------------------------------------------------------------------------------------------------------

void reap_raw(benchmark::State& state, bool with_thread) {
  bench::pin_parent(Placement::anywhere);
  std::optional<bench::ReaperThread> reaper;
  if (with_thread) reaper.emplace();
  const bench::CapturedStderr child_output;
  bench::Samples samples(state);
  for ([[maybe_unused]] auto _ : state) {
    const pid_t pid = bench::spawn_tiny("stay");
    bench::receive_byte(child_output.read_end());
    if (with_thread) reaper->watch(pid);
    const auto begin = Clock::now();
    ::kill(pid, SIGTERM);
    with_thread ? reaper->wait() : bench::wait_for_exit(pid);
    samples.add(state, Clock::now() - begin);
  }
  samples.report(state);
}

asio::awaitable<void> reap_drover(benchmark::State* state) {
  const bench::CapturedStderr child_output;
  drover::Command command;
  command.program = DROVER_BENCH_TINY;
  command.args.emplace_back("stay");
  bench::Samples samples(*state);
  for ([[maybe_unused]] auto _ : *state) {
    auto process = drover::Process::spawn(command);
    bench::receive_byte(child_output.read_end());
    const auto begin = Clock::now();
    co_await process.reap(0s);
    samples.add(*state, Clock::now() - begin);
  }
  samples.report(*state);
}

// T-5, T-6 ------------------------------------------------------------------------------------------------------------

void stop_raw(benchmark::State& state, std::size_t count) {
  bench::pin_parent(Placement::anywhere);
  bench::Samples samples(state);
  for ([[maybe_unused]] auto _ : state) {
    std::vector<bench::RawWorker> workers;
    for (std::size_t i = 0; i < count; ++i) workers.emplace_back(Placement::anywhere);
    for (auto& worker : workers) worker.wait_until_ready();
    const auto begin = Clock::now();
    for (auto& worker : workers) worker.request_stop();
    for (auto& worker : workers) worker.wait_for_exit();
    samples.add(state, Clock::now() - begin);
  }
  samples.report(state);
}

/// One worker, with a reaper thread in the parent and a control thread in the worker, which replies to the stop
/// message.
void stop_raw_threads(benchmark::State& state) {
  bench::pin_parent(Placement::anywhere);
  bench::ReaperThread reaper;
  bench::Samples samples(state);
  for ([[maybe_unused]] auto _ : state) {
    bench::RawWorker worker(Placement::anywhere, bench::threaded_raw_worker_role);
    worker.wait_until_ready();
    reaper.watch(worker.pid());
    const auto begin = Clock::now();
    worker.request_stop();
    worker.wait_for_reply();
    reaper.wait();
    samples.add(state, Clock::now() - begin);
  }
  samples.report(state);
}

asio::awaitable<void> stop_drover(benchmark::State* state) {
  const auto executor = co_await asio::this_coro::executor;
  const auto options = bench::worker_options(Placement::anywhere);
  bench::Samples samples(*state);
  for ([[maybe_unused]] auto _ : *state) {
    drover::LocalWorker worker(executor, options);
    co_await worker.start();
    const auto begin = Clock::now();
    const drover::StopReport report = co_await worker.stop(0s);
    samples.add(*state, Clock::now() - begin);
    if (report.rpc || !report.exit.success()) throw std::runtime_error("a worker did not stop as asked");
  }
  samples.report(*state);
}

asio::awaitable<void> stop_drover_pool(benchmark::State* state) {
  drover::PoolOptions one, all;
  one.size = 1;
  all.size = pool_size;
  one.worker = all.worker = bench::worker_options(Placement::anywhere);
  all.shutdown_grace = 0s;
  {
    drover::WorkerPool pool = co_await drover::WorkerPool::start(one);
    state->counters["threads_with_1"] = static_cast<double>(entries("/proc/self/task"));
    co_await pool.stop();
  }
  bench::Samples samples(*state);
  for ([[maybe_unused]] auto _ : *state) {
    drover::WorkerPool pool = co_await drover::WorkerPool::start(all);
    state->counters["threads_with_64"] = static_cast<double>(entries("/proc/self/task"));
    const auto begin = Clock::now();
    const std::vector<drover::StopReport> reports = co_await pool.stop();
    samples.add(*state, Clock::now() - begin);
    for (const auto& report : reports)
      if (report.rpc || !report.exit.success()) throw std::runtime_error("a worker did not stop as asked");
  }
  samples.report(*state);
}

}  // namespace

int main(int argc, char** argv) {
  if (bench::run_if_raw_worker(argc, argv) || bench::run_if_threaded_raw_worker(argc, argv)) return 0;
  drover::Routines none;
  if (bench::in_worker()) return drover::serve(none);

  bench::add("T-3/raw", 250, start_raw, false);
  bench::add("T-3/threads", 250, start_raw, true);
  bench::add_coroutine("T-3/drover", 250, Placement::anywhere, start_drover);
  bench::add("T-4/raw", 400, reap_raw, false);
  bench::add("T-4/threads", 400, reap_raw, true);
  bench::add_coroutine("T-4/drover", 400, Placement::anywhere, reap_drover);
  bench::add("T-5/raw", 250, stop_raw, std::size_t{1});
  bench::add("T-5/threads", 250, stop_raw_threads);
  bench::add_coroutine("T-5/drover", 250, Placement::anywhere, stop_drover);
  bench::add("T-6/raw", 8, stop_raw, pool_size);
  bench::add_coroutine("T-6/drover", 8, Placement::anywhere, stop_drover_pool);
  return bench::run(argc, argv);
}
