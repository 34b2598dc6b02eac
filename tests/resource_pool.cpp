#include <chrono>
#include <gtest/gtest.h>
#include <map>
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
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
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
using pool_test::pass;
using pool_test::run;
using Pool = drover::ResourcePool<std::string, int>;

// A number for each call of the factory, so that values can be distinguished.
struct Counter {
  int made = 0;
  auto factory() {
    return [this](const std::string&) -> asio::awaitable<int> { co_return ++made; };
  }
};

TEST(ResourcePool, MissCreatesAValueAndHitSharesIt) {
  asio::io_context context;
  Counter counter;
  Pool pool(context.get_executor(), counter.factory());
  run(context, [&]() -> asio::awaitable<void> {
    auto first = co_await pool.acquire("a");
    auto second = co_await pool.acquire("a");
    auto other = co_await pool.acquire("b");
    EXPECT_EQ(counter.made, 2);
    EXPECT_EQ(&*first, &*second);
    EXPECT_NE(&*first, &*other);
    EXPECT_EQ(first.key(), "a");
    EXPECT_EQ(pool.stats().total_entries, 2u);
    EXPECT_EQ(pool.stats().referenced_entries, 2u);
    EXPECT_EQ(pool.stats().pending_cleanup, 0u);
  });
  EXPECT_EQ(pool.stats().total_entries, 0u);
}

TEST(ResourcePool, AcquiresAtOnceShareOneFactoryRun) {
  for (const bool on_strand : {false, true}) {
    asio::io_context context;
    asio::any_io_executor executor = context.get_executor();
    if (on_strand) executor = asio::make_strand(context);
    const Gate gate = make_gate();
    int calls = 0;
    Pool pool(executor, [&](const std::string&) -> asio::awaitable<int> {
      ++calls;
      co_await pass(gate);
      co_return 7;
    });
    std::vector<Pool::Lease> leases(10);
    for (auto& lease : leases) asio::co_spawn(context, acquire_into(pool, "a", lease), asio::detached);
    context.poll();
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(pool.stats().total_entries, 1u);
    EXPECT_EQ(pool.stats().referenced_entries, 0u);
    gate->set();
    context.restart();
    context.run();
    EXPECT_EQ(calls, 1);
    for (auto& lease : leases) EXPECT_EQ(&*lease, &*leases[0]);
    EXPECT_EQ(pool.stats().referenced_entries, 1u);
  }
}

TEST(ResourcePool, HitDoesNotSuspend) {
  asio::io_context context;
  Counter counter;
  Pool pool(context.get_executor(), counter.factory(), {.ttl = 1h});
  bool other_ran = false;
  run(context, [&]() -> asio::awaitable<void> {
    auto held = co_await pool.acquire("a");
    asio::post(context, [&] { other_ran = true; });
    auto shared = co_await pool.acquire("a");
    shared = Pool::Lease{};
    held = Pool::Lease{};
    auto revived = co_await pool.acquire("a");
    EXPECT_FALSE(other_ran);
    EXPECT_EQ(*revived, 1);
  });
}

TEST(ResourcePool, FailedFactoryFailsItsWaitersAndLeavesNoEntry) {
  asio::io_context context;
  const Gate gate = make_gate();
  int calls = 0;
  Pool pool(context.get_executor(), [&](const std::string&) -> asio::awaitable<int> {
    ++calls;
    co_await pass(gate);
    if (calls == 1) throw std::domain_error("no");
    if (calls == 2) throw asio::system_error(asio::error::operation_aborted);
    if (calls == 3) throw "not even an exception";
    co_return calls;
  });
  std::vector<Ending> endings(3);
  std::vector<Pool::Lease> leases(3);
  for (std::size_t i = 0; i < 3; ++i) asio::co_spawn(context, acquire_into(pool, "a", leases[i]), endings[i].handler());
  context.poll();
  gate->set();
  context.restart();
  context.run();
  for (const auto& ending : endings) EXPECT_TRUE(ending.failed_with<std::domain_error>());
  EXPECT_EQ(pool.stats().total_entries, 0u);

  Ending cancelled, odd;
  asio::co_spawn(context, acquire_into(pool, "a", leases[0]), cancelled.handler());
  context.restart();
  context.run();
  EXPECT_TRUE(cancelled.failed_with<asio::system_error>());
  asio::co_spawn(context, acquire_into(pool, "a", leases[0]), odd.handler());
  context.restart();
  context.run();
  EXPECT_TRUE(odd.failed_with<const char*>());
  run(context, [&]() -> asio::awaitable<void> {
    auto lease = co_await pool.acquire("a");
    EXPECT_EQ(*lease, 4);
  });
}

