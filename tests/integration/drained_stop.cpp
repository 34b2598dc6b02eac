// WorkerPool::stop() that lets waiting calls run first.
#include <gtest/gtest.h>
#include <signal.h>
#include <string>
#include <vector>

#include "support/calls.hpp"

namespace {

using namespace support;
using drover::StopOptions;

class DrainedStop : public CallsAnywhere {};
INSTANTIATE_TEST_SUITE_P(On, DrainedStop, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);
class DrainedStopElsewhere : public Calls {};

constexpr StopOptions patient{.drain_queue = true, .grace = 30s};

/// A pool of one worker, which runs a call, and calls behind that one.
struct Busy {
  WorkerPool pool;
  std::vector<asio::awaitable<std::string>> calls;
  std::vector<pid_t> pids;
};

asio::awaitable<Busy> busy_pool(PoolOptions options, int milliseconds, int waiting) {
  Busy busy;
  busy.pool = co_await WorkerPool::start(std::move(options));
  for (const auto& worker : busy.pool.workers()) busy.pids.push_back(worker.pid);
  for (int i = 0; i <= waiting; ++i) busy.calls.push_back(busy.pool.call<std::string>("doze", milliseconds));
  co_return busy;
}

asio::awaitable<bool> all_gone(std::vector<pid_t> pids) {
  const bool found = co_await soon([&] { return std::all_of(pids.begin(), pids.end(), gone); });
  co_return found;
}

// What waits is run, new calls are refused at once.
TEST_P(DrainedStop, RunsWhatWaits) {
  run_scenario([]() -> asio::awaitable<void> {
    Busy busy = co_await busy_pool(call_pool(1), 100, 5);
    EXPECT_EQ(busy.pool.stats().queued, 5u);
    auto stopping = busy.pool.stop(patient);
    const auto began = Clock::now();
    EXPECT_TRUE(co_await failure_of(busy.pool.call<int>("square", 3)) == Errc::stopping);
    EXPECT_TRUE(busy.pool.stats().queued > 0) << "at once";
    const auto reports = co_await std::move(stopping);
    EXPECT_LT(since(began), 600ms + slack);
    for (auto& call : busy.calls) EXPECT_EQ(co_await std::move(call), "slept");
    EXPECT_EQ(reports.size(), 1u);
    EXPECT_TRUE(reports.front().exit.success());
    EXPECT_TRUE(gone(busy.pids.front()));
  });
}

// Without drain_queue it is a stop with another grace.
TEST_P(DrainedStop, WithoutItsOptionRefusesWhatWaits) {
  run_scenario([]() -> asio::awaitable<void> {
    Busy busy = co_await busy_pool(call_pool(1), 30000, 1);
    const auto began = Clock::now();
    const StopOptions slow{.grace = 20s}, quick{.grace = 50ms};
    auto stopping = busy.pool.stop(slow);
    EXPECT_TRUE(co_await failure_of(std::move(busy.calls[1])) == Errc::stopping);
    EXPECT_LT(since(began), 10s) << "at once";
    const auto shortened = Clock::now();
    co_await busy.pool.stop(quick);
    EXPECT_GE(since(shortened), 50ms);
    EXPECT_LT(since(shortened), 50ms + slack);
    EXPECT_TRUE(co_await failure_of(std::move(busy.calls[0])) == Errc::stopping);
    co_await std::move(stopping);
  });
}

// An idle pool stops at once.
TEST_P(DrainedStop, OfAnIdlePoolIsAStop) {
  run_scenario([]() -> asio::awaitable<void> {
    Busy busy = co_await busy_pool(call_pool(2), 0, -1);
    const StopOptions endless{.drain_queue = true, .grace = std::nullopt};
    const auto reports = co_await busy.pool.stop(endless);
    EXPECT_EQ(reports.size(), 2u);
    const auto again = co_await busy.pool.stop(patient);
    EXPECT_EQ(again.at(0).elapsed, reports.at(0).elapsed) << "the same report again";
  });
}

// What still waits when the grace is over fails with stopping, and what runs is cancelled.
TEST_P(DrainedStop, EndsWhenTheGraceIsOver) {
  run_scenario([]() -> asio::awaitable<void> {
    Busy busy = co_await busy_pool(call_pool(1), 30000, 2);
    const auto began = Clock::now();
    const StopOptions short_grace{.drain_queue = true, .grace = 100ms};
    co_await busy.pool.stop(short_grace);
    EXPECT_GE(since(began), 100ms);
    EXPECT_LT(since(began), 100ms + slack);
    for (auto& call : busy.calls) EXPECT_TRUE(co_await failure_of(std::move(call)) == Errc::stopping);
  });
}

// shutdown_timeout counts from the call of stop(), not from the end of the draining.
TEST_P(DrainedStop, IsCutShortByTheShutdownTimeout) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.shutdown_timeout = 100ms;
    Busy busy = co_await busy_pool(std::move(options), 30000, 1);
    const auto began = Clock::now();
    co_await busy.pool.stop(patient);
    EXPECT_GE(since(began), 100ms);
    EXPECT_LT(since(began), 100ms + slack);
    for (auto& call : busy.calls) EXPECT_TRUE(co_await failure_of(std::move(call)));
  });
}

