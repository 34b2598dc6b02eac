// A completion handler may throw, or keep its thread: no other call is harmed or delayed.
#include <atomic>
#include <gtest/gtest.h>
#include <stdexcept>
#include <string>
#include <thread>

#include <asio/detached.hpp>
#include <asio/multiple_exceptions.hpp>
#include <asio/use_future.hpp>

#include "support/calls.hpp"

namespace {

using namespace support;

class CompletionHandler : public Calls {};

asio::awaitable<LocalWorker> one_worker() {
  LocalWorker worker(co_await asio::this_coro::executor, call_worker());
  co_await worker.start();
  co_return worker;
}

// An exception from a completion handler propagates out of run() and harms no worker.
TEST_F(CompletionHandler, ThatThrowsHarmsNoWorker) {
  asio::io_context context;
  auto starting = asio::co_spawn(context, one_worker(), asio::use_future);
  while (starting.wait_for(0s) != std::future_status::ready) context.run_one();
  LocalWorker worker = starting.get();
  int thrown = 0, ended = 0;
  const auto rethrow = [&](std::exception_ptr failure) {
    ++ended;
    if (failure) std::rethrow_exception(failure);
  };
  const auto run_until = [&](int count) {
    const auto until = Clock::now() + 10s;
    while (ended < count && Clock::now() < until) {
      try {
        context.run_one_for(10ms);
      } catch (const asio::multiple_exceptions&) {  // of two handlers of results that came together
        thrown += 2;
      } catch (const std::exception&) {
        ++thrown;
      }
    }
    EXPECT_EQ(ended, count);
  };
  for (int i = 0; i < 50; ++i) asio::co_spawn(context, worker.call("throw", "at the caller"), rethrow);
  for (int i = 0; i < 50; ++i) asio::co_spawn(context, worker.call("nothing"), rethrow);
  run_until(100);
  EXPECT_EQ(thrown, 50);
  const CallOptions soon_over{.deadline = 50ms}, later{.deadline = 150ms};
  for (const auto& options : {soon_over, soon_over, later})
    asio::co_spawn(context, worker.call(options, "nap", 300, 0), rethrow);
  run_until(103);
  EXPECT_EQ(thrown, 53);
  asio::co_spawn(context, worker.call("nothing"), rethrow);
  run_until(104);
  asio::co_spawn(context, worker.call("exit", 3), rethrow);
  asio::co_spawn(context, worker.call("nothing"), rethrow);
  run_until(106);
  EXPECT_EQ(thrown, 55);
}

// A deadline's timer delivers the results that have arrived by then. An exception from one of their handlers must not
// cost other calls their deadlines.
TEST_F(CompletionHandler, ThatThrowsDelaysNoDeadline) {
  asio::io_context context(1);
  LocalWorker worker;
  const auto start = [&]() -> asio::awaitable<void> {
    WorkerOptions options = call_worker();
    options.max_in_flight = 2;
    worker = LocalWorker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    context.stop();
  };
  asio::co_spawn(context, start(), asio::detached);
  context.run();
  context.restart();
  Failure first_ended, second_ended;
  int ended = 0;
  const CallOptions first{.deadline = 50ms}, second{.deadline = 600ms};
  const auto began = Clock::now();
  asio::co_spawn(context, worker.call<std::string>(first, "slow_echo", "text", 100),
                 [&](std::exception_ptr failure, std::string) {
                   ++ended;
                   first_ended = describe(failure);
                   throw std::runtime_error("from a completion handler");
                 });
  asio::co_spawn(context, worker.call<std::string>(second, "doze", 30000),
                 [&](std::exception_ptr failure, std::string) {
                   ++ended;
                   second_ended = describe(failure);
                 });
  // The timer's handler is queued before the result has arrived and runs after that.
  const auto busy_until = [&](Duration time) {
    while (since(began) < time) std::this_thread::yield();
  };
  asio::post(context, [&] {
    busy_until(60ms);
    asio::post(context, [&] { busy_until(300ms); });
  });
  int thrown = 0;
  while (ended < 2 && since(began) < 5s) try {
      context.run_one_for(10ms);
    } catch (const std::runtime_error&) {
      ++thrown;
    }
  EXPECT_EQ(thrown, 1);
  EXPECT_FALSE(first_ended) << "it was this process that was late: " << first_ended;
  EXPECT_TRUE(second_ended == Errc::deadline_exceeded) << second_ended;
  EXPECT_LT(since(began), 600ms + slack);
}

// A continuation that keeps its thread does not delay the calls of others.
TEST_F(CompletionHandler, ThatBlocksDelaysNoOtherCall) {
  on_four_threads([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    options.worker.max_in_flight = 2;
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    std::atomic<bool> holds{false}, go_on{false};
    const auto holder = [&]() -> asio::awaitable<void> {
      co_await pool.call<int>("square", 1);
      holds = true;
      for (const auto until = Clock::now() + 10s; !go_on && Clock::now() < until;) std::this_thread::yield();
    };
    Task holding(here, holder());
    const bool held = co_await soon([&] { return holds.load(); });
    EXPECT_TRUE(held);
    // Two of the four calls go to the other worker, the second one while that worker is busy.
    std::atomic<int> answered{0};
    const auto caller = [&]() -> asio::awaitable<void> {
      co_await pool.call<std::string>("doze", 30);
      ++answered;
    };
    Task one(here, caller()), two(here, caller()), three(here, caller()), four(here, caller());
    const bool sent = co_await soon([&] { return answered >= 2; }, 5s);
    EXPECT_TRUE(sent) << answered;
    go_on = true;
    const bool all = co_await soon([&] { return answered == 4; });
    EXPECT_TRUE(all);
    co_await pool.stop();
  });
}

}  // namespace
