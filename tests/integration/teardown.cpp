// Every process is reaped whatever is cancelled or destroyed first, of callers, owners and contexts, and at any moment.
#include <atomic>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <signal.h>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/strand.hpp>
#include <asio/thread_pool.hpp>

#include "support/workers.hpp"

namespace {

using namespace support;
using drover::Timeout;

class Teardown : public Workers {};

class TornDownStop : public Workers {};

WorkerOptions brief() {
  WorkerOptions options = plain_worker();
  options.stop_margin = 2s;
  options.term_grace = 1s;
  return options;
}

// ---- a scenario is torn down after each number of handlers ----------------------------------------------------------

/// The objects of a scenario that are destroyed before or after its context.
struct Owned {
  std::shared_ptr<LocalWorker> worker;
  std::shared_ptr<WorkerPool> pool;
};

asio::awaitable<void> with_a_worker(std::shared_ptr<Owned> owned) {
  const auto worker = owned->worker;
  co_await worker->start(10s);
  EXPECT_EQ(co_await worker->call<int>("square", 3), 9);
  auto nap = worker->call<std::string>("doze", 20);
  co_await worker->status();
  auto stop = worker->stop(5s);
  co_await std::move(nap);
  co_await std::move(stop);
}

asio::awaitable<void> with_an_endless_call(std::shared_ptr<Owned> owned) {
  const auto worker = owned->worker;
  co_await worker->start(10s);
  auto call = worker->call("doze", 30000);
  co_await worker->stop(0s);
  co_await failure_of(std::move(call));
}

asio::awaitable<void> with_a_failing_start(std::shared_ptr<Owned> owned) {
  const auto worker = owned->worker;
  co_await failure_of(worker->start(15ms));
  co_await worker->stop();
}

asio::awaitable<void> with_a_pool(std::shared_ptr<Owned> owned) {
  drover::PoolOptions options;
  options.size = 2;
  options.worker = brief();
  owned->pool = std::make_shared<WorkerPool>(co_await WorkerPool::start(options));
  const auto pool = owned->pool;
  auto first = pool->call<int>("square", 3);
  auto second = pool->call<std::string>("doze", 10);
  auto third = pool->call<int>("square", 4);
  EXPECT_EQ(co_await std::move(first), 9);
  EXPECT_EQ(co_await std::move(third), 16);
  co_await pool->stop();
  co_await std::move(second);
}

asio::awaitable<void> with_a_pool_around(std::shared_ptr<Owned>) {
  drover::PoolOptions options;
  options.size = 2;
  options.worker = brief();
  auto body = [](WorkerPool& pool) -> asio::awaitable<int> { co_return co_await pool.call<int>("square", 5); };
  EXPECT_EQ(co_await drover::with_pool(options, body), 25);
}

enum class First { context, owner, neither_is_stopped };

/// Runs this many handlers of the scenario, then destroys everything. Returns false if the scenario was complete
/// before.
bool torn_down_after(int handlers, First first, std::vector<std::string> steps,
                     asio::awaitable<void> (*scenario)(std::shared_ptr<Owned>)) {
  auto context = std::make_unique<asio::io_context>(1);
  auto owned = std::make_shared<Owned>();
  WorkerOptions options = brief();
  options.command.args = std::move(steps);
  options.on_event = [](const Event&) {};
  owned->worker = std::make_shared<LocalWorker>(context->get_executor(), options);
  bool done = false;
  asio::co_spawn(*context, scenario(owned), [&](std::exception_ptr thrown) {
    EXPECT_FALSE(thrown) << describe(thrown);
    done = true;
  });
  int ran = 0;
  while (ran < handlers && !done && context->run_one_for(5s) != 0) ++ran;
  switch (first) {
    case First::context:
      context.reset();
      owned.reset();
      break;
    case First::owner:
      owned->worker = nullptr;  // coroutine frames of the scenario may share it
      owned->pool = nullptr;
      context.reset();
      break;
    case First::neither_is_stopped:  // the context is stopped, and destroyed some time later
      context->stop();
      owned.reset();
      ::poll(nullptr, 0, 1);
      context.reset();
      break;
  }
  EXPECT_TRUE(soon_childless(1s + slack)) << handlers;
  return !done;
}

void tear_down_everywhere(asio::awaitable<void> (*scenario)(std::shared_ptr<Owned>),
                          std::vector<std::string> steps = {}) {
  const First orders[] = {First::context, First::owner, First::neither_is_stopped};
  int handlers = 0;
  for (; torn_down_after(handlers, orders[handlers % 3], steps, scenario); ++handlers) {
    ASSERT_LT(handlers, 400) << "it never ends";
    if (handlers % 3 == 2) continue;
    torn_down_after(handlers, orders[(handlers + 1) % 3], steps, scenario);
  }
  EXPECT_GT(handlers, 3);
}

// Everything is destroyed after each number of handlers of a worker's life; no process is left.
TEST_F(Teardown, OfAWorkerAtAnyStepLeavesNoProcess) { tear_down_everywhere(with_a_worker); }
// Everything is destroyed after each number of handlers while a call never ends; no process is left.
TEST_F(Teardown, OfAnEndlessCallAtAnyStepLeavesNoProcess) { tear_down_everywhere(with_an_endless_call); }
// Everything is destroyed after each number of handlers of a start that fails; no process is left.
TEST_F(Teardown, OfAFailingStartAtAnyStepLeavesNoProcess) {
  tear_down_everywhere(with_a_failing_start, {"sleep", "30000"});
  tear_down_everywhere(with_a_failing_start, {"unarmed", "garbage", "pause"});
  tear_down_everywhere(with_a_failing_start, {"exit", "3"});
}
// Everything is destroyed after each number of handlers of a pool's life; no process is left.
TEST_F(Teardown, OfAPoolAtAnyStepLeavesNoProcess) { tear_down_everywhere(with_a_pool); }
// Everything is destroyed after each number of handlers of with_pool(); no process is left.
TEST_F(Teardown, OfWithPoolAtAnyStepLeavesNoProcess) { tear_down_everywhere(with_a_pool_around); }

// ---- cancelled after each number of handlers ------------------------------------------------------------------------

/// Cancels the scenario once or twice, the second time `again_after` handlers later. Returns false if it was complete
/// before.
bool cancelled_after(int handlers, int again_after, asio::awaitable<void> (*scenario)(std::shared_ptr<Owned>)) {
  asio::io_context context(1);
  auto owned = std::make_shared<Owned>();
  owned->worker = std::make_shared<LocalWorker>(context.get_executor(), brief());
  const Task<void> task(context.get_executor(), scenario(owned));
  const auto run_handlers = [&](int count) {
    for (int i = 0; i < count && !task.done() && context.run_one_for(5s) != 0;) ++i;
  };
  run_handlers(handlers);
  const bool in_time = !task.done();
  if (in_time) task.cancel();
  if (again_after > 0) {
    run_handlers(again_after);
    if (!task.done()) task.cancel();
  }
  const Failure failure = support::run(context, task.failure(), 10s);
  EXPECT_TRUE(!failure || failure.aborted()) << handlers << ": " << failure;
  owned.reset();
  EXPECT_TRUE(soon_childless(1s + slack)) << handlers;
  return in_time;
}

// A scenario that is cancelled after any number of handlers, once or twice, leaves no process.
TEST_F(Teardown, ByCancellationAtAnyStepLeavesNoProcess) {
  for (const auto scenario : {with_a_worker, with_an_endless_call, with_a_pool, with_a_pool_around})
    for (const int again_after : {0, 1, 3})
      for (int handlers = 0; cancelled_after(handlers, again_after, scenario); ++handlers) ASSERT_LT(handlers, 400);
}

// A stop that is cancelled once terminates the worker and waits for that; cancelled again it returns at once.
TEST_F(TornDownStop, CancelledOnceTerminatesAndTwiceReturns) {
  const auto cancelled = [](int times, std::vector<std::string> steps, Duration at_most,
                            std::optional<int> signo) -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    WorkerOptions options = brief();
    options.command.args = std::move(steps);
    options.term_grace = 600ms;
    const Started s = co_await started(options);
    const Task<std::string> call(executor, s.worker->call<std::string>("nap", 30000, 0));
    co_await said(s.pipe, "napping");
    if (signo) ::kill(s.worker->pid(), *signo);
    const pid_t pid = s.worker->pid();
    const Task<StopReport> stop(executor, s.worker->stop(30s));
    co_await pause_for(100ms);
    EXPECT_FALSE(stop.done());
    const auto start = Clock::now();
    for (int i = 0; i < times; ++i) {
      stop.cancel();
      co_await asio::post(executor, asio::use_awaitable);
    }
    EXPECT_TRUE((co_await stop.failure()).aborted());
    EXPECT_LT(since(start), times == 1 ? at_most + slack : 100ms + slack);
    if (times == 1) {
      EXPECT_TRUE(gone(pid));
    }
    EXPECT_TRUE(co_await sees_gone(pid, at_most + slack - since(start)));
    co_await call.ended();
  };
  const std::vector<std::string> willing{}, stubborn{"ignore", "15"};
  run_together({
      [&] { return cancelled(1, willing, 0ms, {}); },
      [&] { return cancelled(2, willing, 0ms, {}); },
      [&] { return cancelled(1, stubborn, 600ms, SIGSTOP); },
      [&] { return cancelled(2, stubborn, 600ms, SIGSTOP); },
      [&] { return cancelled(1, willing, 600ms, SIGSTOP); },
      [&] { return cancelled(2, willing, 600ms, SIGSTOP); },
      [&] { return cancelled(5, willing, 0ms, {}); },
  });
  EXPECT_TRUE(soon_childless());
}

