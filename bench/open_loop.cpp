// T-18: the latency of calls that arrive at 80 % of what the pool can do, whether earlier calls have ended or not:
// plain, with 1 % slow calls, with slow calls that kill_after ends, and with workers that are killed.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <signal.h>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/burn.hpp"
#include "support/coroutine.hpp"

namespace {

using bench::Clock;
using bench::Placement;
using namespace std::chrono_literals;

constexpr std::size_t workers = 4;
constexpr double part_of_capacity = 0.8;
constexpr auto slow_time = 50ms, slow_deadline = 25ms, slow_kill_after = 1ms;

struct Load {
  std::string name;
  double slow = 0;  // the share of slow calls
  bool kill_after = false;
  int kills = 0;  // of workers, a second
  bool backoff = true;
};

/// Counts how the calls of one load have ended.
struct Outcome {
  std::vector<int> ends;          // of each call
  std::vector<double> latencies;  // of the calls that are not slow, from the time at which each was due
  std::size_t kills = 0;
  std::size_t killed = 0;      // calls whose worker was killed
  std::size_t expired = 0;     // slow calls that their deadline ended
  std::size_t unexpected = 0;  // any other failure
};

drover::PoolOptions pool_options(bool backoff) {
  drover::PoolOptions options;
  options.size = workers;
  options.worker = bench::worker_options(Placement::anywhere);
  options.max_queued = std::size_t{1} << 20;  // the calls that wait count, and are not refused
  if (!backoff) options.restart.backoff = options.restart.max_backoff = 0s;
  return options;
}

// The capacity --------------------------------------------------------------------------------------------------------

asio::awaitable<void> call_again(drover::WorkerPool* pool, std::uint64_t steps, Clock::time_point end,
                                 std::size_t* done) {
  for (; Clock::now() < end; ++*done) co_await pool->call<std::uint64_t>("burn", steps);
}

/// Calls per second of callers of which each makes the next call when the last one has ended.
asio::awaitable<double> measure_capacity(std::uint64_t steps, drover::Duration time) {
  const auto executor = co_await asio::this_coro::executor;
  drover::WorkerPool pool = co_await drover::WorkerPool::start(pool_options(true));
  std::size_t done = 0;
  for (const auto each : {time / 4, time}) {  // the first one warms up
    done = 0;
    bench::Group callers(executor);
    const auto end = Clock::now() + each;
    for (std::size_t i = 0; i < 2 * workers; ++i) callers.spawn(call_again(&pool, steps, end, &done));
    co_await callers.wait();
  }
  co_await pool.stop();
  co_return static_cast<double>(done) / bench::seconds(time);
}

// The loads -----------------------------------------------------------------------------------------------------------

asio::awaitable<void> call_once(drover::WorkerPool* pool, std::uint64_t steps, Clock::time_point due, std::size_t call,
                                Outcome* outcome) {
  try {
    co_await pool->call<std::uint64_t>("burn", steps);
  } catch (const drover::Error& error) {
    const auto& status = error.exit_status();
    const bool killed = error.code() == drover::Errc::worker_exited && status && status->value == SIGKILL &&
                        status->kind == drover::ExitStatus::Kind::signaled;
    ++(killed ? outcome->killed : outcome->unexpected);
  }
  ++outcome->ends[call];
  outcome->latencies.push_back(bench::microseconds(Clock::now() - due));
}

asio::awaitable<void> call_slow(drover::WorkerPool* pool, bool kill_after, std::size_t call, Outcome* outcome) {
  drover::CallOptions options;
  if (kill_after) {
    options.deadline = slow_deadline;
    options.kill_after = slow_kill_after;
  }
  try {
    co_await pool->call<void>(options, "sleep");
  } catch (const drover::Error& error) {
    ++(kill_after && error.code() == drover::Errc::deadline_exceeded ? outcome->expired : outcome->unexpected);
  }
  ++outcome->ends[call];
}

/// Kills the workers in turn.
asio::awaitable<void> kill_workers(drover::WorkerPool* pool, int a_second, Clock::time_point end, Outcome* outcome) {
  asio::steady_timer timer(co_await asio::this_coro::executor, Clock::now());
  for (;;) {
    timer.expires_at(timer.expiry() + std::chrono::nanoseconds(1s) / a_second);
    if (timer.expiry() >= end) co_return;
    co_await timer.async_wait(asio::use_awaitable);
    const auto ready = pool->workers();
    if (ready.empty()) continue;
    ::kill(ready[outcome->kills % ready.size()].pid, SIGKILL);
    ++outcome->kills;
  }
}

asio::awaitable<void> run_load(const Load* load, double rate, std::uint64_t steps, drover::Duration time,
                               Outcome* outcome) {
  const auto executor = co_await asio::this_coro::executor;
  drover::WorkerPool pool = co_await drover::WorkerPool::start(pool_options(load->backoff));
  for (std::size_t i = 0; i < 2 * workers; ++i) co_await pool.call<std::uint64_t>("burn", std::uint64_t{1});
  outcome->latencies.reserve(static_cast<std::size_t>(2 * rate * bench::seconds(time)));

  std::mt19937_64 random(7);
  std::exponential_distribution<double> gap(rate);
  std::uniform_real_distribution<double> part(0, 1);
  bench::Group calls(executor);
  asio::steady_timer timer(executor);
  auto due = Clock::now();
  const auto end = due + time;
  if (load->kills > 0) calls.spawn(kill_workers(&pool, load->kills, end, outcome));
  for (;;) {
    due += std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(gap(random)));
    if (due >= end) break;
    if (due > Clock::now()) {
      timer.expires_at(due);
      co_await timer.async_wait(asio::use_awaitable);
    }
    const std::size_t call = outcome->ends.size();
    outcome->ends.push_back(0);
    if (part(random) < load->slow)
      calls.spawn(call_slow(&pool, load->kill_after, call, outcome));
    else
      calls.spawn(call_once(&pool, steps, due, call, outcome));
  }
  co_await calls.wait();
  co_await pool.stop();
}

