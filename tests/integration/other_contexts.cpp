// Operations awaited on another context than the worker's: a stop does not need the worker's context to run, and a
// start keeps its timeout.
#include <atomic>
#include <gtest/gtest.h>
#include <thread>

#include <asio/bind_executor.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>

#include "support/calls.hpp"
#include "support/own_context.hpp"

namespace {

using namespace support;

class Stop : public Workers {};

class PoolStopAndReap : public Workers {};
class Start : public Workers {};

// A stop awaited elsewhere completes although the worker's context is stopped; calls complete once that runs again.
TEST_F(Stop, CompletesWhileWorkersContextIsStopped) {
  const Folder folder;
  asio::io_context stopped, here;
  WorkerOptions options = call_worker();
  options.max_in_flight = 2;
  options.term_grace = 300ms;
  std::atomic<bool> returned{false}, late{false};
  options.on_event = [&](const Event&) {
    if (returned) late = true;
  };
  LocalWorker worker(stopped.get_executor(), options);
  Failure answered, cut;
  int ends = 0;
  const auto begin = [&]() -> asio::awaitable<void> {
    co_await worker.start();
    asio::co_spawn(stopped, failure_of(worker.call("append", folder.file("done"), 1)),
                   [&](std::exception_ptr, Failure f) {
                     answered = f;
                     ++ends;
                   });
    asio::co_spawn(stopped, failure_of(worker.call<std::string>("doze", 30000)), [&](std::exception_ptr, Failure f) {
      cut = f;
      ++ends;
    });
    stopped.stop();
    while (folder.numbers("done").empty()) std::this_thread::yield();  // its result has arrived and has not been read
  };
  asio::co_spawn(stopped, begin(), asio::detached);
  stopped.run();
  const auto start = Clock::now();
  const StopReport report = run(here, worker.stop(0s));
  returned = true;
  EXPECT_LT(since(start), 5s);
  EXPECT_FALSE(report.rpc) << report.rpc.message();
  EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
  expect_gone(worker);
  stopped.restart();
  stopped.run_for(10s);
  EXPECT_EQ(ends, 2) << "calls end where they are awaited";
  EXPECT_FALSE(answered) << answered;
  EXPECT_TRUE(cut == Errc::stopping) << cut;
  EXPECT_FALSE(late) << "an event after stop() had returned";
}

// The worker's context has seen the exit, and was stopped by the coroutine that it resumed with the last result.
TEST_F(Stop, FinishesWhatTheStoppedContextBegan) {
  asio::io_context stopped, here;
  LocalWorker worker(stopped.get_executor(), call_worker());
  const auto begin = [&]() -> asio::awaitable<void> {
    co_await worker.start();
    auto last = worker.call("exit_answered", 0);
    await_told_end(worker.pid());
    co_await std::move(last);
    stopped.stop();
  };
  asio::co_spawn(stopped, begin(), asio::detached);
  stopped.run();
  const auto start = Clock::now();
  const StopReport report = run(here, worker.stop(0s));
  EXPECT_LT(since(start), slack);
  EXPECT_EQ(report.rpc, make_error_code(Errc::worker_exited));
  EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
  expect_gone(worker);
}

// A stop awaited elsewhere returns after slow event handlers on the worker's context have run.
TEST_F(Stop, WaitsForSlowEventHandlers) {
  asio::io_context there, here;
  auto busy = asio::make_work_guard(there);
  std::thread runs([&] { there.run(); });
  std::atomic<int> heard{0};
  {
    WorkerOptions options = plain_worker();
    options.term_grace = 0s;
    options.on_event = [&](const Event& event) {
      std::this_thread::sleep_for(50ms);
      if (event.kind == Event::Kind::stopping || event.kind == Event::Kind::exited || event.kind == Event::Kind::reaped)
        ++heard;
    };
    LocalWorker worker(there.get_executor(), options);
    run(here, worker.start());
    run(here, worker.stop(5s));
    EXPECT_EQ(heard, 3);
  }
  busy.reset();
  runs.join();
}

// A pool's stop and a reap awaited elsewhere complete although the context of the pool and the process is stopped.
TEST_F(PoolStopAndReap, CompleteWhileContextIsStopped) {
  asio::io_context stopped, here;
  WorkerPool pool;
  drover::WorkerProcess process(stopped.get_executor(), plain_worker());
  const auto begin = [&]() -> asio::awaitable<void> {
    pool = co_await WorkerPool::start(call_pool(16));
    co_await process.start();
    stopped.stop();
  };
  asio::co_spawn(stopped, begin(), asio::detached);
  stopped.run();
  const auto start = Clock::now();
  const auto reports = run(here, pool.stop());
  EXPECT_LT(since(start), slack) << "one after the other";
  ASSERT_EQ(reports.size(), 16u);
  for (const auto& report : reports) EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
  EXPECT_TRUE(run(here, process.reap(0s)).exit.success());
  EXPECT_FALSE(process.alive());
}

// The thread that completes calls has no work of their callers' context: see AsyncEvent's test.
TEST_F(Calls, AreCompletedWithoutWorkOfTheCallersContext) {
  asio::io_context there;
  auto busy = asio::make_work_guard(there);
  WorkerPool pool;
  asio::co_spawn(there, WorkerPool::start(call_pool(1)), [&](const std::exception_ptr& thrown, WorkerPool started) {
    EXPECT_EQ(thrown, nullptr);
    pool = std::move(started);
    there.stop();
  });
  there.run();
  there.restart();
  std::jthread runs([&] { there.run(); });
  struct End {  // also if something throws
    ~End() { context.stop(); }
    asio::io_context& context;
  } const end{there};
  OwnContext here;
  int ends = 0;
  const auto executor = asio::any_io_executor(here.get_executor());
  const auto ended = [&](const std::exception_ptr& thrown, int square) {
    EXPECT_EQ(thrown, nullptr);
    EXPECT_EQ(square, 49);
    ++ends;
  };
  asio::co_spawn(executor, pool.call<int>("square", 7), ended);
  pool.async_call<int>("square", 7, asio::bind_executor(executor, ended));
  for (const auto start = Clock::now(); ends < 2 && since(start) < 20s;) here.poll();
  EXPECT_EQ(ends, 2);
  EXPECT_EQ(here.tracked_from_elsewhere(), 0);
  EXPECT_EQ(here.work(), 0);
  EXPECT_EQ(run(pool.stop()).size(), 1u);
}

// A start awaited elsewhere ends at its timeout although the worker's context does not run.
TEST_F(Start, TimesOutWhileWorkersContextIsIdle) {
  asio::io_context idle, here;
  LocalWorker never(idle.get_executor(), worker_with({"pause"}));
  const auto start = Clock::now();
  const Failure failure = run(here, failure_of(never.start(300ms)));
  EXPECT_TRUE(failure == Errc::start_timeout) << failure;
  EXPECT_GE(since(start), 300ms);
  EXPECT_LT(since(start), 300ms + slack);
  expect_gone(never);
  // At the timeout it turns out that this worker is ready.
  LocalWorker ready(idle.get_executor(), plain_worker());
  run(here, ready.start(2s));
  EXPECT_TRUE(ready.alive());
  EXPECT_TRUE(run(here, ready.stop(0s)).exit.success());
  expect_gone(ready);
}

}  // namespace
