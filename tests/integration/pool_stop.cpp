// How pools stop: all workers at once under one budget, and with_pool() however its body ends.
#include <gtest/gtest.h>

#include "support/calls.hpp"

namespace {

using namespace support;

class PoolStop : public CallsAnywhere {};
class WithPool : public CallsAnywhere {};
class FarDeadline : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, PoolStop, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);
INSTANTIATE_TEST_SUITE_P(On, WithPool, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// Idle, looping and suspended workers stop in parallel, all within the same budget.
TEST_P(PoolStop, StopsAllWorkersUnderOneBudget) {
  run_scenario([]() -> asio::awaitable<void> {
    EventLog log;
    auto told = std::make_shared<ReadPipe>();
    PoolOptions options = call_pool(4);
    options.worker.command.out = told->stdio();
    options.worker.on_event = log.handler();
    options.worker.stop_margin = 700ms;
    options.worker.term_grace = 700ms;
    options.shutdown_grace = 300ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    auto looping = pool.call("spin");
    co_await said(told, "spinning");
    auto stopped = pool.call("stop_often");
    co_await said(told, "stopping");
    const auto began = Clock::now();
    const auto reports = co_await pool.stop();
    const auto took = since(began);
    EXPECT_GE(took, 1s) << "the one that is stopped did not hear of it";
    EXPECT_LT(took, 1700ms + slack);
    EXPECT_EQ(reports.size(), 4u);
    int idle = 0, killed = 0;
    for (const StopReport& report : reports) {
      if (report.exit.success()) {
        ++idle;
        EXPECT_LT(report.elapsed, 1s);
        EXPECT_FALSE(report.terminated);
      }
      killed += report.killed;
    }
    EXPECT_EQ(idle, 2);
    EXPECT_LE(killed, 1) << "when it is continued, its control thread may be faster than its next stop";
    EXPECT_TRUE(co_await failure_of(std::move(looping)) == Errc::worker_exited);
    EXPECT_TRUE(co_await failure_of(std::move(stopped)) == Errc::worker_exited);
    for (const Event& event : log.all()) EXPECT_TRUE(event.pid == 0 || gone(event.pid));
    EXPECT_TRUE(co_await failure_of(pool.call<int>("square", 3)) == Errc::stopping);
  });
}

// A pool's stop drains the calls in flight and fails the queued ones with stopping; a second stop returns the same
// reports.
TEST_P(PoolStop, DrainsCallsInFlightAndRefusesQueuedOnes) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    options.worker.max_in_flight = 4;
    WorkerPool pool = co_await WorkerPool::start(options);
    std::vector<asio::awaitable<std::string>> calls;
    for (int i = 0; i < 8; ++i) calls.push_back(pool.call<std::string>("doze", 200));
    auto queued = pool.call<int>("square", 3);
    const CallOptions bounded{.deadline = 20s};
    const auto reports = co_await pool.stop();
    for (auto& call : calls) EXPECT_EQ(co_await std::move(call), "slept");
    EXPECT_TRUE(co_await failure_of(std::move(queued)) == Errc::stopping);
    EXPECT_TRUE(co_await failure_of(pool.call<int>(bounded, "square", 3)) == Errc::stopping);
    EXPECT_EQ(reports[0].drained + reports[1].drained, 8u);
    const auto again = co_await pool.stop();
    EXPECT_EQ(again[0].elapsed, reports[0].elapsed) << "the same report again";
  });
}

// A far deadline does not keep the context busy once its call has completed and the pool has stopped.
TEST_F(FarDeadline, KeepsNoContextBusyAfterTheStop) {
  WorkerPool pool;
  const auto began = Clock::now();
  on_one_thread([&]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    pool = co_await WorkerPool::start(options);
    const CallOptions far{.deadline = 50s};
    auto call = pool.call<std::string>(far, "doze", 100);
    co_await pool.stop();
    EXPECT_EQ(co_await std::move(call), "slept");
  });
  EXPECT_LT(since(began), 20s);
}

