// Operations for any completion token: async_call() and its like.
#include <chrono>
#include <exception>
#include <future>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/bind_executor.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/system_executor.hpp>
#include <asio/this_coro.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#include "support/calls.hpp"
#include "support/tokens.hpp"

namespace {

using namespace support;

class AsyncCall : public CallsAnywhere {};
class OneAsyncOperation : public Calls {
 protected:
  // Asio's system context, which the handlers of asio::use_future need, opens its descriptors now, and keeps them.
  static void SetUpTestSuite() { const asio::steady_timer timer{asio::system_executor()}; }
};

INSTANTIATE_TEST_SUITE_P(On, AsyncCall, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// Each call has its one completion, whether it succeeds or is refused, and never inside async_call().
TEST_P(AsyncCall, InvokesItsHandlerLaterAndOnce) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(2));
    const auto strand = co_await asio::this_coro::executor;
    int good = 0, failed = 0, nothing = 0, inside = 0;
    bool initiating = false;
    const auto on_strand = [&](auto handler) { return asio::bind_executor(strand, std::move(handler)); };
    for (int i = 0; i < 200; ++i) {
      initiating = true;
      pool.async_call<int>("square", i, on_strand([&, i](const std::exception_ptr& failure, int result) {
                             inside += initiating;
                             good += !failure && result == i * i;
                           }));
      pool.async_call({.deadline = -1s}, "nothing", on_strand([&](const std::exception_ptr& failure) {
                        inside += initiating;
                        failed += describe(failure).argument;
                      }));
      pool.async_call("nothing", on_strand([&](const std::exception_ptr& failure) {
                        inside += initiating;
                        nothing += !failure;
                      }));
      initiating = false;
    }
    const bool all = co_await soon([&] { return good + failed + nothing == 600; });
    EXPECT_TRUE(all);
    EXPECT_EQ(good, 200);
    EXPECT_EQ(failed, 200);
    EXPECT_EQ(inside, 0);
    co_await pool.stop();
  });
}

// use_awaitable, as_tuple, use_future and deferred complete the call. With deferred it begins when it is awaited.
TEST_F(OneAsyncOperation, OfACallTakesAnyToken) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(2));
    const int awaited = co_await pool.async_call<int>({.deadline = 30s}, "square", 3, asio::use_awaitable);
    EXPECT_EQ(awaited, 9);
    const auto [failure, value] = co_await pool.async_call<int>("square", 4, as_tuple);
    EXPECT_EQ(failure, nullptr);
    EXPECT_EQ(value, 16);
    const auto unknown = co_await pool.async_call<int>("no such routine", as_tuple);
    EXPECT_TRUE(describe(std::get<0>(unknown)) == Errc::unknown_routine);
    std::future<std::string> text = pool.async_call<std::string>("echo", std::string("future"), asio::use_future);
    std::future<void> nothing = pool.async_call("nothing", asio::use_future);
    std::optional<std::string> got;
    std::thread waits([&] {
      nothing.get();
      got = text.get();
    });
    const bool came = co_await soon([&] { return pool.stats().in_flight == 0; });
    EXPECT_TRUE(came);
    waits.join();
    EXPECT_EQ(got, "future");
    auto operation = pool.async_call<std::string>("echo", std::string("lazy"), lazy);
    EXPECT_EQ(pool.stats().in_flight, 0u) << "it has not begun";
    const std::string later = co_await std::move(operation)(asio::use_awaitable);
    EXPECT_EQ(later, "lazy");
    co_await pool.stop();
  });
}

// The handler runs on the strand of another thread pool to which it is bound.
TEST_F(OneAsyncOperation, OfACallCompletesOnTheExecutorOfItsHandler) {
  asio::thread_pool others(2);
  const auto strand = asio::make_strand(others);
  on_one_thread([&]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(1));
    std::atomic<int> there = 0;
    for (int i = 0; i < 50; ++i)
      pool.async_call<int>("square", i, asio::bind_executor(strand, [&](const std::exception_ptr& failure, int) {
                             there += !failure && strand.running_in_this_thread();
                           }));
    const bool all = co_await soon([&] { return there == 50; });
    EXPECT_TRUE(all);
    co_await pool.stop();
  });
  others.join();
}

// A signal of the handler's slot ends the call with operation_aborted, after emit() has returned.
TEST_F(OneAsyncOperation, OfACallIsCancelledByItsSlot) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(1));
    for (int round = 0; round < 20; ++round) {
      asio::cancellation_signal signal;
      std::optional<Failure> failure;
      pool.async_call<std::string>(
          "slow_echo", std::string("x"), 60'000,
          asio::bind_cancellation_slot(signal.slot(), [&](const std::exception_ptr& thrown, const std::string&) {
            failure = describe(thrown);
          }));
      if (round % 2 == 1) co_await pause_for(std::chrono::milliseconds(round % 5));
      signal.emit(asio::cancellation_type::terminal);
      EXPECT_FALSE(failure) << "not by emit()";
      const bool ended = co_await soon([&] { return failure.has_value(); });
      EXPECT_TRUE(ended && failure->aborted());
    }
    co_await pool.stop();
  });
}

