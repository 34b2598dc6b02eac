// T-22: how long a killed worker keeps a caller waiting if a spare one is ready. "raw" is a start and a call.
// T-23: the start of a worker by a fork server, and the memory that it does not share. "raw" is the same executed.
// T-25: what a caller sees of a reload of 64 workers. "raw" is the same load before it.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <random>
#include <signal.h>
#include <string>
#include <vector>

#include "support/burn.hpp"
#include "support/coroutine.hpp"

namespace {

using bench::Clock;
using bench::Placement;
using drover::Launch;
using namespace std::chrono_literals;

asio::awaitable<void> pause(Clock::duration time) {
  asio::steady_timer timer(co_await asio::this_coro::executor, time);
  co_await timer.async_wait(asio::use_awaitable);
}

drover::PoolOptions pool_of(std::size_t size) {
  drover::PoolOptions options;
  options.size = size;
  options.worker = bench::worker_options(Placement::anywhere);
  return options;
}

// T-22 ----------------------------------------------------------------------------------------------------------------

asio::awaitable<void> start_and_call(benchmark::State* state) {
  bench::Samples samples(*state);
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    drover::PoolOptions options = pool_of(1);
    drover::WorkerPool pool = co_await drover::WorkerPool::start(std::move(options));
    const int one = co_await pool.call<int>("echo", 1);
    benchmark::DoNotOptimize(one);
    samples.add(*state, Clock::now() - begin);
    co_await pool.stop();
  }
  samples.report(*state);
}

asio::awaitable<void> answered(drover::WorkerPool* pool) {
  for (;;) {
    try {
      co_await pool->call<int>("echo", 1);
      co_return;
    } catch (const drover::Error&) {  // it was with the killed worker
    }
  }
}

/// Without a spare one, the backoff would be measured.
asio::awaitable<void> kill_and_call(benchmark::State* state, std::size_t spares) {
  drover::PoolOptions options = pool_of(1);
  options.spares = spares;
  options.restart.backoff = options.restart.max_backoff = 0s;
  drover::WorkerPool pool = co_await drover::WorkerPool::start(std::move(options));
  bench::Samples samples(*state);
  for ([[maybe_unused]] auto _ : *state) {
    while (pool.stats().spares < spares) co_await pause(1ms);
    co_await answered(&pool);
    const pid_t worker = pool.workers().front().pid;
    const auto begin = Clock::now();
    ::kill(worker, SIGKILL);
    co_await answered(&pool);
    while (pool.workers().front().pid == worker) co_await answered(&pool);  // it has answered before it died
    samples.add(*state, Clock::now() - begin);
  }
  samples.report(*state);
  co_await pool.stop();
}

// T-23 ----------------------------------------------------------------------------------------------------------------

/// KiB that a process shares with no other one, see proc(5).
double private_memory(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/smaps_rollup");
  double sum = 0;
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("Private_")) sum += std::atof(line.substr(line.find(':') + 1).c_str());
  if (sum == 0) throw bench::Unavailable("/proc/PID/smaps_rollup does not tell the memory of a process");
  return sum;
}

asio::awaitable<void> start_one_more(benchmark::State* state, Launch launch) {
  drover::PoolOptions options = pool_of(1);
  options.launch = launch;
  drover::WorkerPool pool = co_await drover::WorkerPool::start(std::move(options));
  bench::Samples samples(*state);
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    co_await pool.resize(2);
    samples.add(*state, Clock::now() - begin);
    co_await pool.resize(1);
  }
  samples.report(*state);
  co_await pool.call<int>("echo", 1);
  state->counters["private_kib"] = private_memory(pool.workers().front().pid);
  co_await pool.stop();
}

// T-25 ----------------------------------------------------------------------------------------------------------------

struct Load {
  bool stop = false;
  std::size_t failed = 0;
  std::vector<Clock::time_point> ends;
  std::vector<double> latencies;
};

asio::awaitable<void> keep_calling(drover::WorkerPool* pool, std::uint64_t steps, Load* load) {
  while (!load->stop) {
    const auto begin = Clock::now();
    try {
      co_await pool->call<std::uint64_t>("burn", steps);
    } catch (const drover::Error&) {
      ++load->failed;
    }
    load->ends.push_back(Clock::now());
    load->latencies.push_back(bench::microseconds(load->ends.back() - begin));
  }
}

asio::awaitable<void> call_once(drover::WorkerPool* pool, std::uint64_t steps, Clock::time_point due, Load* load) {
  try {
    co_await pool->call<std::uint64_t>("burn", steps);
  } catch (const drover::Error&) {
    ++load->failed;
  }
  load->ends.push_back(Clock::now());
  load->latencies.push_back(bench::microseconds(load->ends.back() - due));
}

/// Calls that arrive at random times, whether earlier ones have ended or not.
asio::awaitable<void> call_at_times(drover::WorkerPool* pool, std::uint64_t steps, double rate, Load* load,
                                    bench::Group* calls) {
  std::mt19937_64 random(7);
  std::exponential_distribution<double> gap(rate);
  asio::steady_timer timer(co_await asio::this_coro::executor);
  for (auto due = Clock::now(); !load->stop;) {
    due += std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(gap(random)));
    if (due > Clock::now()) {
      timer.expires_at(due);
      co_await timer.async_wait(asio::use_awaitable);
    }
    calls->spawn(call_once(pool, steps, due, load));
  }
}

