// The keys of a pool are spread over shards. For the program that makes no difference.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <gtest/gtest.h>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>

#include <drover/detail/resource_pool/impl.hpp>
#include <drover/detail/resource_pool/shards.hpp>
#include <drover/detail/resource_pool/spin_mutex.hpp>

#include "support/resource_pool_driver.hpp"
#include "support/resource_pool_run.hpp"

namespace {

using namespace std::chrono_literals;
using drover::detail::resource_pool::Rules;
using drover::detail::resource_pool::Shards;
using drover::detail::resource_pool::SpinMutex;
using pool_model::FakeTime;
using pool_test::Ending;
using pool_test::Gate;
using pool_test::make_gate;
using pool_test::pass;
using pool_test::run;

constexpr std::size_t shards = 8;
constexpr int keys = 100;

/// A pool with several shards on a fake clock.
struct Sharded {
  using Impl = drover::detail::resource_pool::Impl<int, int, std::hash<int>, std::equal_to<int>, FakeTime>;
  struct Lease {
    Lease() = default;
    explicit Lease(Impl::Reference r) : reference(std::move(r)) {}
    Impl::Reference reference;
  };

  Sharded() {
    FakeTime::current = {};
    auto factory = [](int key) { return key; };
    Impl::Callbacks callbacks;
    callbacks.factory =
        std::make_unique<drover::detail::resource_pool::TypedFactory<int, int, decltype(factory)>>(factory);
    callbacks.finalizer = [this](int& value) -> asio::awaitable<void> {
      finalized.push_back(value);
      if (value == slow) co_await pass(gate);
    };
    impl = std::make_shared<Impl>(context.get_executor(), Rules{1s, std::nullopt, false, shards}, std::move(callbacks));
  }
  Sharded(const Sharded&) = delete;
  Sharded& operator=(const Sharded&) = delete;
  ~Sharded() { impl->close(); }

  /// Each key becomes idle one millisecond after the one before.
  void make_idle() {
    run(context, [&]() -> asio::awaitable<void> {
      for (const int key : order) {
        FakeTime::current += 1ms;
        const auto lease = co_await impl->acquire<Lease>(key);
      }
    });
  }
  void turn() {
    context.restart();
    context.poll();
  }

  static std::vector<int> permutation() {
    std::vector<int> numbers;
    for (int i = 0; i < keys; ++i) numbers.push_back(i * 37 % keys);
    return numbers;
  }