// The handler and what it owns go with the context, unused.
TEST_F(OneAsyncOperation, OfACallIsDroppedWithItsContext) {
  const auto owned = std::make_shared<int>(7);
  bool called = false;
  {
    asio::io_context context(1);
    asio::co_spawn(
        context,
        [](std::shared_ptr<int> kept, bool* flag, asio::io_context* of) -> asio::awaitable<void> {
          const auto pool = std::make_shared<WorkerPool>(co_await WorkerPool::start(call_pool(1)));
          pool->async_call<std::string>(
              "slow_echo", std::string("x"), 60'000,
              [kept, pool, flag](const std::exception_ptr&, const std::string&) { *flag = true; });
          kept.reset();
          of->stop();
        }(owned, &called, &context),
        asio::detached);
    context.run();
  }
  EXPECT_FALSE(called);
  EXPECT_EQ(owned.use_count(), 1);
}

// A call of a LocalWorker that is empty invokes its handler with Errc::not_running, on the handler's executor.
TEST_F(OneAsyncOperation, OnAnEmptyWorkerFailsLater) {
  asio::io_context context(1);
  LocalWorker none;
  std::promise<Failure> promise;
  none.async_call<int>("square", 3, asio::bind_executor(context, [&](const std::exception_ptr& failure, int) {
                         promise.set_value(describe(failure));
                       }));
  context.run();
  EXPECT_TRUE(promise.get_future().get() == Errc::not_running);
}

// Coroutines of a program that names the type of its executor. drover's own coroutines have asio::any_io_executor.
using IoExecutor = asio::io_context::executor_type;
constexpr asio::use_awaitable_t<IoExecutor> use_io_awaitable{};

asio::awaitable<void, IoExecutor> use_worker_and_pool(LocalWorker& worker, WorkerPool& pool) {
  co_await worker.async_start(use_io_awaitable);
  const int from_worker = co_await worker.async_call<int>("square", 5, use_io_awaitable);
  EXPECT_EQ(from_worker, 25);
  const CallOptions options{.deadline = 30s};
  const int from_pool = co_await pool.async_call<int>(options, "square", 6, use_io_awaitable);
  EXPECT_EQ(from_pool, 36);
  co_await pool.async_call("nothing", use_io_awaitable);
  const std::string text = "thrown in the worker";
  std::exception_ptr failure;
  try {
    co_await worker.async_call("throw", text, use_io_awaitable);
  } catch (...) {
    failure = std::current_exception();
  }
  EXPECT_EQ(describe(failure).text, text);
  const StopReport report = co_await worker.async_stop(use_io_awaitable);
  EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
  const std::vector<StopReport> reports = co_await pool.async_stop(use_io_awaitable);
  EXPECT_EQ(reports.size(), 2u);
}

TEST_F(OneAsyncOperation, IsAwaitedOnAnotherTypeOfExecutor) {
  asio::io_context context(1);
  LocalWorker worker(context.get_executor(), call_worker());
  WorkerPool pool;
  bool done = false;
  const auto ended = [&](const std::exception_ptr& failure) {
    EXPECT_EQ(failure, nullptr) << describe(failure);
    done = true;
    context.stop();
  };
  asio::co_spawn(context, WorkerPool::start(call_pool(2)), [&](const std::exception_ptr& failure, WorkerPool ready) {
    EXPECT_EQ(failure, nullptr) << describe(failure);
    pool = std::move(ready);
    asio::co_spawn(context, use_worker_and_pool(worker, pool), ended);
  });
  context.run_for(60s);
  EXPECT_TRUE(done);
}

asio::awaitable<void, IoExecutor> cancel_own_call(LocalWorker& worker, asio::cancellation_signal& signal) {
  co_await worker.async_start(use_io_awaitable);
  const IoExecutor executor = co_await asio::this_coro::executor;
  asio::post(executor, [&signal] { signal.emit(asio::cancellation_type::terminal); });
  const std::string text = "x";
  co_await worker.async_call<std::string>("slow_echo", text, 60'000, use_io_awaitable);
}

TEST_F(OneAsyncOperation, IsCancelledOnAnotherTypeOfExecutor) {
  asio::cancellation_signal signal;
  std::optional<Failure> failure;
  asio::io_context context(1);
  LocalWorker worker(context.get_executor(), call_worker());
  asio::co_spawn(context, cancel_own_call(worker, signal),
                 asio::bind_cancellation_slot(signal.slot(), [&](const std::exception_ptr& thrown) {
                   failure = describe(thrown);
                   context.stop();
                 }));
  context.run_for(60s);
  ASSERT_TRUE(failure);
  EXPECT_TRUE(failure->aborted()) << *failure;
}

}  // namespace