TEST(ResourcePool, CancelledWaiterDoesNotCancelTheFactory) {
  asio::io_context context;
  const Gate gate = make_gate();
  Counter counter;
  Pool pool(context.get_executor(),
            [&](const std::string&) -> asio::awaitable<int> {
              co_await pass(gate);
              co_return ++counter.made;
            },
            {.ttl = 1h});
  Ending first, second;
  Pool::Lease a, b;
  asio::cancellation_signal cancel_first, cancel_second;
  asio::co_spawn(context, acquire_into(pool, "a", a),
                 asio::bind_cancellation_slot(cancel_first.slot(), first.handler()));
  asio::co_spawn(context, acquire_into(pool, "a", b),
                 asio::bind_cancellation_slot(cancel_second.slot(), second.handler()));
  context.poll();
  cancel_first.emit(asio::cancellation_type::terminal);
  context.poll();
  EXPECT_TRUE(first.failed_with<asio::system_error>());
  EXPECT_FALSE(second.ended);
  cancel_second.emit(asio::cancellation_type::terminal);
  context.poll();
  EXPECT_EQ(pool.stats().total_entries, 1u);
  gate->set();
  context.restart();
  context.run();
  EXPECT_EQ(pool.stats().pending_cleanup, 1u);  // idle
  EXPECT_TRUE(pool.try_acquire("a"));
  EXPECT_EQ(counter.made, 1);
}

TEST(ResourcePool, SlowFactoryOrFinalizerDelaysNoOtherKey) {
  asio::io_context context;
  const Gate gate = make_gate();
  Pool pool(context.get_executor(),
            [&](const std::string& key) -> asio::awaitable<int> {
              if (key == "slow factory") co_await pass(gate);
              co_return static_cast<int>(key.size());
            },
            {.finalizer = [&](int& value) -> asio::awaitable<void> {
              if (value == 14) co_await pass(gate);
            }});
  Pool::Lease slow;
  asio::co_spawn(context, acquire_into(pool, "slow factory", slow), asio::detached);
  run(context, [&]() -> asio::awaitable<void> {
    asio::co_spawn(
        context,
        [&]() -> asio::awaitable<void> {
          auto lease = co_await pool.acquire("slow finalizer");
          co_await lease.release();
        },
        asio::detached);
    co_await breathe();
    EXPECT_EQ(pool.pending_cleanup(), std::vector<std::string>{"slow finalizer"});
    auto quick = co_await pool.acquire("quick");
    co_await quick.release();
    EXPECT_EQ(pool.stats().total_entries, 2u);
    EXPECT_FALSE(slow);
    gate->set();
  });
  EXPECT_TRUE(slow);
}

TEST(ResourcePool, FactoryAndFinalizerMayAcquireOtherKeys) {
  asio::io_context context;
  Pool* self = nullptr;
  Pool pool(context.get_executor(),
            [&](const std::string& key) -> asio::awaitable<int> {
              if (key.size() == 1) co_return 1;
              auto rest = co_await self->acquire(key.substr(1));
              co_return *rest + 1;
            },
            {.finalizer = [&](int& value) -> asio::awaitable<void> {
              if (value != 4) co_return;
              auto other = co_await self->acquire("z");
              EXPECT_EQ(*other, 1);
            }});
  self = &pool;
  run(context, [&]() -> asio::awaitable<void> {
    auto lease = co_await pool.acquire("abcd");
    EXPECT_EQ(*lease, 4);
    co_await lease.release();
  });
  EXPECT_EQ(pool.stats().total_entries, 0u);
}

