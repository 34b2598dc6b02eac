#include <chrono>
#include <gtest/gtest.h>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/system_error.hpp>

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

TEST(ResourcePoolExpire, FinalizesAnIdleValueNow) {
  NumberedPool n(1h);
  run(n.context, [&]() -> asio::awaitable<void> {
    {
      auto lease = co_await n.pool.acquire(1);
    }
    co_await n.pool.expire(1);
    EXPECT_EQ(n.finalized, std::vector{1});
    EXPECT_EQ(n.pool.stats().total_entries, 0u);
    co_await n.pool.expire(1);  // a missing key: nothing happens
  });
}

TEST(ResourcePoolExpire, FinalizesALeasedValueAtItsLastRelease) {
  NumberedPool n(1h);
  run(n.context, [&]() -> asio::awaitable<void> {
    auto lease = co_await n.pool.acquire(1);
    co_await n.pool.expire(1);
    EXPECT_EQ(n.pool.stats().referenced_entries, 1u);
    co_await lease.release();
    EXPECT_EQ(n.finalized, std::vector{1});
  });
}

TEST(ResourcePoolExpire, IsCancelledByAnotherAcquire) {
  NumberedPool n(1h);
  run(n.context, [&]() -> asio::awaitable<void> {
    auto lease = co_await n.pool.acquire(1);
    co_await n.pool.expire(1);
    auto again = n.pool.try_acquire(1);
    EXPECT_TRUE(again);
    co_await lease.release();
    co_await again->release();
    EXPECT_TRUE(n.finalized.empty());
    EXPECT_EQ(n.pool.stats().pending_cleanup, 1u);
  });
}

// The remaining leases of a cleared value do not affect its successor.
TEST(ResourcePoolClear, FinalizesALeasedValueNow) {
  NumberedPool n(0s);
  run(n.context, [&]() -> asio::awaitable<void> {
    auto stale = co_await n.pool.acquire(1);
    auto staler = co_await n.pool.acquire(1);
    co_await n.pool.clear(1);
    EXPECT_EQ(n.finalized, std::vector{1});
    EXPECT_EQ(n.pool.stats().total_entries, 0u);
    auto fresh = co_await n.pool.acquire(1);
    EXPECT_EQ(*fresh, 2);
    EXPECT_EQ(*stale, 1);  // finalized, but not destroyed while it is leased
    co_await stale.release();
    staler = Pool::Lease{};
    EXPECT_EQ(n.pool.stats().referenced_entries, 1u);
    EXPECT_EQ(n.finalized, std::vector{1});
    co_await fresh.release();
    EXPECT_EQ(n.finalized, (std::vector{1, 2}));
  });
}

TEST(ResourcePoolClear, ThrowsOutOfRangeForAMissingKey) {
  NumberedPool n(0s);
  EXPECT_THROW((void)n.pool.clear(1), std::out_of_range);
  run(n.context, [&]() -> asio::awaitable<void> {
    auto lease = co_await n.pool.acquire(1);
    co_await n.pool.clear(1);
    EXPECT_THROW((void)n.pool.clear(1), std::out_of_range);
    co_await n.pool.clear();  // an empty pool is not an error
  });
}

TEST(ResourcePoolClear, DuringFactoryFinalizesThenRemakes) {
  asio::io_context context;
  std::vector<Gate> gates{make_gate(), make_gate()};
  std::size_t made = 0;
  std::vector<int> finalized;
  Pool pool(context.get_executor(),
            [&](int) -> asio::awaitable<int> {
              const int number = static_cast<int>(++made);
              co_await pass(gates[made - 1]);
              co_return number;
            },
            {.ttl = 1h, .finalizer = [&](int& value) { finalized.push_back(value); }});
  Pool::Lease lease;
  Ending cleared;
  asio::co_spawn(context, acquire_into(pool, 1, lease), asio::detached);
  context.poll();
  asio::co_spawn(context, pool.clear(1), cleared.handler());
  gates[0]->set();
  context.poll();
  EXPECT_TRUE(cleared.ended);
  EXPECT_EQ(finalized, std::vector{1});
  EXPECT_FALSE(lease);
  gates[1]->set();
  context.poll();
  EXPECT_EQ(*lease, 2);
}

TEST(ResourcePoolClear, ReportsFailedFinalizersAndGoesOn) {
  asio::io_context context;
  std::vector<int> finalized;
  std::vector<std::string> errors;
  Pool pool(context.get_executor(), [](int key) { return key; },
            {.ttl = 1h,
             .finalizer =
                 [&](int& value) {
                   finalized.push_back(value);
                   if (value % 3 == 0) throw std::runtime_error("broken " + std::to_string(value));
                   if (value % 3 == 1) throw value;
                 },
             .on_error =
                 [&](std::exception_ptr error) {
                   try {
                     std::rethrow_exception(error);
                   } catch (const std::exception& e) {
                     errors.push_back(e.what());
                   } catch (int value) {
                     errors.push_back(std::to_string(value));
                   }
                   throw 1;  // is ignored
                 }});
  run(context, [&]() -> asio::awaitable<void> {
    std::vector<Pool::Lease> held;
    for (int key = 0; key < 9; ++key) {
      auto lease = co_await pool.acquire(key);
      if (key % 2 == 0) held.push_back(std::move(lease));
    }
    co_await pool.clear();
    EXPECT_EQ(finalized.size(), 9u);
    EXPECT_EQ(errors.size(), 6u);  // all reported before clear() returned
    EXPECT_EQ(pool.stats().total_entries, 0u);
    {
      auto lease = co_await pool.acquire(0);
    }
    co_await pool.expire(0);
    EXPECT_EQ(errors.size(), 7u);
    EXPECT_EQ(errors.back(), "broken 0");
    EXPECT_EQ(pool.stats().total_entries, 0u);
  });
}

