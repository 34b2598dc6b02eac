// A discarded value is not leased again.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/thread_pool.hpp>

#include <drover/resource_pool.hpp>

#include "support/resource_pool_fixture.hpp"
#include "support/resource_pool_run.hpp"

namespace {

using namespace std::chrono_literals;
using pool_test::acquire_into;
using pool_test::breathe;
using pool_test::Ending;
using pool_test::Gate;
using pool_test::make_gate;
using pool_test::NumberedPool;
using pool_test::pass;
using pool_test::run;
using Pool = drover::ResourcePool<int, int>;
using Kind = Pool::Event::Kind;

TEST(ResourcePoolDiscard, NextAcquireCreatesANewValue) {
  NumberedPool n(1h);
  run(n.context, [&]() -> asio::awaitable<void> {
    auto broken = co_await n.pool.acquire(1);
    broken.discard();
    EXPECT_FALSE(n.pool.try_acquire(1));
    auto fresh = co_await n.pool.acquire(1);
    EXPECT_EQ(*fresh, 2);
    EXPECT_EQ(*broken, 1);  // still leased
    EXPECT_TRUE(n.finalized.empty());
    co_await broken.release();
    EXPECT_EQ(n.finalized, std::vector{1});
    EXPECT_EQ(*fresh, 2);
    co_await fresh.release();
    EXPECT_EQ(n.finalized, std::vector{1});  // the new value is kept
    auto again = n.pool.try_acquire(1);
    EXPECT_TRUE(again);
  });
}

TEST(ResourcePoolDiscard, NewValueDoesNotWaitForOtherLeases) {
  NumberedPool n(1h);
  run(n.context, [&]() -> asio::awaitable<void> {
    auto first = co_await n.pool.acquire(1);
    auto second = co_await n.pool.acquire(1);
    first.discard();
    co_await first.release();
    EXPECT_TRUE(n.finalized.empty());
    auto fresh = co_await n.pool.acquire(1);
    EXPECT_EQ(*fresh, 2);
    EXPECT_EQ(*second, 1);
    co_await second.release();
    EXPECT_EQ(n.finalized, std::vector{1});
  });
}

TEST(ResourcePoolDiscard, NewValueDoesNotWaitForTheFinalizer) {
  NumberedPool n(1h);
  n.slow = 1;
  run(n.context, [&]() -> asio::awaitable<void> {
    auto broken = co_await n.pool.acquire(1);
    broken.discard();
    Ending released;
    asio::co_spawn(n.context, broken.release(), released.handler());
    co_await breathe();
    EXPECT_FALSE(released.ended);
    auto fresh = co_await n.pool.acquire(1);
    EXPECT_EQ(*fresh, 2);
    n.gate->set();
    co_await breathe();
    EXPECT_TRUE(released.ended);
    EXPECT_EQ(n.finalized, std::vector{1});
  });
}

TEST(ResourcePoolDiscard, OfAnOldValueDoesNotAffectTheNewOne) {
  NumberedPool n(1h);
  run(n.context, [&]() -> asio::awaitable<void> {
    auto first = co_await n.pool.acquire(1);
    auto second = co_await n.pool.acquire(1);
    first.discard();
    auto fresh = co_await n.pool.acquire(1);
    first.discard();
    second.discard();  // this holder discards the value later than the first one
    EXPECT_EQ(n.pool.stats().total_entries, 2u);
    auto shared = n.pool.try_acquire(1);
    EXPECT_TRUE(shared);
    if (shared) {
      EXPECT_EQ(&**shared, &*fresh);
    }
    EXPECT_EQ(n.created, 2);
  });
}

TEST(ResourcePoolDiscard, OfAClearedValueDoesNothing) {
  NumberedPool n(1h);
  run(n.context, [&]() -> asio::awaitable<void> {
    auto stale = co_await n.pool.acquire(1);
    co_await n.pool.clear(1);
    auto fresh = co_await n.pool.acquire(1);
    stale.discard();
    EXPECT_EQ(n.pool.stats().total_entries, 1u);
    co_await stale.release();
    auto shared = n.pool.try_acquire(1);
    EXPECT_TRUE(shared);
    EXPECT_EQ(n.finalized, std::vector{1});
  });
}

TEST(ResourcePoolDiscard, OfAnEmptyLeaseIsALogicError) {
  NumberedPool n(1h);
  Pool::Lease empty;
  EXPECT_THROW(empty.discard(), std::logic_error);
  run(n.context, [&]() -> asio::awaitable<void> {
    auto lease = co_await n.pool.acquire(1);
    co_await lease.release();
    EXPECT_THROW(lease.discard(), std::logic_error);
  });
}

TEST(ResourcePoolDiscard, WorksInACancelledCoroutine) {
  NumberedPool n(1h);
  const Gate never = make_gate();
  asio::cancellation_signal signal;
  Ending ending;
  auto body = [&]() -> asio::awaitable<void> {
    auto lease = co_await n.pool.acquire(1);
    try {
      co_await pass(never);
    } catch (...) {
      lease.discard();
      throw;
    }
  };
  asio::co_spawn(n.context, body(), asio::bind_cancellation_slot(signal.slot(), ending.handler()));
  n.context.poll();
  signal.emit(asio::cancellation_type::terminal);
  n.context.restart();
  n.context.run();
  EXPECT_TRUE(ending.failed_with<asio::system_error>());
  EXPECT_EQ(n.finalized, std::vector{1});  // whatever the ttl is
}

// The value has been created, but not every waiting coroutine has been resumed when the first one discards it.
TEST(ResourcePoolDiscard, GivesRemainingWaitersANewValue) {
  NumberedPool n(1h);
  Pool::Lease second;
  run(n.context, [&]() -> asio::awaitable<void> {
    const auto find_it_broken = [](Pool& pool) -> asio::awaitable<void> {
      auto lease = co_await pool.acquire(1);
      EXPECT_EQ(*lease, 1);
      lease.discard();
    };
    asio::co_spawn(n.context, find_it_broken(n.pool), asio::detached);
    asio::co_spawn(n.context, acquire_into(n.pool, 1, second), asio::detached);
    co_await breathe();
    EXPECT_TRUE(second);
    if (second) {
      EXPECT_EQ(*second, 2);
    }
  });
  EXPECT_EQ(n.finalized, std::vector{1});
}

TEST(ResourcePoolDiscard, ValueCountsUntilItIsFinalized) {
  NumberedPool n(1h);
  n.slow = 1;
  const auto expect = [&](std::size_t total, std::size_t referenced, std::size_t pending) {
    const auto stats = n.pool.stats();
    EXPECT_EQ(stats.total_entries, total);
    EXPECT_EQ(stats.referenced_entries, referenced);
    EXPECT_EQ(stats.pending_cleanup, pending);
    EXPECT_EQ(n.pool.pending_cleanup().size(), pending);
  };
  run(n.context, [&]() -> asio::awaitable<void> {
    auto broken = co_await n.pool.acquire(1);
    broken.discard();
    expect(1, 1, 0);
    auto fresh = co_await n.pool.acquire(1);
    expect(2, 2, 0);
    broken = Pool::Lease{};
    expect(2, 1, 1);
    fresh = Pool::Lease{};
    expect(2, 0, 2);
    EXPECT_EQ(n.pool.pending_cleanup(), (std::vector{1, 1}));
    n.gate->set();
    co_await breathe();
    expect(1, 0, 1);
  });
}

TEST(ResourcePoolDiscard, ClearWaitsForDiscardedValues) {
  NumberedPool n(1h);
  n.slow = 1;
  run(n.context, [&]() -> asio::awaitable<void> {
    auto broken = co_await n.pool.acquire(1);
    auto leased = co_await n.pool.acquire(2);
    broken.discard();
    leased.discard();
    EXPECT_THROW((void)n.pool.clear(1), std::out_of_range);  // the key has no value
    broken = Pool::Lease{};
    auto fresh = co_await n.pool.acquire(1);
    Ending cleared;
    asio::co_spawn(n.context, n.pool.clear(), cleared.handler());
    co_await breathe();
    EXPECT_EQ(n.finalized, (std::vector{3, 2}));  // the leased values, too
    EXPECT_FALSE(cleared.ended);
    n.gate->set();
    co_await breathe();
    EXPECT_TRUE(cleared.ended);
    EXPECT_EQ(n.pool.stats().total_entries, 0u);
    EXPECT_EQ(*leased, 2);  // finalized, but not destroyed
    co_await leased.release();
    EXPECT_EQ(n.finalized.size(), 3u);
  });
}

TEST(ResourcePoolDiscard, IsReportedAsAnEvent) {
  NumberedPool n(1h);
  run(n.context, [&]() -> asio::awaitable<void> {
    auto lease = co_await n.pool.acquire(1);
    lease.discard();
    lease.discard();
    co_await lease.release();
  });
  EXPECT_EQ(n.events, (std::vector{Kind::made, Kind::discarded, Kind::finalized}));
}

TEST(ResourcePoolDiscard, ValueOutlivesThePoolUnfinalized) {
  asio::io_context context;
  int finalized = 0;
  const auto value = std::make_shared<int>(1);
  using Shared = drover::ResourcePool<int, std::shared_ptr<int>>;
  for (const bool before : {true, false}) {
    std::optional<Shared> pool;
    pool.emplace(
        context.get_executor(), [&](int) { return value; },
        Shared::Options{.ttl = 1h, .finalizer = [&](std::shared_ptr<int>&) { ++finalized; }});
    Shared::Lease lease;
    run(context, [&]() -> asio::awaitable<void> { lease = co_await pool->acquire(1); });
    if (before) lease.discard();
    pool.reset();
    if (!before) lease.discard();
    EXPECT_EQ(**lease, 1);
    lease = Shared::Lease{};
    EXPECT_EQ(value.use_count(), 1);
  }
  EXPECT_EQ(finalized, 0);
}

TEST(ResourcePoolDiscard, AfterTheContextOnlyDestroysTheValue) {
  const auto value = std::make_shared<int>(1);
  using Shared = drover::ResourcePool<int, std::shared_ptr<int>>;
  std::optional<asio::io_context> context(std::in_place);
  Shared pool(context->get_executor(), [&](int) { return value; },
              {.ttl = 1h, .finalizer = [](std::shared_ptr<int>&) { ADD_FAILURE(); }});
  Shared::Lease lease;
  run(*context, [&]() -> asio::awaitable<void> { lease = co_await pool.acquire(1); });
  context.reset();
  lease.discard();
  lease = Shared::Lease{};
  EXPECT_EQ(value.use_count(), 1);
  EXPECT_EQ(pool.stats().total_entries, 0u);
}

// Values are discarded by their holders on several threads at once. Each value is finalized once, and an acquire after
// a discard returns a newer value.
TEST(ResourcePoolDiscard, OnManyThreadsNeverLeasesADiscardedValue) {
  struct Connection {
    std::atomic<bool> finalized{false};
  };
  std::atomic<int> made{0}, finalized{0}, bad{0};
  asio::thread_pool threads(4);
  drover::ResourcePool<int, std::unique_ptr<Connection>> pool(
      threads.get_executor(),
      [&](int) {
        ++made;
        return std::make_unique<Connection>();
      },
      {.ttl = 1h, .finalizer = [&](std::unique_ptr<Connection>& connection) {
         if (connection->finalized.exchange(true)) ++bad;
         ++finalized;
       }});
  const auto use = [&](int user) -> asio::awaitable<void> {
    for (int i = 0; i < 500; ++i) {
      auto lease = co_await pool.acquire(i % 3);
      if ((*lease)->finalized) ++bad;
      if ((i + user) % 7 != 0) continue;
      lease.discard();
      auto next = co_await pool.acquire(i % 3);
      if (&*next == &*lease) ++bad;
    }
  };
  for (int user = 0; user < 8; ++user) asio::co_spawn(threads, use(user), asio::detached);
  threads.join();
  EXPECT_EQ(bad, 0);
  EXPECT_GT(made, 3);
  EXPECT_EQ(pool.stats().referenced_entries, 0u);
  EXPECT_EQ(finalized + static_cast<int>(pool.stats().pending_cleanup), made);
}

}  // namespace
