// T-11 and T-12: the cost of acquiring and releasing a key, beside that of a lock and a look-up, and that of a timer
// for each key.
//
//   bench_resource_pool --benchmark_enable_random_interleaving=true --benchmark_repetitions=9
//
// The argument is the number of keys. "hot" takes the same key each time, "any" all keys in random order. A "pair" is
// the least that counting references takes: lock, look up, count; then lock, count.

#include <algorithm>
#include <benchmark/benchmark.h>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>

#include <drover/resource_pool.hpp>

#include "support/bench.hpp"

namespace {

using namespace std::chrono_literals;
using Pool = drover::ResourcePool<std::string, int>;

/// The keys, in random order.
const std::vector<std::string>& keys_of(std::size_t count) {
  static std::map<std::size_t, std::vector<std::string>> all;
  auto& keys = all[count];
  if (keys.empty()) {
    for (std::size_t i = 0; i < count; ++i) keys.push_back("key-" + std::to_string(i));
    std::shuffle(keys.begin(), keys.end(), std::mt19937(1));
  }
  return keys;
}

enum class Order { hot, any };

/// Chooses the next key.
class Walk {
 public:
  Walk(const benchmark::State& state, Order order)
      : keys_(keys_of(static_cast<std::size_t>(state.range(0)))),
        at_(keys_.size() * static_cast<std::size_t>(state.thread_index()) / static_cast<std::size_t>(state.threads())),
        step_(order == Order::any ? 1 : 0) {}

  const std::string& next() {
    at_ += step_;
    if (at_ >= keys_.size()) at_ = 0;
    return keys_[at_];
  }

 private:
  const std::vector<std::string>& keys_;
  std::size_t at_, step_;
};

// Baselines -----------------------------------------------------------------------------------------------------------

struct Entry {
  int value = 0;
  std::size_t refs = 0;
  std::unique_ptr<asio::steady_timer> timer;
};

struct Raw {
  explicit Raw(std::size_t count) {
    for (const auto& key : keys_of(count)) entries[key];
  }
  std::mutex mutex;
  std::unordered_map<std::string, Entry> entries;
};

Raw& raw_of(const benchmark::State& state) {
  static std::map<std::int64_t, std::unique_ptr<Raw>> all;
  auto& raw = all[state.range(0)];
  if (!raw) raw = std::make_unique<Raw>(static_cast<std::size_t>(state.range(0)));
  return *raw;
}

void prepare_raw(const benchmark::State& state) { raw_of(state); }

void raw_lookup(benchmark::State& state, Order order) {
  Raw& raw = raw_of(state);
  Walk walk(state, order);
  for (auto _ : state) {
    const std::lock_guard held(raw.mutex);
    benchmark::DoNotOptimize(raw.entries.find(walk.next()));
  }
}

void raw_pair(benchmark::State& state, Order order) {
  Raw& raw = raw_of(state);
  Walk walk(state, order);
  for (auto _ : state) {
    Entry* entry = nullptr;
    {
      const std::lock_guard held(raw.mutex);
      entry = &raw.entries.find(walk.next())->second;
      ++entry->refs;
    }
    benchmark::DoNotOptimize(entry);
    const std::lock_guard held(raw.mutex);
    --entry->refs;
  }
}

/// Each key has a timer: the release arms it, the acquire cancels it.
void timer_per_key(benchmark::State& state, Order order) {
  asio::io_context context;
  Raw raw(static_cast<std::size_t>(state.range(0)));
  for (auto& [key, entry] : raw.entries) {
    entry.timer = std::make_unique<asio::steady_timer>(context, 1h);
    entry.timer->async_wait([](std::error_code) {});
  }
  Walk walk(state, order);
  std::size_t left = 0;
  for (auto _ : state) {
    Entry* entry = nullptr;
    {
      const std::lock_guard held(raw.mutex);
      entry = &raw.entries.find(walk.next())->second;
      if (entry->refs++ == 0) entry->timer->cancel();
    }
    benchmark::DoNotOptimize(entry);
    {
      const std::lock_guard held(raw.mutex);
      if (--entry->refs == 0) {
        entry->timer->expires_after(1h);
        entry->timer->async_wait([](std::error_code) {});
      }
    }
    if (++left % 64 == 0) context.poll();  // completes the cancelled waits, which is part of the cost
  }
}

// The pool ------------------------------------------------------------------------------------------------------------

/// A pool in which all keys have a value, leased or idle.
struct Ready {
  Ready(std::size_t count, bool leased)
      : pool(context.get_executor(), [](const std::string& key) { return static_cast<int>(key.size()); }, {.ttl = 1h}) {
    auto fill = [&]() -> asio::awaitable<void> {
      for (const auto& key : keys_of(count)) {
        auto lease = co_await pool.acquire(std::string_view(key));
        if (leased) leases.push_back(std::move(lease));
      }
    };
    asio::co_spawn(context, fill(), [](std::exception_ptr error) {
      if (error) std::rethrow_exception(error);
    });
    context.run();
  }