// shutdown_timeout bounds a stop whose grace has no bound: calls are cancelled and clean up.
TEST_P(PoolStop, IsCutShortByTheShutdownTimeout) {
  run_scenario([]() -> asio::awaitable<void> {
    auto told = std::make_shared<ReadPipe>();
    PoolOptions options = call_pool(2);
    options.worker.command.out = told->stdio();
    options.shutdown_grace = std::nullopt;
    options.shutdown_timeout = 300ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    auto call = pool.call<std::string>("nap", 30000, 10);
    co_await said(told, "napping");
    const auto began = Clock::now();
    const auto reports = co_await pool.stop();
    EXPECT_GE(since(began), 300ms);
    EXPECT_LT(since(began), 300ms + slack);
    co_await said(told, "cleaned up");
    EXPECT_TRUE(co_await failure_of(std::move(call)));
    EXPECT_EQ(reports.size(), 2u);
  });
}

asio::awaitable<int> good_body(WorkerPool& pool) { co_return co_await pool.call<int>("square", 7); }

asio::awaitable<std::unique_ptr<int>> move_only_body(WorkerPool& pool) {
  co_return std::make_unique<int>(co_await pool.call<int>("square", 7));
}

asio::awaitable<void> bad_body(WorkerPool& pool) {
  co_await pool.call<int>("square", 7);
  throw std::runtime_error("the body's");
}

// with_pool() returns the result or the exception of its body when all workers have exited.
TEST_P(WithPool, StopsThePoolHoweverItsBodyEnds) {
  run_scenario([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = call_pool(2);
    options.worker.on_event = log.handler();
    EXPECT_EQ(co_await with_pool(options, good_body), 49);
    EXPECT_EQ(*co_await with_pool(options, move_only_body), 49);
    const Failure failure = co_await failure_of(with_pool(options, bad_body));
    EXPECT_EQ(failure.text, "the body's");
    EXPECT_EQ(log.count(Event::Kind::spawned), 6u);
    for (const Event& event : log.all()) EXPECT_TRUE(gone(event.pid));
    // The body may be a lambda with captures, and may hold the last reference to what it captured.
    auto factor = std::make_shared<int>(6);
    const auto body = [factor](WorkerPool& pool) -> asio::awaitable<int> {
      co_return *factor* co_await pool.call<int>("square", 1);
    };
    EXPECT_EQ(co_await with_pool(options, body), 6);
  });
}

struct Body {
  std::shared_ptr<ReadPipe> told;
  const char* routine;
  bool swallows = false;

  asio::awaitable<int> operator()(WorkerPool& pool) {
    try {
      co_await pool.call(routine, 30000, 10);
    } catch (const std::system_error&) {
      if (!swallows) throw;
    }
    co_return 5;
  }
};

// Cancelling with_pool() cancels the calls of its body; it returns when all workers have exited, even if the body
// swallows the error.
TEST_P(WithPool, CancelledInItsBodyLeavesNoProcess) {
  run_in_strand([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    for (const bool swallows : {false, true}) {
      EventLog log;
      auto told = std::make_shared<ReadPipe>();
      PoolOptions options = call_pool(2);
      options.worker.command.out = told->stdio();
      options.worker.on_event = log.handler();
      const Body body{told, "nap", swallows};
      Task running(here, with_pool(options, body));
      co_await said(told, "napping");
      const auto began = Clock::now();
      running.cancel();
      const Failure failure = co_await running.failure();
      EXPECT_EQ(failure.aborted(), !swallows) << failure;
      co_await said(told, "cleaned up");
      EXPECT_LT(since(began), slack);
      for (const Event& event : log.all()) EXPECT_TRUE(gone(event.pid));
    }
  });
}

asio::awaitable<int> leave_behind(WorkerPool& pool, asio::any_io_executor executor, std::shared_ptr<ReadPipe> told) {
  asio::co_spawn(executor, pool.call("nap", 30000, 10), [](std::exception_ptr) {});
  co_await said(told, "napping");
  co_return 5;
}

