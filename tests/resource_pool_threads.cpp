// Any thread may call any member. Run these tests with TSan as well.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/strand.hpp>
#include <asio/system_error.hpp>
#include <asio/thread_pool.hpp>

#include <drover/resource_pool.hpp>

#include "support/resource_pool_run.hpp"

namespace {

using namespace std::chrono_literals;

constexpr int most_keys = 400;

/// Checks for what must never happen: two live values of one key, a value finalized twice, a finalized value leased.
struct Resource {
  Resource(int k, std::atomic<int>* a) : key(k), alive(a) { EXPECT_EQ(alive[key].fetch_add(1), 0); }
  Resource(const Resource&) = delete;
  Resource& operator=(const Resource&) = delete;
  ~Resource() {
    if (!finalized) alive[key].fetch_sub(1);
  }

  void finalize() {
    EXPECT_FALSE(finalized.exchange(true));
    alive[key].fetch_sub(1);
  }

  const int key;
  std::atomic<int>* const alive;
  std::atomic<bool> finalized{false};
};
using Pool = drover::ResourcePool<int, Resource>;

/// A context for each thread.
class Threads {
 public:
  explicit Threads(int count) {
    for (int i = 0; i < count; ++i) {
      auto& context = *contexts_.emplace_back(std::make_unique<asio::io_context>(1));
      work_.push_back(asio::make_work_guard(context));
      threads_.emplace_back([&context] { context.run(); });
    }
  }
  ~Threads() { join(); }