// It begins when it is called, and goes on if nobody awaits it.
TEST_P(DrainedStop, GoesOnIfNobodyAwaitsIt) {
  run_scenario([]() -> asio::awaitable<void> {
    Busy busy = co_await busy_pool(call_pool(1), 20, 2);
    {
      const auto unwanted = busy.pool.stop(patient);
    }
    for (auto& call : busy.calls) EXPECT_EQ(co_await std::move(call), "slept");
    const bool ended = co_await all_gone(busy.pids);
    EXPECT_TRUE(ended);
    Busy endless = co_await busy_pool(call_pool(1), 30000, 1);
    {
      const StopOptions short_grace{.drain_queue = true, .grace = 50ms};
      const auto unwanted = endless.pool.stop(short_grace);
    }
    for (auto& call : endless.calls) EXPECT_TRUE(co_await failure_of(std::move(call)) == Errc::stopping);
    const bool cut = co_await all_gone(endless.pids);
    EXPECT_TRUE(cut);
  });
}

// A second one joins. The shorter grace counts.
TEST_P(DrainedStop, LaterOneMayOnlyShortenIt) {
  run_in_strand([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    for (const Duration second : {Duration(100ms), Duration(60s)}) {
      Busy busy = co_await busy_pool(call_pool(1), second == 60s ? 50 : 30000, 2);
      const auto began = Clock::now();
      const StopOptions later{.drain_queue = true, .grace = second};
      Task first(here, busy.pool.stop(patient));
      Task other(here, busy.pool.stop(later));
      const auto reports = co_await first.result();
      const auto same = co_await other.result();
      EXPECT_EQ(reports.at(0).elapsed, same.at(0).elapsed);
      EXPECT_GE(since(began), 100ms);
      EXPECT_LT(since(began), 150ms + slack);
      for (auto& call : busy.calls) {
        const Failure failure = co_await failure_of(std::move(call));
        EXPECT_EQ(failure == Errc::stopping, second != 60s) << failure;
      }
    }
  });
}

// A plain stop ends the draining: what waits fails, what runs has that stop's grace.
TEST_P(DrainedStop, IsEndedByAPlainStop) {
  run_in_strand([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    Busy busy = co_await busy_pool(call_pool(1), 200, 1);
    Task draining(here, busy.pool.stop(patient));
    co_await asio::post(here, asio::use_awaitable);
    co_await busy.pool.stop();
    EXPECT_EQ(co_await std::move(busy.calls[0]), "slept");
    EXPECT_TRUE(co_await failure_of(std::move(busy.calls[1])) == Errc::stopping);
    const auto reports = co_await draining.result();
    EXPECT_EQ(reports.size(), 1u);
  });
}

