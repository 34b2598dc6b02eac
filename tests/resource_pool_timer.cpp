// The timer of the idle values does not count as work.

#include <atomic>
#include <chrono>
#include <future>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/system_executor.hpp>
#include <asio/thread_pool.hpp>

#include <drover/resource_pool.hpp>

#include "support/own_context.hpp"
#include "support/resource_pool_run.hpp"

namespace {

using namespace std::chrono_literals;
using pool_test::run;
using support::OwnContext;
using Value = std::shared_ptr<int>;
using Pool = drover::ResourcePool<std::string, Value>;

TEST(ResourcePoolTimer, RunReturnsAtOnceAndExpiresEntriesLater) {
  for (const bool on_strand : {false, true}) {
    asio::io_context context;
    asio::any_io_executor executor = context.get_executor();
    if (on_strand) executor = asio::make_strand(context);
    int finalized = 0;
    Pool pool(executor, [](const std::string&) { return Value(); },
              {.ttl = 200ms, .finalizer = [&](Value&) { ++finalized; }});
    const auto begun = drover::Clock::now();
    run(context, [&]() -> asio::awaitable<void> { auto lease = co_await pool.acquire("a"); });
    EXPECT_LT(drover::Clock::now() - begun, 200ms);
    EXPECT_EQ(finalized, 0);
    EXPECT_EQ(pool.stats().pending_cleanup, 1u);
    run(context, [&]() -> asio::awaitable<void> {
      asio::steady_timer timer(context, 400ms);
      co_await timer.async_wait(asio::use_awaitable);
    });
    EXPECT_EQ(finalized, 1);
  }
}

TEST(ResourcePoolTimer, ArmedOnAnotherThreadKeepsNothingRunning) {
  asio::io_context context;
  Pool pool(context.get_executor(), [](const std::string&) { return Value(); }, {.ttl = 60s});
  Pool::Lease lease;
  run(context, [&]() -> asio::awaitable<void> { lease = co_await pool.acquire("a"); });
  std::thread([&] { lease = Pool::Lease{}; }).join();
  const auto begun = drover::Clock::now();
  context.restart();
  context.run();
  EXPECT_LT(drover::Clock::now() - begun, 1500ms);
  // All values stay idle: there is no work, so run() does not even begin.
  context.restart();
  EXPECT_EQ(context.run(), 0u);
}

TEST(ResourcePoolTimer, JoinReturnsAtOnceWithIdleEntries) {
  for (const bool on_strand : {false, true}) {
    asio::thread_pool threads(2);
    asio::any_io_executor executor = threads.get_executor();
    if (on_strand) executor = asio::make_strand(threads);
    Pool pool(executor, [](const std::string&) { return Value(); }, {.ttl = 60s});
    asio::co_spawn(
        executor, [](Pool& p) -> asio::awaitable<void> { auto lease = co_await p.acquire("a"); }(pool), asio::detached);
    const auto begun = drover::Clock::now();
    threads.join();
    EXPECT_LT(drover::Clock::now() - begun, 1500ms);
    EXPECT_EQ(pool.stats().pending_cleanup, 1u);
  }
}

TEST(ResourcePoolTimer, ExpiresOnAThreadPoolWithoutOtherWork) {
  asio::thread_pool threads(2);
  std::promise<void> finalized;
  Pool pool(threads.get_executor(), [](const std::string&) { return Value(); },
            {.ttl = 20ms, .finalizer = [&](Value&) { finalized.set_value(); }});
  asio::co_spawn(
      threads, [](Pool& p) -> asio::awaitable<void> { auto lease = co_await p.acquire("a"); }(pool), asio::detached);
  EXPECT_EQ(finalized.get_future().wait_for(10s), std::future_status::ready);
  threads.join();
}

TEST(ResourcePoolTimer, ExpiresOnTheSystemContext) {
  std::promise<void> finalized;
  Pool pool(asio::system_executor(), [](const std::string&) { return Value(); },
            {.ttl = 20ms, .finalizer = [&](Value&) { finalized.set_value(); }});
  asio::co_spawn(
      asio::system_executor(), [](Pool& p) -> asio::awaitable<void> { auto lease = co_await p.acquire("a"); }(pool),
      asio::detached);
  EXPECT_EQ(finalized.get_future().wait_for(10s), std::future_status::ready);
}

TEST(ResourcePoolTimer, ExpiresOnACustomContextWithoutWork) {
  OwnContext context;
  int finalized = 0;
  const auto main_thread = std::this_thread::get_id();
  Pool pool(context.get_executor(), [](const std::string&) { return Value(); }, {.ttl = 50ms, .finalizer = [&](Value&) {
                                                                                   EXPECT_EQ(std::this_thread::get_id(),
                                                                                             main_thread);
                                                                                   ++finalized;
                                                                                 }});
  asio::co_spawn(
      asio::any_io_executor(context.get_executor()),
      [](Pool& p) -> asio::awaitable<void> { auto lease = co_await p.acquire("a"); }(pool), asio::detached);
  while (context.poll()) {
  }
  EXPECT_EQ(pool.stats().pending_cleanup, 1u);
  EXPECT_EQ(context.work(), 0);
  const auto begun = drover::Clock::now();
  while (finalized == 0 && drover::Clock::now() - begun < 10s) context.poll();
  EXPECT_EQ(finalized, 1);
}

// Pools that are created and destroyed, with timers armed from inside and outside, must not change the count of work.
TEST(ResourcePoolTimer, ManyPoolsDoNotChangeTheCountOfWork) {
  for (int round = 0; round < 30; ++round) {
    asio::io_context context(3);
    std::atomic<int> done = 0;
    {
      std::vector<std::unique_ptr<Pool>> pools;
      for (int i = 0; i < 12; ++i)
        pools.push_back(std::make_unique<Pool>(
            context.get_executor(), [](const std::string&) { return Value(); },
            Pool::Options{.ttl = (i % 3) * 1ms + 1us}));
      for (auto& pool : pools)
        asio::co_spawn(
            context,
            [](Pool& p, std::atomic<int>& d) -> asio::awaitable<void> {
              for (int i = 0; i < 5; ++i) {
                auto lease = co_await p.acquire("a");
                co_await lease.release();
                asio::steady_timer timer(co_await asio::this_coro::executor, 500us);
                co_await timer.async_wait(asio::use_awaitable);
              }
              ++d;
            }(*pool, done),
            asio::detached);
      std::vector<std::thread> threads;
      for (int i = 0; i < 3; ++i) threads.emplace_back([&] { context.run(); });
      for (auto& thread : threads) thread.join();
      EXPECT_EQ(done, 12);  // run() did not return too early
    }
  }
}

}  // namespace