  const std::vector<int> order = permutation();
  std::vector<int> finalized;
  int slow = -1;
  Gate gate = make_gate();
  asio::io_context context;
  std::shared_ptr<Impl> impl;
};

struct Shard {
  Shard() noexcept = default;
  int hashes = 0;
};

TEST(ResourcePoolShards, EachGetsItsPartOfTheHashes) {
  for (const unsigned shift : {0u, 4u, 16u, 32u, 48u}) {
    const Shards<Shard> all(shards);
    constexpr int count = 4096;
    for (std::uint64_t i = 0; i < count; ++i) ++all.of(static_cast<std::size_t>(i << shift)).hashes;
    for (const Shard& shard : all) {
      EXPECT_GT(shard.hashes, count / static_cast<int>(shards) / 2) << shift;
      EXPECT_LT(shard.hashes, count / static_cast<int>(shards) * 2) << shift;
    }
  }
}

TEST(ResourcePoolShards, ListIdleKeysInTheOrderOfTheirExpiry) {
  Sharded pool;
  pool.make_idle();
  EXPECT_EQ(pool.impl->pending(), pool.order);
  EXPECT_EQ(pool.impl->counts().pending, static_cast<std::size_t>(keys));
}

// More than a shard lists at once.
TEST(ResourcePoolShards, ListManyKeysInPieces) {
  constexpr int many = 20'000;
  Sharded pool;
  std::vector<int> idle;
  Sharded::Lease discarded;
  run(pool.context, [&]() -> asio::awaitable<void> {
    for (int key = 0; key < many; ++key) {
      FakeTime::current += 1us;
      const auto lease = co_await pool.impl->acquire<Sharded::Lease>(key);
    }
    discarded = co_await pool.impl->acquire<Sharded::Lease>(7);
    for (int key = 0; key < many; ++key)
      if (key != 7 && key != 8) idle.push_back(key);
  });
  pool.slow = 8;
  asio::co_spawn(pool.context, pool.impl->expire(8), asio::detached);
  pool.turn();
  auto with_8 = idle;
  with_8.insert(with_8.begin(), 8);
  EXPECT_EQ(pool.impl->pending(), with_8);

  pool.slow = 7;
  auto* const entry = discarded.reference.take();
  entry->owner().discard(*entry);
  entry->owner().release(*entry);
  pool.turn();
  EXPECT_EQ(pool.impl->pending().size(), idle.size() + 2) << "the discarded one is being finalized";

  (void)pool.impl->clear();
  auto cleared = pool.impl->pending();
  EXPECT_EQ(cleared.size(), pool.impl->counts().pending);
  std::sort(cleared.begin(), cleared.end());
  EXPECT_EQ(std::adjacent_find(cleared.begin(), cleared.end()), cleared.end()) << "a key is listed twice";
  pool.gate->set();
  pool.turn();
  EXPECT_TRUE(pool.impl->pending().empty());
}

TEST(ResourcePoolShards, ExpireInOrderIfManyAreDue) {
  Sharded pool;
  pool.make_idle();
  FakeTime::current += 1s;
  ASSERT_TRUE(FakeTime::Timer::only->fire_if_due());
  pool.turn();
  EXPECT_EQ(pool.finalized, pool.order);
  EXPECT_EQ(pool.impl->counts().total, 0u);
}

TEST(ResourcePoolShards, ShareOneTimer) {
  Sharded pool;
  pool.make_idle();
  FakeTime::current = pool_model::Time{} + 1s;
  for (int expired = 1; expired <= keys; ++expired) {
    ASSERT_FALSE(FakeTime::Timer::only->fire_if_due());
    FakeTime::current += 1ms;
    ASSERT_TRUE(FakeTime::Timer::only->fire_if_due()) << expired;
    pool.turn();
    ASSERT_EQ(pool.finalized.size(), static_cast<std::size_t>(expired));
  }
  EXPECT_EQ(pool.finalized, pool.order);
}

TEST(ResourcePoolShards, AreAllClearedAndWaitedFor) {
  for (const int slow : {0, 17, 50, 99}) {
    Ending clearing;
    Sharded pool;
    pool.slow = slow;
    pool.make_idle();
    asio::co_spawn(pool.context, pool.impl->clear(), clearing.handler());
    pool.turn();
    EXPECT_FALSE(clearing.ended);
    EXPECT_EQ(pool.finalized.size(), static_cast<std::size_t>(keys));
    EXPECT_EQ(pool.impl->pending(), std::vector{slow});
    pool.gate->set();
    pool.turn();
    EXPECT_TRUE(clearing.ended);
  }
}

TEST(SpinMutex, ExcludesOtherThreads) {
  SpinMutex mutex;
  int counter = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int n = 0; n < 50'000; ++n) {
        const std::lock_guard held(mutex);
        ++counter;
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(counter, 200'000);
  EXPECT_TRUE(mutex.try_lock());
  EXPECT_FALSE(mutex.try_lock());
  mutex.unlock();
}

// The owner holds the lock for so long that the others stop spinning.
TEST(SpinMutex, LetsInThreadsThatSleep) {
  for (int round = 0; round < 20; ++round) {
    SpinMutex mutex;
    std::atomic<int> about_to = 0, done = 0;
    std::vector<std::thread> threads;
    {
      const std::lock_guard held(mutex);
      for (int i = 0; i < 3; ++i)
        threads.emplace_back([&] {
          ++about_to;
          const std::lock_guard held_too(mutex);
          ++done;
        });
      while (about_to < 3) std::this_thread::yield();
      for (int i = 0; i < 1'000; ++i) std::this_thread::yield();
      EXPECT_EQ(done, 0);
    }
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(done, 3);
  }
}

}  // namespace