  asio::io_context& context(std::size_t i) { return *contexts_[i]; }
  void join() {
    work_.clear();
    for (auto& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  std::vector<std::unique_ptr<asio::io_context>> contexts_;
  std::vector<asio::executor_work_guard<asio::io_context::executor_type>> work_;
  std::vector<std::thread> threads_;
};

struct Storm {
  explicit Storm(int k) : keys(k) {}

  const int keys;
  std::atomic<int> alive[most_keys] = {};
  std::atomic<int> made{0}, finalized{0}, failures{0};

  std::unique_ptr<Resource> make(int key) {
    if (made.fetch_add(1) % 16 == 15) throw std::runtime_error("no");
    return std::make_unique<Resource>(key, alive);
  }
  asio::awaitable<void> finalize(Resource& resource) {
    co_await asio::post(co_await asio::this_coro::executor, asio::use_awaitable);
    resource.finalize();
    if (finalized.fetch_add(1) % 16 == 15) throw 1;
  }

  asio::awaitable<void> caller(Pool& pool, unsigned seed, int steps, bool clears) {
    std::mt19937 random(seed);
    std::vector<Pool::Lease> leases;
    for (int i = 0; i < steps; ++i) {
      const int key = static_cast<int>(random() % static_cast<unsigned>(keys));
      std::optional<Pool::Lease> tried;
      bool failed = false;
      switch (random() % (clears ? 10 : 8)) {
        case 0:
        case 1:
        case 2:
          try {
            auto lease = co_await pool.acquire(key);
            EXPECT_TRUE(clears || !lease->finalized) << "a finalized value was handed out";
            leases.push_back(std::move(lease));
          } catch (const std::runtime_error&) {
            failed = true;
          }
          if (failed) failures.fetch_add(1);
          break;
        case 3:
          tried = pool.try_acquire(key);
          EXPECT_TRUE(clears || !tried || !(*tried)->finalized);
          break;
        case 4:
        case 5:
          if (leases.empty()) break;
          co_await leases.back().release();
          leases.pop_back();
          break;
        case 6: leases.clear(); break;
        case 7: co_await pool.expire(key); break;
        case 8: try { co_await pool.clear(key);
          } catch (const std::out_of_range&) {
            failed = true;
          }
          break;
        case 9: co_await pool.clear(); break;
      }
      if (i % 8 == 0) {
        const auto stats = pool.stats();
        EXPECT_LE(stats.referenced_entries + stats.pending_cleanup, stats.total_entries);
        EXPECT_LE(pool.pending_cleanup().size(), static_cast<std::size_t>(keys));
      }
    }
  }
};

// Values expire within microseconds, so that expiry races with everything else.
void storm(asio::any_io_executor executor, drover::Duration ttl, bool clears, int keys = 4) {
  Storm storm(keys);
  {
    Pool pool(executor,
              [&](int key) -> asio::awaitable<std::unique_ptr<Resource>> {
                co_await asio::post(co_await asio::this_coro::executor, asio::use_awaitable);
                co_return storm.make(key);
              },
              {.ttl = ttl, .finalizer = [&](Resource& r) { return storm.finalize(r); }});
    {
      Threads threads(4);
      std::atomic<int> ended = 0;
      for (unsigned i = 0; i < 8; ++i)
        asio::co_spawn(threads.context(i % 4), storm.caller(pool, i, 400, clears), [&](std::exception_ptr error) {
          EXPECT_FALSE(error);
          ++ended;
        });
      threads.join();
      EXPECT_EQ(ended, 8);
    }
    asio::io_context context;
    pool_test::run(context, [&]() -> asio::awaitable<void> { co_await pool.clear(); });
    EXPECT_EQ(pool.stats().total_entries, 0u);
  }
  for (const auto& alive : storm.alive) EXPECT_EQ(alive, 0);
  EXPECT_GT(storm.finalized, 0);
}

TEST(ResourcePoolThreads, StormOnAThreadPoolFinalizesEachValueOnce) {
  asio::thread_pool threads(2);
  for (const drover::Duration ttl : {0us, 50us}) storm(threads.get_executor(), ttl, false);
  threads.join();
}

TEST(ResourcePoolThreads, StormWithClearFinalizesEachValueOnce) {
  asio::thread_pool threads(2);
  for (const drover::Duration ttl : {0us, 50us}) storm(asio::make_strand(threads), ttl, true);
  threads.join();
}

// A clear() leaves most of the keys for later.
TEST(ResourcePoolThreads, StormOverManyKeysFinalizesEachValueOnce) {
  asio::thread_pool threads(2);
  for (const drover::Duration ttl : {0ms, 2ms, 1000ms}) storm(threads.get_executor(), ttl, true, most_keys);
  threads.join();
}

TEST(ResourcePoolThreads, StormFromElsewhereFinalizesEachValueOnce) {
  Threads other(1);
  storm(other.context(0).get_executor(), 50us, true);
}

TEST(ResourcePoolThreads, AcquiresFromFourThreadsShareOneFactoryRun) {
  asio::thread_pool owner(1);
  std::atomic<int> made = 0;
  drover::ResourcePool<int, int> pool(owner.get_executor(), [&](int) { return ++made; }, {.ttl = 1h});
  std::atomic<int> sum = 0;
  {
    Threads threads(4);
    for (std::size_t i = 0; i < 40; ++i)
      asio::co_spawn(
          threads.context(i % 4),
          [](drover::ResourcePool<int, int>& p, std::atomic<int>& s) -> asio::awaitable<void> {
            auto lease = co_await p.acquire(1);
            s += *lease;
          }(pool, sum),
          asio::detached);
  }
  EXPECT_EQ(made, 1);
  EXPECT_EQ(sum, 40);
}

TEST(ResourcePoolThreads, CallerResumesOnItsOwnExecutor) {
  asio::thread_pool owner(1);
  drover::ResourcePool<int, int> pool(owner.get_executor(), [](int key) { return key; }, {.finalizer = [](int&) {}});
  asio::io_context context;
  const auto strand = asio::make_strand(context);
  pool_test::run(context, strand, [&]() -> asio::awaitable<void> {
    auto lease = co_await pool.acquire(1);
    EXPECT_TRUE(strand.running_in_this_thread());
    co_await lease.release();
    EXPECT_TRUE(strand.running_in_this_thread());
  });
}

TEST(ResourcePoolThreads, CancellationMayRaceWithTheFactory) {
  asio::thread_pool owner(1);
  drover::ResourcePool<int, int> pool(owner.get_executor(), [](int key) { return key; });
  for (int round = 0; round < 300; ++round) {
    asio::io_context context;
    asio::cancellation_signal signal;
    bool got = false, ended = false;
    asio::co_spawn(
        context,
        [](drover::ResourcePool<int, int>& p, bool& g) -> asio::awaitable<void> {
          auto lease = co_await p.acquire(1);
          g = true;
        }(pool, got),
        asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr error) {
          ended = true;
          EXPECT_NE(got, error != nullptr);
        }));
    asio::post(context, [&] { signal.emit(asio::cancellation_type::terminal); });
    context.run();
    EXPECT_TRUE(ended);
  }
  owner.join();
  EXPECT_EQ(pool.stats().total_entries, 0u);
}

TEST(ResourcePoolThreads, PoolAndContextMayBeDestroyedAtOnce) {
  for (int round = 0; round < 200; ++round) {
    auto threads = std::make_unique<asio::thread_pool>(1);
    auto executor = asio::any_io_executor(asio::make_strand(*threads));
    auto pool = std::make_unique<drover::ResourcePool<int, int>>(
        executor, [](int key) { return key; },
        drover::ResourcePool<int, int>::Options{.ttl = 10us, .finalizer = [](int&) {}});
    executor = {};
    asio::io_context context;
    pool_test::run(context, [&]() -> asio::awaitable<void> {
      for (int key = 0; key < 3; ++key) auto lease = co_await pool->acquire(key);
    });
    std::thread other([&] { threads.reset(); });
    pool.reset();
    other.join();
  }
}

}  // namespace