TEST(ResourcePoolClear, CancelledStillFinalizesTheRest) {
  NumberedPool n(1h);
  asio::cancellation_signal signal;
  Ending ending;
  run(n.context, [&]() -> asio::awaitable<void> {
    for (int key = 0; key < 5; ++key) auto lease = co_await n.pool.acquire(key);
  });
  asio::co_spawn(n.context, n.pool.clear(), asio::bind_cancellation_slot(signal.slot(), ending.handler()));
  n.context.restart();
  n.context.run_one();
  n.context.run_one();
  signal.emit(asio::cancellation_type::terminal);
  n.context.run();
  EXPECT_TRUE(ending.failed_with<asio::system_error>());
  EXPECT_EQ(n.finalized.size(), 5u);
  EXPECT_EQ(n.pool.stats().total_entries, 0u);
}

TEST(ResourcePoolClear, FinalizesAllKeysAtTheSameTime) {
  asio::io_context context;
  const Gate gate = make_gate();
  int running = 0;
  Pool pool(context.get_executor(), [](int key) { return key; },
            {.ttl = 1h, .finalizer = [&](int&) -> asio::awaitable<void> {
               if (++running == 10) gate->set();
               co_await pass(gate);
             }});
  run(context, [&]() -> asio::awaitable<void> {
    for (int key = 0; key < 10; ++key) auto lease = co_await pool.acquire(key);
    co_await pool.clear();
    EXPECT_EQ(pool.stats().total_entries, 0u);
  });
}

TEST(ResourcePoolRelease, CancelledStillReturnsTheLease) {
  NumberedPool n(0s);
  run(n.context, [&]() -> asio::awaitable<void> {
    asio::cancellation_signal signal;
    Ending ending;
    auto lease = co_await n.pool.acquire(1);
    auto releasing = lease.release();
    EXPECT_EQ(n.pool.stats().referenced_entries, 0u);  // before the release is awaited
    asio::co_spawn(n.context, std::move(releasing), asio::bind_cancellation_slot(signal.slot(), ending.handler()));
    signal.emit(asio::cancellation_type::terminal);
    co_await breathe();
    co_await breathe();
    EXPECT_TRUE(ending.failed_with<asio::system_error>());
    EXPECT_EQ(n.finalized, std::vector{1});
    EXPECT_EQ(n.pool.stats().total_entries, 0u);
  });
}

TEST(ResourcePoolRelease, WorksInACancelledCoroutine) {
  NumberedPool n(0s);
  asio::cancellation_signal signal;
  Ending ending;
  const Gate never = make_gate();
  auto body = [&]() -> asio::awaitable<void> {
    auto lease = co_await n.pool.acquire(1);
    std::exception_ptr error;
    try {
      co_await pass(never);
    } catch (...) {
      error = std::current_exception();
    }
    EXPECT_TRUE(error);
    co_await lease.release();
  };
  asio::co_spawn(n.context, body(), asio::bind_cancellation_slot(signal.slot(), ending.handler()));
  n.context.poll();
  signal.emit(asio::cancellation_type::terminal);
  n.context.restart();
  n.context.run();
  EXPECT_TRUE(ending.ended);
  EXPECT_EQ(n.finalized, std::vector{1});
}

TEST(ResourcePoolRelease, CalledTwiceIsALogicError) {
  NumberedPool n(1h);
  run(n.context, [&]() -> asio::awaitable<void> {
    auto lease = co_await n.pool.acquire(1);
    co_await lease.release();
    EXPECT_THROW((void)lease.release(), std::logic_error);
    EXPECT_EQ(n.pool.stats().pending_cleanup, 1u);
  });
}

TEST(ResourcePoolLease, IfEmptyThrowsLogicError) {
  NumberedPool n(1h);
  Pool::Lease empty;
  EXPECT_FALSE(empty);
  EXPECT_THROW((void)*empty, std::logic_error);
  EXPECT_THROW((void)empty.operator->(), std::logic_error);
  EXPECT_THROW((void)empty.key(), std::logic_error);
  EXPECT_THROW((void)empty.release(), std::logic_error);
  run(n.context, [&]() -> asio::awaitable<void> {
    auto lease = co_await n.pool.acquire(1);
    auto moved = std::move(lease);
    EXPECT_FALSE(lease);  // NOLINT(bugprone-use-after-move): that is what is tested
    EXPECT_THROW((void)*lease, std::logic_error);
    EXPECT_EQ(*moved, 1);
  });
}

TEST(ResourcePool, RefusesNegativeTtlAndNullFactories) {
  asio::io_context context;
  const auto executor = context.get_executor();
  const auto factory = [](int key) { return key; };
  EXPECT_THROW(Pool(executor, factory, {.ttl = -1ns}), std::invalid_argument);
  EXPECT_THROW(Pool(executor, std::function<int(int)>{}), std::invalid_argument);
  EXPECT_THROW(Pool(executor, static_cast<int (*)(int)>(nullptr)), std::invalid_argument);
  EXPECT_NO_THROW(Pool(executor, factory, {.finalizer = std::function<void(int&)>{}}));
}

TEST(ResourcePool, MovedFromThrowsLogicError) {
  NumberedPool n(1h);
  Pool moved = std::move(n.pool);
  EXPECT_THROW((void)n.pool.stats(), std::logic_error);
  EXPECT_THROW((void)n.pool.acquire(1), std::logic_error);
  EXPECT_EQ(moved.stats().total_entries, 0u);
}

}  // namespace
