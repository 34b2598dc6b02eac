// A worker that exits because of a signal from outside announces that to its parent, so that no call is lost.
#include <gtest/gtest.h>
#include <random>
#include <set>
#include <signal.h>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>

#include "support/callers.hpp"
#include "support/calls.hpp"

namespace {

using namespace support;

class GracefulExit : public Calls {};

/// Signals one worker after another while calls are in flight all the time.
asio::awaitable<void> signalled_under_load(int signo, std::size_t max_in_flight) {
  PoolOptions options = call_pool(2);
  options.worker.max_in_flight = max_in_flight;
  options.restart.backoff = 1ms;
  WorkerPool pool = co_await WorkerPool::start(options);
  constexpr int callers = 32, calls = 200, between_signals = 250;
  const auto tally = spawn_callers(co_await asio::this_coro::executor, pool, callers, calls);
  std::mt19937 random(5);
  for (int next = between_signals; tally->left != 0; co_await pause_for(1ms)) {
    if (tally->good < next) continue;
    next = tally->good + between_signals;
    const auto workers = pool.workers();
    if (!workers.empty()) ::kill(workers[random() % workers.size()].pid, signo);
  }
  EXPECT_EQ(tally->good, callers * calls) << tally->stopping << " stopping, " << tally->exited << " worker_exited, "
                                          << tally->other << " others; the last: " << tally->text;
  EXPECT_EQ(pool.stats().crashes, 0u);
  EXPECT_GT(pool.stats().restarts, 3u);
  co_await pool.stop();
}

// Calls that a worker has not begun go to another worker; calls that it has begun are short enough to finish.
TEST_F(GracefulExit, LosesNoCallUnderLoad) {
  for (const int signo : {SIGTERM, SIGINT})
    for (const std::size_t in_flight : {std::size_t{1}, std::size_t{8}}) {
      SCOPED_TRACE(signo);
      on_one_thread([signo, in_flight] { return signalled_under_load(signo, in_flight); });
    }
}

// A call that has begun and is cancelled by SIGTERM fails with the worker's exit status.
TEST_F(GracefulExit, CancelledCallFailsWithTheExitStatus) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    WorkerOptions options = call_worker();
    options.on_event = log.handler();
    const auto told = std::make_shared<ReadPipe>();
    options.command.out = told->stdio();
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    const Task<std::string> begun(co_await asio::this_coro::executor, worker.call<std::string>("nap", 30000, 0));
    const Task<int> queued(co_await asio::this_coro::executor, worker.call<int>("square", 3));
    co_await said(told, "napping");
    ::kill(worker.pid(), SIGTERM);
    const Failure of_begun = co_await begun.failure();
    const Failure of_queued = co_await queued.failure();
    for (const Failure& failure : {of_begun, of_queued}) {
      EXPECT_EQ(failure, Errc::worker_exited) << failure;
      EXPECT_TRUE(failure.exit && failure.exit->success()) << failure;
    }
    const Failure later = co_await failure_of(worker.call<int>("square", 3));
    EXPECT_EQ(later, Errc::worker_exited) << later;
    co_await worker.stop();
    int exits = 0;
    for (const Event& event : log.all()) {
      if (event.kind != Event::Kind::exited) continue;
      EXPECT_TRUE(event.expected);
      ++exits;
    }
    EXPECT_EQ(exits, 1);
  });
}

// SIGINT lets calls that have begun finish. A call that has not begun waits for the exit, as there is no other worker.
TEST_F(GracefulExit, SigintLetsACallFinish) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerOptions options = call_worker();
    const auto told = std::make_shared<ReadPipe>();
    options.command.out = told->stdio();
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    const Task<std::string> begun(co_await asio::this_coro::executor, worker.call<std::string>("nap", 300, 0));
    co_await said(told, "napping");
    ::kill(worker.pid(), SIGINT);
    const std::string answer = co_await begun.result();
    EXPECT_EQ(answer, "slept");
    const Failure later = co_await failure_of(worker.call<int>("square", 3));
    EXPECT_EQ(later, Errc::worker_exited) << later;
    co_await worker.stop();
  });
}