// A worker that dies meanwhile is replaced, and the new one runs what waits.
TEST_P(DrainedStop, ReplacesWorkersThatDie) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.restart.backoff = 1ms;
    Busy busy = co_await busy_pool(std::move(options), 100, 2);
    auto stopping = busy.pool.stop(patient);
    ::kill(busy.pids.front(), SIGKILL);
    co_await std::move(stopping);
    EXPECT_TRUE(co_await failure_of(std::move(busy.calls[0])) == Errc::worker_exited);
    EXPECT_EQ(co_await std::move(busy.calls[1]), "slept");
    EXPECT_EQ(co_await std::move(busy.calls[2]), "slept");
    EXPECT_EQ(busy.pool.stats().restarts, 1u);
  });
}

// What a worker that drains by itself hands back is still run.
TEST_P(DrainedStop, RunsWhatComesBack) {
  run_scenario([]() -> asio::awaitable<void> {
    auto told = std::make_shared<ReadPipe>();
    PoolOptions options = call_pool(1);
    options.restart.backoff = 1ms;
    options.worker.max_in_flight = 4;
    options.worker.on_terminate = drover::OnTerminate::drain;
    options.worker.command.out = told->stdio();
    WorkerPool pool = co_await WorkerPool::start(std::move(options));
    const pid_t first = pool.workers().front().pid;
    auto running = pool.call<std::string>("work", 200);
    co_await said(told, "working");
    std::vector<asio::awaitable<int>> sent;
    for (int i = 0; i < 3; ++i) sent.push_back(pool.call<int>("pid"));
    auto stopping = pool.stop(patient);
    ::kill(first, SIGTERM);
    EXPECT_EQ(co_await std::move(running), "worked");
    for (auto& call : sent) EXPECT_NE(co_await std::move(call), first);
    co_await std::move(stopping);
  });
}

// Cancelled once it terminates the workers and waits, cancelled twice it leaves them to the reaper thread.
TEST_P(DrainedStop, CancelledWhileItDrainsLeavesNoProcess) {
  run_in_strand([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    for (const int times : {1, 2}) {
      Busy busy = co_await busy_pool(call_pool(1), 30000, 1);
      Task stopping(here, busy.pool.stop(patient));
      co_await asio::post(here, asio::use_awaitable);
      EXPECT_FALSE(stopping.done());
      const auto began = Clock::now();
      for (int i = 0; i < times; ++i) {
        stopping.cancel();
        co_await asio::post(here, asio::use_awaitable);
      }
      EXPECT_TRUE((co_await stopping.failure()).aborted());
      EXPECT_LT(since(began), slack);
      EXPECT_TRUE(times == 2 || gone(busy.pids.front()));
      EXPECT_TRUE(co_await failure_of(std::move(busy.calls[0])));
      EXPECT_TRUE(co_await failure_of(std::move(busy.calls[1])) == Errc::stopping);
      const bool ended = co_await all_gone(busy.pids);
      EXPECT_TRUE(ended);
    }
  });
}

// Cancelled twice it does not wait for a worker that is still there.
TEST_P(DrainedStop, CancelledTwiceLeavesTheReaper) {
  run_in_strand([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    auto told = std::make_shared<ReadPipe>();
    PoolOptions options = call_pool(1);
    options.worker.term_grace = 3s;
    options.worker.command.out = told->stdio();
    WorkerPool pool = co_await WorkerPool::start(std::move(options));
    const pid_t worker = pool.workers().front().pid;
    auto spinning = pool.call("spin");
    co_await said(told, "spinning");
    Task stopping(here, pool.stop(patient));
    co_await asio::post(here, asio::use_awaitable);
    stopping.cancel();
    co_await asio::post(here, asio::use_awaitable);
    stopping.cancel();
    EXPECT_TRUE((co_await stopping.failure()).aborted());
    EXPECT_FALSE(gone(worker));
    EXPECT_TRUE(co_await failure_of(std::move(spinning)) == Errc::worker_exited);
    const std::vector<pid_t> pids{worker};
    const bool ended = co_await all_gone(pids);
    EXPECT_TRUE(ended);
  });
}

