// T-12: what the size of a ResourcePool changes, from 1000 keys to ten million: the cost of an operation, and the
// longest time that one of them takes while the pool grows, while its keys expire, and while they are cleared.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>

#include <drover/resource_pool.hpp>

#include "support/bench.hpp"
#include "support/longest.hpp"

namespace {

using namespace std::chrono_literals;
using Pool = drover::ResourcePool<std::uint64_t, std::uint64_t>;

constexpr std::uint64_t operations = 200'000;  // at least so many are timed together

/// The sizes above DROVER_BENCH_KEYS are measured with so many keys.
std::uint64_t at_most(std::uint64_t size) {
  const char* text = std::getenv("DROVER_BENCH_KEYS");
  return text == nullptr ? size : std::min<std::uint64_t>(size, std::strtoull(text, nullptr, 10));
}

/// The keys, each once: the hash of an integer is the integer, so consecutive ones would lie side by side in a table.
std::uint64_t key(std::uint64_t index) { return index * 0x9e3779b97f4a7c15u; }

/// One of the first `size` keys. Consecutive steps are far apart.
std::uint64_t any_key(std::uint64_t step, std::uint64_t size) { return key((step * 0x2545f4914f6cdd1du >> 20) % size); }

/// Runs a coroutine on the context, and all that it leaves behind.
void run(asio::io_context& context, asio::awaitable<void> body) {
  std::exception_ptr failure;
  asio::co_spawn(context, std::move(body), [&](std::exception_ptr error) { failure = error; });
  context.restart();
  context.run();
  if (failure) std::rethrow_exception(failure);
}

/// The same, until `done`. Returns the CPU time of the longest handler in microseconds.
template <class Done>
double longest_handler(asio::io_context& context, Done done) {
  const auto work = asio::make_work_guard(context);  // the pool's timer is none
  double longest = 0;
  context.restart();
  const auto give_up = bench::Clock::now() + 5min;
  while (!done()) {
    const double begin = bench::thread_cpu();
    if (context.poll_one() > 0) longest = std::max(longest, bench::thread_cpu() - begin);
    if (bench::Clock::now() > give_up) throw std::runtime_error("keys are left after five minutes");
  }
  return longest;
}

class Growth {
 public:
  Growth(benchmark::State& state, std::uint64_t size) : state_(state), size_(size) {}

  /// Nanoseconds for each of so many operations that have run since `begin`.
  void report(const char* counter, double begin, std::uint64_t count) {
    state_.counters[counter] = (bench::thread_cpu() - begin) * 1000 / static_cast<double>(count);
  }

  /// The costs of operations. The pool grows from a tenth of its size to its size, as often as the clock needs.
  void measure_costs() {
    const std::uint64_t first = size_ / 10, times = std::max<std::uint64_t>(1, operations / size_);
    double growing = 0;
    for (std::uint64_t i = 0; i < times; ++i) {
      asio::io_context context;
      Pool pool(context.get_executor(), [](const std::uint64_t& k) { return k; }, Pool::Options{.ttl = 1h});
      run(context, acquire_new(&pool, 0, first));
      const double begin = bench::thread_cpu();
      run(context, acquire_new(&pool, first, size_));
      growing += bench::thread_cpu() - begin;
      if (i + 1 < times) continue;
      if (pool.stats().pending_cleanup != size_) throw std::runtime_error("not all keys are idle");
      run(context, measure_keys(&pool));
      state_.counters["longest_clear_us"] = clear(context, pool);
    }
    state_.counters["grow_ns"] = growing * 1000 / static_cast<double>((size_ - first) * times);
  }

  /// The longest operation while the pool grows, and while all keys expire at the same time. Of two runs the shorter
  /// times count.
  void measure_longest() {
    bench::OperationTimes first(size_), second(size_);
    const double expiry = std::min(grow_and_expire(&first), grow_and_expire(&second));
    state_.counters["longest_acquire_us"] = first.longest(second);
    state_.counters["longest_expire_us"] = expiry;
  }

 private:
  static asio::awaitable<void> acquire_new(Pool* pool, std::uint64_t from, std::uint64_t to) {
    for (; from < to; ++from) co_await pool->acquire(key(from));  // released at once
  }

  /// The longest handler while the keys expire.
  double grow_and_expire(bench::OperationTimes* acquires) {
    asio::io_context context;
    Pool pool(context.get_executor(), [](const std::uint64_t& k) { return k; }, Pool::Options{.ttl = 1ms});
    std::vector<Pool::Lease> leases;
    leases.reserve(size_);
    run(context, acquire_and_keep(&pool, &leases, acquires));
    leases.clear();
    return longest_handler(context, [&] { return pool.stats().total_entries == 0; });
  }

