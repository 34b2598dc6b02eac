// T-10: how much a second worker on a second core adds. "raw" is a pool of one worker. "machine" is two processes that
// do the work without being called, which shows what the machine can reach.
// T-16: what one caller pays for the size of its pool. "raw" is a pool of one worker.
#include <cstddef>
#include <cstdint>
#include <string>
#include <sys/wait.h>
#include <vector>

#include "support/burn.hpp"
#include "support/coroutine.hpp"
#include "support/raw.hpp"

namespace {

using bench::Clock;
using bench::Placement;

constexpr int calls = 100;  // for each worker in one iteration

void machine(benchmark::State& state, int processes) {
  bench::pin_parent(Placement::anywhere);
  const auto steps = bench::one_millisecond();
  bench::Samples samples(state);
  for ([[maybe_unused]] auto _ : state) {
    const auto begin = Clock::now();
    std::vector<pid_t> children;
    for (int i = 0; i < processes; ++i) {
      const pid_t pid = bench::checked(::fork(), "fork");
      if (pid == 0) {
        for (int call = 0; call < calls; ++call) benchmark::DoNotOptimize(bench::burn(steps));
        ::_exit(0);
      }
      children.push_back(pid);
    }
    for (const pid_t pid : children) bench::wait_for_exit(pid);
    const auto taken = Clock::now() - begin;
    samples.add(state, taken, calls * processes / bench::seconds(taken));
  }
  samples.report(state);
}

/// Two calls for each worker at a time, so that a worker that has finished one finds the next one queued.
asio::awaitable<void> do_all(drover::WorkerPool* pool, int workers, std::uint64_t steps) {
  const auto size = static_cast<std::size_t>(workers);
  auto burns = pool->map<std::uint64_t>({.in_flight = 2 * size}, "burn", std::vector(calls * size, steps));
  for (;;) {
    auto done = co_await burns.next();
    if (!done) co_return;
    benchmark::DoNotOptimize(done->value());
  }
}

asio::awaitable<void> pool_of(benchmark::State* state, int workers) {
  const auto steps = bench::one_millisecond();
  drover::PoolOptions options;
  options.size = static_cast<std::size_t>(workers);
  options.worker = bench::worker_options(Placement::anywhere);
  drover::WorkerPool pool = co_await drover::WorkerPool::start(options);
  co_await do_all(&pool, workers, steps);
  bench::Samples samples(*state);
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    co_await do_all(&pool, workers, steps);
    const auto taken = Clock::now() - begin;
    samples.add(*state, taken, calls * workers / bench::seconds(taken));
  }
  samples.report(*state);
  co_await pool.stop();
}

/// One caller in a pool of so many workers, all on the parent's core.
asio::awaitable<void> one_caller(benchmark::State* state, int workers) {
  drover::PoolOptions options;
  options.size = static_cast<std::size_t>(workers);
  options.worker = bench::worker_options(Placement::one_core);
  drover::WorkerPool pool = co_await drover::WorkerPool::start(options);
  const std::string payload(64, 'x');
  for (int i = 0; i < 500 + workers; ++i) co_await pool.call<std::string>("echo", payload);
  bench::Samples samples(*state);
  const bench::Costs costs(pool.workers().front().pid);
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    const std::string reply = co_await pool.call<std::string>("echo", payload);
    samples.add(*state, Clock::now() - begin);
  }
  costs.report(*state, static_cast<double>(state->iterations()));
  samples.report(*state);
  co_await pool.stop();
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add("burn", bench::burn).add("echo", [](std::string text) { return text; });
  if (bench::in_worker()) return drover::serve(routines);

  bench::add_coroutine("T-10/raw", 8, Placement::anywhere, pool_of, 1);
  bench::add_coroutine("T-10/drover", 8, Placement::anywhere, pool_of, 2);
  bench::add("T-10/machine", 8, machine, 2);
  bench::add_coroutine("T-16/raw", 50000, Placement::one_core, one_caller, 1);
  for (const int workers : {8, 64, 256})
    bench::add_coroutine("T-16/" + std::to_string(workers) + "/drover", 50000, Placement::one_core, one_caller,
                         workers);
  return bench::run(argc, argv);
}