// Cancelled after the draining it is a stop that is cancelled.
TEST_P(DrainedStop, CancelledAfterItHasDrainedLeavesNoProcess) {
  run_in_strand([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    EventLog log;
    PoolOptions options = call_pool(1);
    options.worker.on_event = log.handler();
    options.worker.term_grace = 300ms;
    Busy busy = co_await busy_pool(std::move(options), 20, 1);
    Task stopping(here, busy.pool.stop(patient));
    for (auto& call : busy.calls) EXPECT_EQ(co_await std::move(call), "slept");
    ::kill(busy.pids.front(), SIGSTOP);
    const bool stops = co_await soon([&] { return log.count(Event::Kind::stopping) == 1 || stopping.done(); });
    EXPECT_TRUE(stops);
    const auto began = Clock::now();
    const bool before = !stopping.done();
    stopping.cancel();
    const Failure failure = co_await stopping.failure();
    EXPECT_EQ(failure.aborted(), before) << failure;
    EXPECT_LT(since(began), 300ms + slack);
    EXPECT_TRUE(gone(busy.pids.front()));
  });
}

// The pool may be destroyed while it drains.
TEST_P(DrainedStop, EndsWithThePool) {
  run_scenario([]() -> asio::awaitable<void> {
    Busy busy = co_await busy_pool(call_pool(1), 30000, 1);
    {
      const auto unwanted = busy.pool.stop(patient);
    }
    busy.pool = WorkerPool();
    for (auto& call : busy.calls) EXPECT_TRUE((co_await failure_of(std::move(call))).aborted());
    const bool ended = co_await all_gone(busy.pids);
    EXPECT_TRUE(ended);
  });
}

// A negative grace is an error that stops nothing; an empty pool is not running.
TEST_P(DrainedStop, RefusesANegativeGraceAndAnEmptyPool) {
  run_scenario([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(1));
    const StopOptions wrong{.drain_queue = true, .grace = -1ms};
    try {
      co_await pool.stop(wrong);
      ADD_FAILURE() << "it was accepted";
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find("StopOptions::grace"), std::string::npos) << error.what();
    }
    EXPECT_EQ(co_await pool.call<int>("square", 3), 9) << "nothing has begun";
    co_await pool.stop();
    WorkerPool none;
    EXPECT_TRUE(co_await failure_of(none.stop(patient)) == Errc::not_running);
  });
}

// Its time is kept although nobody runs the pool's context.
TEST_F(DrainedStopElsewhere, KeepsItsTimeWhileThePoolsContextIsIdle) {
  asio::io_context idle(1);
  Busy busy;
  bool started = false;
  asio::co_spawn(idle, busy_pool(call_pool(1), 30000, 1), [&](std::exception_ptr failure, Busy made) {
    EXPECT_FALSE(failure);
    busy = std::move(made);
    started = true;
  });
  while (!started && idle.run_one_for(10s) != 0) continue;
  ASSERT_TRUE(started);
  on_one_thread([&]() -> asio::awaitable<void> {
    const auto began = Clock::now();
    const StopOptions short_grace{.drain_queue = true, .grace = 100ms};
    const auto reports = co_await busy.pool.stop(short_grace);
    EXPECT_GE(since(began), 100ms);
    EXPECT_LT(since(began), 100ms + slack);
    EXPECT_EQ(reports.size(), 1u);
    EXPECT_TRUE(gone(busy.pids.front()));
    for (auto& call : busy.calls) EXPECT_TRUE(co_await failure_of(std::move(call)) == Errc::stopping);
  });
  busy.pool = WorkerPool();
}

}  // namespace