// A stop() in the catch block of a cancelled coroutine throws at once and still stops the worker.
TEST_F(TornDownStop, InACancelledCoroutineStillStopsTheWorker) {
  run_together({[]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const auto worker = std::make_shared<LocalWorker>(executor, brief());
    const auto body = [](std::shared_ptr<LocalWorker> w) -> asio::awaitable<void> {
      std::exception_ptr thrown;
      try {
        co_await w->call("doze", 30000);
      } catch (...) {
        thrown = std::current_exception();
      }
      co_await w->stop(0s);  // throws at once, but the stop has begun
    };
    co_await worker->start();
    const Task<void> task(executor, body(worker));
    while ((co_await worker->status()).in_flight == 0) co_await pause_for(1ms);
    task.cancel();
    EXPECT_TRUE((co_await task.failure()).aborted());
    EXPECT_TRUE(co_await sees_gone(worker->pid()));
    const StopReport report = co_await worker->stop();
    EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
  }});
}

// stop() is awaited on one context while the worker's own context is destroyed; it still waits for the exit.
TEST_F(TornDownStop, SurvivesTheWorkersContext) {
  auto workers = std::make_unique<asio::io_context>(1);
  WorkerOptions options = brief();
  options.term_grace = 300ms;
  options.command.args = {"ignore", "15"};
  LocalWorker worker(workers->get_executor(), options);
  run(*workers, worker.start());
  ::kill(worker.pid(), SIGSTOP);
  await_stopped(worker.pid());
  asio::io_context here(1);
  const Task<StopReport> stop(here.get_executor(), worker.stop(30s));
  here.poll();
  const auto start = Clock::now();
  workers.reset();
  EXPECT_LT(since(start), 100ms) << "a destructor has blocked";
  const StopReport report = support::run(here, stop.result());
  EXPECT_TRUE(report.terminated);
  EXPECT_EQ(report.rpc, drover::make_error_code(Errc::connection_lost)) << report.rpc.message();
  EXPECT_TRUE(gone(worker.pid()));
  EXPECT_LT(since(start), 300ms + slack);
}

// The destructor of a worker does not block, even if the process ignores SIGTERM and is suspended.
TEST_F(Teardown, WorkerDestructorDoesNotBlock) {
  asio::io_context context;
  WorkerOptions options = brief();
  options.command.args = {"ignore", "15"};
  options.term_grace = 300ms;
  auto worker = std::make_unique<LocalWorker>(context.get_executor(), options);
  run(context, worker->start());
  const pid_t pid = worker->pid();
  ::kill(pid, SIGSTOP);
  const auto start = Clock::now();
  worker.reset();
  EXPECT_LT(since(start), 50ms);
  EXPECT_TRUE(soon_gone(pid, 300ms + slack));
  EXPECT_TRUE(soon_childless());
}

}  // namespace