void report(benchmark::State& state, const Load& load, Outcome& outcome) {
  auto& latencies = outcome.latencies;
  if (latencies.empty()) throw std::runtime_error("no call arrived");
  std::sort(latencies.begin(), latencies.end());
  const auto at = [&](double part) {
    return latencies[static_cast<std::size_t>(part * static_cast<double>(latencies.size() - 1))];
  };
  const auto set = [&](const char* what, double value) { state.counters[load.name + "_" + what] = value; };
  const auto lost = std::count_if(outcome.ends.begin(), outcome.ends.end(), [](int ends) { return ends != 1; });
  set("p50_us", at(0.5));
  set("p99_us", at(0.99));
  set("p999_us", at(0.999));
  set("calls", static_cast<double>(outcome.ends.size()));
  set("kills", static_cast<double>(outcome.kills));
  set("killed_calls", static_cast<double>(outcome.killed));
  set("expired_calls", static_cast<double>(outcome.expired));
  // Calls that ended not once, that failed for no reason, or of which there are more than workers that were killed.
  const auto excess = outcome.killed - std::min(outcome.killed, outcome.kills);
  set("lost", static_cast<double>(static_cast<std::size_t>(lost) + outcome.unexpected + excess));
}

std::vector<Load> all_kinds() {
  return {{.name = "plain"},
          {.name = "slow", .slow = 0.01},
          {.name = "kill_after", .slow = 0.01, .kill_after = true},
          {.name = "kills", .kills = 20},
          {.name = "kills_no_backoff", .kills = 20, .backoff = false}};
}

asio::awaitable<void> all_loads(benchmark::State* state) {
  const char* text = std::getenv("DROVER_BENCH_SECONDS");
  const auto time = std::chrono::duration_cast<drover::Duration>(
      std::chrono::duration<double>(8 * (text != nullptr ? std::atof(text) : 0.5)));
  const std::uint64_t steps = bench::one_millisecond() / 2;
  const std::vector<Load> loads = all_kinds();
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    const double capacity = co_await measure_capacity(steps, time / 4);
    for (const auto& load : loads) {
      Outcome outcome;
      co_await run_load(&load, part_of_capacity * capacity, steps, time, &outcome);
      report(*state, load, outcome);
    }
    state->counters["capacity"] = capacity;
    state->SetIterationTime(bench::seconds(Clock::now() - begin));
  }
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add("burn", bench::burn).add("sleep", [] { std::this_thread::sleep_for(slow_time); });
  if (bench::in_worker()) return drover::serve(routines);

  bench::add_coroutine("T-18", 1, Placement::anywhere, all_loads);
  return bench::run(argc, argv);
}