// With OnTerminate::drain SIGTERM drains: a service manager may signal the workers together with the parent, which is
// draining.
TEST_F(GracefulExit, SigtermDrainsIfTheOptionsSaySo) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerOptions options = call_worker();
    options.on_terminate = drover::OnTerminate::drain;
    const auto told = std::make_shared<ReadPipe>();
    options.command.out = told->stdio();
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    const Task<std::string> begun(co_await asio::this_coro::executor, worker.call<std::string>("nap", 300, 0));
    co_await said(told, "napping");
    ::kill(worker.pid(), SIGTERM);
    const std::string answer = co_await begun.result();
    EXPECT_EQ(answer, "slept");
    const bool ended = co_await soon([&] { return !worker.alive(); });
    EXPECT_TRUE(ended);
    co_await worker.stop();
  });
}

// With OnTerminate::leave_to_parent a worker ignores SIGTERM and SIGHUP until its parent stops it.
TEST_F(GracefulExit, SigtermMayBeLeftToTheParent) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerOptions options = call_worker();
    options.on_terminate = drover::WorkerOptions::OnTerminate::leave_to_parent;
    const auto told = std::make_shared<ReadPipe>();
    options.command.out = told->stdio();
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    const Task<std::string> begun(co_await asio::this_coro::executor, worker.call<std::string>("nap", 200, 0));
    co_await said(told, "napping");
    for (int i = 0; i < 3; ++i) ::kill(worker.pid(), i == 1 ? SIGHUP : SIGTERM);
    const std::string answer = co_await begun.result();
    EXPECT_EQ(answer, "slept");
    const int nine = co_await worker.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    const StopReport report = co_await worker.stop(5s);
    EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
    EXPECT_FALSE(report.rpc) << report.rpc.message();
  });
}

// Once the parent has begun a stop, SIGTERM takes effect even with leave_to_parent: the reaper thread sends it when the
// budget is over.
TEST_F(GracefulExit, SigtermTakesEffectOnceAStopHasBegun) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerOptions options = call_worker();
    options.on_terminate = drover::OnTerminate::leave_to_parent;
    const auto told = std::make_shared<ReadPipe>();
    options.command.out = told->stdio();
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    const Task<std::string> begun(co_await asio::this_coro::executor, worker.call<std::string>("nap", 30000, 0));
    co_await said(told, "napping");
    const Task<StopReport> stop(co_await asio::this_coro::executor, worker.stop(20s));
    for (const auto start = Clock::now(); !stop.done() && since(start) < 15s;) {
      ::kill(worker.pid(), SIGTERM);
      co_await pause_for(20ms);
    }
    EXPECT_TRUE(stop.done());
    const Failure failure = co_await begun.failure();
    EXPECT_EQ(failure, Errc::stopping) << failure;
    co_await stop.ended();
  });
}

// A draining worker keeps its calls for as long as they take, and its pool slot gets another worker meanwhile.
TEST_F(GracefulExit, DrainingWorkerIsReplacedAtOnce) {
  on_one_thread([]() -> asio::awaitable<void> {
    const asio::any_io_executor executor = co_await asio::this_coro::executor;
    drover::PoolOptions options = call_pool(1);
    options.worker.max_in_flight = 8;
    drover::WorkerPool pool = co_await drover::WorkerPool::start(options);
    const Task<std::string> begun(executor, pool.call<std::string>("doze", 3000));
    const Task<std::string> at_once(executor, pool.call<std::string>("doze", 1));
    const std::string slept = co_await at_once.result();  // so the worker has begun the first one, too
    EXPECT_EQ(slept, "slept");
    std::set<pid_t> signalled;     // once each: a second SIGINT would cancel the calls
    for (int i = 0; i < 3; ++i) {  // the second and third worker may find a predecessor that still drains
      while (pool.workers().empty() || signalled.contains(pool.workers().front().pid)) co_await pause_for(1ms);
      signalled.insert(pool.workers().front().pid);
      ::kill(pool.workers().front().pid, SIGINT);
      const auto start = Clock::now();
      const int nine = co_await pool.call<int>("square", 3);
      EXPECT_EQ(nine, 9);
      if (i == 0) {
        EXPECT_LT(since(start), 2s);
      }
      EXPECT_LE(pool.stats().workers, 2u);
    }
    const std::string answer = co_await begun.result();
    EXPECT_EQ(answer, "slept");
    EXPECT_EQ(pool.stats().crashes, 0u);
    const auto reports = co_await pool.stop();
    EXPECT_EQ(reports.size(), 1u);
  });
}

}  // namespace