// Cancelling with_pool() while it stops the pool cuts the stop short, however often, and leaves no process.
TEST_P(WithPool, CancelledWhileItStopsLeavesNoProcess) {
  run_in_strand([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    for (const int times : {1, 2, 3}) {
      EventLog log;
      auto told = std::make_shared<ReadPipe>();
      PoolOptions options = call_pool(2);
      options.worker.command.out = told->stdio();
      options.worker.on_event = log.handler();
      options.shutdown_grace = 30s;
      const auto body = [&](WorkerPool& pool) { return leave_behind(pool, here, told); };
      Task running(here, with_pool(options, body));
      const bool stops = co_await soon([&] { return log.count(Event::Kind::stopping) == 2; });
      EXPECT_TRUE(stops);
      const auto began = Clock::now();
      for (int i = 0; i < times; ++i) {
        running.cancel();
        co_await asio::post(here, asio::use_awaitable);
      }
      EXPECT_TRUE((co_await running.failure()).aborted());
      EXPECT_LT(since(began), slack);
      for (const Event& event : log.all()) EXPECT_TRUE(gone(event.pid)) << times;
    }
  });
}

// Cancelling with_pool() before its workers are ready leaves no process, even if they ignore SIGTERM.
TEST_P(WithPool, CancelledWhileItStartsLeavesNoProcess) {
  run_in_strand([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    for (const int times : {1, 2, 3}) {
      EventLog log;
      auto told = std::make_shared<ReadPipe>();
      PoolOptions options;
      options.size = 2;
      options.worker = worker_with({"ignore", "15", "say", "deaf", "pause"});
      options.worker.command.out = told->stdio();
      options.worker.on_event = log.handler();
      options.worker.term_grace = 300ms;
      bool begun = false;
      const auto body = [&begun](WorkerPool&) -> asio::awaitable<void> {
        begun = true;
        co_return;
      };
      Task running(here, with_pool(options, body));
      co_await said(told, "deaf");
      co_await said(told, "deaf");
      const auto began = Clock::now();
      for (int i = 0; i < times; ++i) {
        running.cancel();
        co_await asio::post(here, asio::use_awaitable);
      }
      EXPECT_TRUE((co_await running.failure()).aborted());
      EXPECT_GE(since(began), 300ms) << "it did not wait for SIGKILL";
      EXPECT_LT(since(began), 300ms + slack);
      EXPECT_FALSE(begun);
      EXPECT_EQ(log.count(Event::Kind::spawned), 2);
      for (const Event& event : log.all()) EXPECT_TRUE(gone(event.pid)) << times;
    }
  });
}

// A stop that is cancelled once terminates the workers and waits; cancelled again it leaves them to the reaper thread.
TEST_P(PoolStop, CancelledOnceWaitsAndTwiceLeavesTheReaper) {
  run_in_strand([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    for (const int times : {1, 2}) {
      EventLog log;
      PoolOptions options = call_pool(2);
      options.worker.term_grace = 300ms;
      options.worker.on_event = log.handler();
      WorkerPool pool = co_await WorkerPool::start(options);
      std::vector<pid_t> pids;
      for (const auto& worker : pool.workers()) pids.push_back(worker.pid);
      auto spinning = pool.call("spin");
      ::kill(pids.front(), SIGSTOP);
      Task stopping(here, pool.stop());
      const bool stops = co_await soon([&] { return log.count(Event::Kind::stopping) == 2; });
      EXPECT_TRUE(stops);
      const auto began = Clock::now();
      for (int i = 0; i < times; ++i) {
        stopping.cancel();
        co_await asio::post(here, asio::use_awaitable);
      }
      EXPECT_TRUE((co_await stopping.failure()).aborted());
      EXPECT_LT(since(began), 300ms + slack);
      EXPECT_TRUE(times == 2 || std::all_of(pids.begin(), pids.end(), gone));
      const bool all_gone = co_await soon([&] { return std::all_of(pids.begin(), pids.end(), gone); });
      EXPECT_TRUE(all_gone);
      EXPECT_TRUE(co_await failure_of(std::move(spinning)));
    }
  });
}

}  // namespace