TEST(ResourcePool, WithoutTtlReleaseReturnsAfterTheFinalizer) {
  asio::io_context context;
  Counter counter;
  std::vector<int> finalized;
  Pool pool(context.get_executor(), counter.factory(), {.finalizer = [&](int& value) -> asio::awaitable<void> {
              co_await breathe();
              finalized.push_back(value);
            }});
  run(context, [&]() -> asio::awaitable<void> {
    auto lease = co_await pool.acquire("a");
    auto second = co_await pool.acquire("a");
    co_await second.release();
    EXPECT_TRUE(finalized.empty());
    co_await lease.release();
    EXPECT_EQ(finalized, std::vector{1});
    EXPECT_EQ(pool.stats().total_entries, 0u);
    {
      auto dropped = co_await pool.acquire("a");
    }
    EXPECT_EQ(pool.pending_cleanup(), std::vector<std::string>{"a"});
    // Its finalizer has been spawned; the next acquire of the key waits for that.
    auto next = co_await pool.acquire("a");
    EXPECT_EQ(finalized, (std::vector{1, 2}));
    EXPECT_EQ(*next, 3);
  });
  EXPECT_EQ(finalized, (std::vector{1, 2, 3}));
}

TEST(ResourcePool, ValueIsFinalizedOnceAfterItsTtl) {
  asio::io_context context;
  Counter counter;
  std::vector<drover::Clock::time_point> finalized;
  const Gate gone = make_gate();
  Pool pool(context.get_executor(), counter.factory(), {.ttl = 60ms, .finalizer = [&](int&) {
                                                          finalized.push_back(drover::Clock::now());
                                                          gone->set();
                                                        }});
  run(context, [&]() -> asio::awaitable<void> {
    asio::steady_timer timer(context);
    auto lease = co_await pool.acquire("a");
    co_await lease.release();
    timer.expires_after(30ms);
    co_await timer.async_wait(asio::use_awaitable);
    auto again = co_await pool.acquire("a");
    EXPECT_EQ(*again, 1);
    timer.expires_after(60ms);  // past the first deadline, which no longer counts
    co_await timer.async_wait(asio::use_awaitable);
    EXPECT_TRUE(finalized.empty());
    const auto released = drover::Clock::now();
    co_await again.release();
    EXPECT_EQ(pool.pending_cleanup(), std::vector<std::string>{"a"});
    co_await pass(gone);
    EXPECT_GE(finalized.at(0) - released, 60ms);
    EXPECT_LE(finalized.at(0) - released, 60ms + 1500ms);
    timer.expires_after(100ms);
    co_await timer.async_wait(asio::use_awaitable);
    EXPECT_EQ(finalized.size(), 1u);
    EXPECT_EQ(pool.stats().total_entries, 0u);
  });
}

TEST(ResourcePool, NullValueIsAValueLikeAnyOther) {
  asio::io_context context;
  int made = 0, finalized = 0;
  drover::ResourcePool<int, std::shared_ptr<int>> pool(context.get_executor(),
                                                       [&](int) {
                                                         ++made;
                                                         return std::shared_ptr<int>();
                                                       },
                                                       {.ttl = 1h, .finalizer = [&](std::shared_ptr<int>& value) {
                                                          EXPECT_EQ(value, nullptr);
                                                          ++finalized;
                                                        }});
  run(context, [&]() -> asio::awaitable<void> {
    {
      auto lease = co_await pool.acquire(0);
    }
    auto lease = co_await pool.acquire(0);
    EXPECT_TRUE(lease);
    EXPECT_EQ(made, 1);
    co_await lease.release();
    EXPECT_EQ(pool.stats().pending_cleanup, 1u);
    co_await pool.clear();
  });
  EXPECT_EQ(finalized, 1);
}

TEST(ResourcePool, IdleValuesExpireInTheOrderOfTheirReleases) {
  asio::io_context context;
  std::vector<int> finalized;
  const Gate all = make_gate();
  drover::ResourcePool<int, int> pool(context.get_executor(), [](int key) { return key; },
                                      {.ttl = 20ms, .finalizer = [&](int& value) {
                                         finalized.push_back(value);
                                         if (finalized.size() == 3) all->set();
                                       }});
  run(context, [&]() -> asio::awaitable<void> {
    auto one = co_await pool.acquire(1);
    auto two = co_await pool.acquire(2);
    auto three = co_await pool.acquire(3);
    co_await two.release();
    co_await three.release();
    co_await one.release();
    EXPECT_EQ(pool.pending_cleanup(), (std::vector{2, 3, 1}));
    co_await pass(all);
  });
  EXPECT_EQ(finalized, (std::vector{2, 3, 1}));
}

}  // namespace