  asio::awaitable<void> acquire_and_keep(Pool* pool, std::vector<Pool::Lease>* leases, bench::OperationTimes* each) {
    for (std::uint64_t i = 0; i < size_; ++i) {
      each->begin();
      Pool::Lease lease = co_await pool->acquire(key(i));
      each->end();
      leases->push_back(std::move(lease));
    }
  }

  asio::awaitable<void> measure_keys(Pool* pool) {
    const std::uint64_t hot = key(size_ / 2);
    double begin = bench::thread_cpu();
    for (std::uint64_t i = 0; i < operations; ++i) co_await pool->acquire(hot);
    report("idle_ns", begin, operations);
    {
      const Pool::Lease held = co_await pool->acquire(hot);
      begin = bench::thread_cpu();
      for (std::uint64_t i = 0; i < operations; ++i) co_await pool->acquire(hot);
      report("held_ns", begin, operations);
    }
    begin = bench::thread_cpu();
    for (std::uint64_t i = 0; i < operations; ++i) co_await pool->acquire(any_key(i, size_));
    report("any_ns", begin, operations);
  }

  /// Clears all keys. The longest handler in microseconds, the call of clear() included.
  static double clear(asio::io_context& context, Pool& pool) {
    bool cleared = false;
    const auto all = [](Pool* from) -> asio::awaitable<void> { co_await from->clear(); };
    asio::co_spawn(context, all(&pool), [&](std::exception_ptr) { cleared = true; });
    return longest_handler(context, [&] { return cleared && pool.stats().total_entries == 0; });
  }

  benchmark::State& state_;
  std::uint64_t size_;
};

void grow(benchmark::State& state, std::uint64_t given) {
  const std::uint64_t size = at_most(given);
  for ([[maybe_unused]] auto _ : state) {
    const auto begin = bench::Clock::now();
    Growth growth(state, size);
    growth.measure_longest();  // first: with the memory of earlier pools, malloc(3) at times tidies up for long
    growth.measure_costs();
    state.SetIterationTime(bench::seconds(bench::Clock::now() - begin));
  }
  state.counters["size"] = static_cast<double>(size);
}

/// For comparison: a lock, and a std::unordered_map that rehashes all at once when it is full.
void grow_map(benchmark::State& state, std::uint64_t given) {
  const std::uint64_t size = at_most(given), first = size / 10;
  for ([[maybe_unused]] auto _ : state) {
    const auto begin = bench::Clock::now();
    std::mutex mutex;
    using Map = std::unordered_map<std::uint64_t, std::uint64_t>;
    auto map = std::make_unique<Map>();
    const auto emplace = [&](std::uint64_t i) {
      const std::lock_guard held(mutex);
      map->emplace(key(i), i);
    };
    for (std::uint64_t i = 0; i < first; ++i) emplace(i);
    double cpu = bench::thread_cpu();
    for (std::uint64_t i = first; i < size; ++i) emplace(i);
    state.counters["grow_ns"] = (bench::thread_cpu() - cpu) * 1000 / static_cast<double>(size - first);
    cpu = bench::thread_cpu();
    for (std::uint64_t i = 0; i < operations; ++i) {
      const std::lock_guard held(mutex);
      benchmark::DoNotOptimize(map->find(any_key(i, size)));
    }
    state.counters["any_ns"] = (bench::thread_cpu() - cpu) * 1000 / operations;
    bench::OperationTimes times[2] = {bench::OperationTimes(size), bench::OperationTimes(size)};
    for (auto& emplaces : times) {
      map = std::make_unique<Map>();
      for (std::uint64_t i = 0; i < size; ++i) {
        emplaces.begin();
        emplace(i);
        emplaces.end();
      }
    }
    state.counters["longest_acquire_us"] = times[0].longest(times[1]);
    state.SetIterationTime(bench::seconds(bench::Clock::now() - begin));
  }
  state.counters["size"] = static_cast<double>(size);
}

}  // namespace

int main(int argc, char** argv) {
  // The C library skips its locks until the program has created a thread. A server has threads.
  std::thread([] {}).join();
  for (std::uint64_t size = 1000; size <= 10'000'000; size *= 10) {
    bench::add("T-12/pool/" + std::to_string(size), 1, grow, size);
    bench::add("T-12/map/" + std::to_string(size), 1, grow_map, size);
  }
  return bench::run(argc, argv);
}