  asio::io_context context;
  Pool pool;
  std::vector<Pool::Lease> leases;
};

template <bool leased>
Ready& ready_of(const benchmark::State& state) {
  static std::map<std::int64_t, std::unique_ptr<Ready>> all;
  auto& ready = all[state.range(0)];
  if (!ready) ready = std::make_unique<Ready>(static_cast<std::size_t>(state.range(0)), leased);
  return *ready;
}

template <bool leased>
void prepare(const benchmark::State& state) {
  ready_of<leased>(state);
}

template <bool leased>
void try_acquire(benchmark::State& state, Order order) {
  Pool& pool = ready_of<leased>(state).pool;
  Walk walk(state, order);
  for (auto _ : state) {
    auto lease = pool.try_acquire(walk.next());
    benchmark::DoNotOptimize(lease);
  }
}

/// The cost of an awaitable that does nothing. acquire() and release() return one each.
asio::awaitable<void> nothing() { co_return; }
asio::awaitable<void> await_nothing(benchmark::State& state) {
  for (auto _ : state) co_await nothing();
}
void raw_await(benchmark::State& state) {
  asio::io_context context;
  asio::co_spawn(context, await_nothing(state), asio::detached);
  context.run();
}

asio::awaitable<void> acquire_and_drop(benchmark::State& state, Pool& pool, Walk walk) {
  for (auto _ : state) {
    auto lease = co_await pool.acquire(std::string_view(walk.next()));
    benchmark::DoNotOptimize(lease);
  }
}

asio::awaitable<void> acquire_and_release(benchmark::State& state, Pool& pool, Walk walk) {
  for (auto _ : state) {
    auto lease = co_await pool.acquire(std::string_view(walk.next()));
    benchmark::DoNotOptimize(lease);
    co_await lease.release();
  }
}

/// Runs body() as a coroutine. Each thread has a context of its own.
template <bool leased>
void in_coroutine(benchmark::State& state, Order order, asio::awaitable<void> (*body)(benchmark::State&, Pool&, Walk)) {
  asio::io_context context;
  asio::co_spawn(context, body(state, ready_of<leased>(state).pool, Walk(state, order)), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
  context.run();
}

void sizes(benchmark::internal::Benchmark* benchmark) { benchmark->Arg(1)->Arg(1'000)->Arg(1'000'000)->UseRealTime(); }
void sizes_and_threads(benchmark::internal::Benchmark* benchmark) {
  sizes(benchmark);
  benchmark->Threads(1)->Threads(2)->Threads(4);
}

template <class Run>
auto* add(const std::string& name, Order order, Run run) {
  const std::string full_name = name + (order == Order::hot ? "/hot" : "/any");
  return benchmark::RegisterBenchmark(full_name.c_str(), [=](benchmark::State& state) { run(state, order); });
}

void add_baselines(Order order) {
  add("raw_lock_lookup", order, raw_lookup)->Setup(prepare_raw)->Apply(sizes_and_threads);
  add("raw_pair", order, raw_pair)->Setup(prepare_raw)->Apply(sizes_and_threads);
  add("steady_timer_per_key/idle", order, timer_per_key)->Apply(sizes);
}

/// The keys are leased ("held") or idle.
template <bool leased>
void add_pool(Order order) {
  const std::string state_of_keys = leased ? "/held" : "/idle";
  const auto add_one = [&](const std::string& name, auto run) {
    add(name + state_of_keys, order, run)->Setup(prepare<leased>)->Apply(sizes_and_threads);
  };
  add_one("try_acquire_drop", try_acquire<leased>);
  add_one("acquire_drop",
          [](benchmark::State& state, Order keys) { in_coroutine<leased>(state, keys, acquire_and_drop); });
  add_one("acquire_release",
          [](benchmark::State& state, Order keys) { in_coroutine<leased>(state, keys, acquire_and_release); });
}

}  // namespace

int main(int argc, char** argv) {
  // The C library skips its locks until the program has created a thread. A server has threads.
  std::thread([] {}).join();
  benchmark::RegisterBenchmark("raw_await", raw_await);
  for (const Order order : {Order::hot, Order::any}) {
    add_baselines(order);
    add_pool<true>(order);
    add_pool<false>(order);
  }
  return bench::run(argc, argv);
}