/// For how long the load is measured before the reload: 3 s, or less in a quick run.
Clock::duration seconds_before() {
  const char* text = std::getenv("DROVER_BENCH_SECONDS");
  return std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(6 * (text != nullptr ? std::atof(text) : 0.5)));
}

/// 64, or DROVER_BENCH_WORKERS if that is less.
std::size_t workers_to_reload() {
  const char* text = std::getenv("DROVER_BENCH_WORKERS");
  return text != nullptr ? std::min<std::size_t>(std::strtoull(text, nullptr, 10) / 4, 64) : 64;
}

double percentile(std::vector<double>& values, double part) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1))];
}

/// Calls a second in the window of 50 ms with the fewest, and in all.
std::pair<double, double> rates(const Load& load, Clock::time_point begin, Clock::time_point end) {
  constexpr auto window = 50ms;
  const auto count = static_cast<std::size_t>((end - begin) / window);
  std::vector<std::size_t> windows(std::max<std::size_t>(count, 1));
  std::size_t all = 0;
  for (const auto at : load.ends) {
    if (at < begin || at >= end) continue;
    ++all;
    windows[std::min(static_cast<std::size_t>((at - begin) / window), windows.size() - 1)]++;
  }
  const double fewest = static_cast<double>(*std::min_element(windows.begin(), windows.end()));
  return {count == 0 ? static_cast<double>(all) / bench::seconds(end - begin) : fewest / bench::seconds(window),
          static_cast<double>(all) / bench::seconds(end - begin)};
}

/// `part` of what the pool can do, or as much as it can if that is 1.
asio::awaitable<void> measure_reload(benchmark::State* state, drover::WorkerPool* pool, double part, double capacity,
                                     const std::string& name, double* measured) {
  const auto executor = co_await asio::this_coro::executor;
  const std::uint64_t steps = bench::one_millisecond() / 2;
  double before = 0, before_fewest = 0, before_p99 = 0;
  for (const bool reloads : {false, true}) {
    Load load;
    bench::Group calls(executor);
    if (part < 1)
      calls.spawn(call_at_times(pool, steps, part * capacity, &load, &calls));
    else
      for (int i = 0; i < 64; ++i) calls.spawn(keep_calling(pool, steps, &load));
    co_await pause(200ms);
    load.latencies.clear();
    const auto begin = Clock::now();
    if (reloads)
      co_await pool->reload();
    else
      co_await pause(seconds_before());
    const auto end = Clock::now();
    load.stop = true;
    co_await calls.wait();
    const auto [fewest, all] = rates(load, begin, end);
    const double p99 = percentile(load.latencies, 0.99);
    if (!reloads) {
      before = all;
      before_fewest = fewest;
      before_p99 = p99;
      *measured = all;
      continue;
    }
    state->counters[name + "_rate"] = all;
    state->counters[name + "_rate_before"] = before;
    state->counters[name + "_fewest"] = fewest;
    state->counters[name + "_fewest_before"] = before_fewest;
    state->counters[name + "_p99_us"] = p99;
    state->counters[name + "_p99_before_us"] = before_p99;
    state->counters[name + "_ms"] = bench::microseconds(end - begin) / 1000;
    state->counters[name + "_lost"] = static_cast<double>(load.failed);
  }
}

asio::awaitable<void> reload_under_load(benchmark::State* state, Launch launch) {
  drover::PoolOptions options = pool_of(workers_to_reload());
  options.launch = launch;
  drover::WorkerPool pool = co_await drover::WorkerPool::start(std::move(options));
  for ([[maybe_unused]] auto _ : *state) {
    const auto begin = Clock::now();
    double capacity = 0, unused = 0;
    co_await measure_reload(state, &pool, 1, 0, "full", &capacity);
    co_await measure_reload(state, &pool, 0.5, capacity, "half", &unused);
    state->SetIterationTime(bench::seconds(Clock::now() - begin));
  }
  co_await pool.stop();
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add("burn", bench::burn).add("echo", [](int number) { return number; });
  if (bench::in_worker()) return drover::serve(routines);

  bench::add_coroutine("T-22/raw", 200, Placement::anywhere, start_and_call);
  bench::add_coroutine("T-22/drover", 200, Placement::anywhere, kill_and_call, std::size_t{1});
  bench::add_coroutine("T-22/no-spare", 200, Placement::anywhere, kill_and_call, std::size_t{0});
  bench::add_coroutine("T-23/raw", 200, Placement::anywhere, start_one_more, Launch::exec);
  bench::add_coroutine("T-23/drover", 200, Placement::anywhere, start_one_more, Launch::fork);
  bench::add_coroutine("T-25/exec", 1, Placement::anywhere, reload_under_load, Launch::exec);
  bench::add_coroutine("T-25/fork", 1, Placement::anywhere, reload_under_load, Launch::fork);
  return bench::run(argc, argv);
}
