// Stopping workers: the drain, the budget and the report.
#include <gtest/gtest.h>
#include <memory>
#include <signal.h>
#include <string>
#include <thread>
#include <vector>

#include "support/workers.hpp"

namespace {

using namespace support;
using drover::Timeout;

class Stop : public Workers {};

// An idle worker stops at once, whatever the grace.
TEST_F(Stop, OfAnIdleWorkerReturnsAtOnce) {
  const auto idle = [](Timeout grace) -> asio::awaitable<void> {
    const Started s = co_await started();
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(grace);
    EXPECT_LT(since(start), 1s);
    EXPECT_FALSE(report.rpc) << report.rpc.message();
    EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
    EXPECT_FALSE(report.terminated || report.killed);
    EXPECT_EQ(report.drained + report.cancelled, 0u);
    EXPECT_LE(report.elapsed, since(start));
    expect_gone(*s.worker);
  };
  run_together({
      [&] { return idle(0s); },
      [&] { return idle(5s); },
      [&] { return idle(60s); },
      [&] { return idle(std::nullopt); },
  });
}

// Calls that finish within the grace return their results, and the stop waits for them.
TEST_F(Stop, DrainsCallsThatFinishWithinTheGrace) {
  const auto draining = [](Timeout grace) -> asio::awaitable<void> {
    const Started s = co_await started();
    const Task<std::string> call(co_await asio::this_coro::executor, s.worker->call<std::string>("nap", 1500, 0));
    co_await said(s.pipe, "napping");
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(grace);
    EXPECT_GE(since(start), 1400ms);
    EXPECT_LT(since(start), 1500ms + slack);
    EXPECT_EQ(co_await call.result(), "slept");
    EXPECT_FALSE(report.rpc) << report.rpc.message();
    EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
    EXPECT_FALSE(report.terminated);
    EXPECT_EQ(report.drained, 1u);
    EXPECT_EQ(report.cancelled, 0u);
    expect_gone(*s.worker);
  };
  run_together({[&] { return draining(10s); }, [&] { return draining(std::nullopt); }});
}

// Calls that are still running at the end of the grace are cancelled and may clean up.
TEST_F(Stop, CancelsCallsStillRunningAtTheGrace) {
  run_together({[]() -> asio::awaitable<void> {
    WorkerOptions options = plain_worker();
    options.max_in_flight = 2;
    const Started s = co_await started(options);
    const auto executor = co_await asio::this_coro::executor;
    const Task<std::string> call(executor, s.worker->call<std::string>("nap", 30000, 200));
    const Task<std::string> shorter(executor, s.worker->call<std::string>("doze", 300));
    co_await said(s.pipe, "napping");
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(1s);
    EXPECT_GE(since(start), 1200ms);
    EXPECT_LT(since(start), 1200ms + slack);
    EXPECT_TRUE(co_await call.failure());
    EXPECT_EQ(co_await shorter.result(), "slept");
    EXPECT_EQ(s.pipe->line(), "cleaned up");
    EXPECT_FALSE(report.rpc) << report.rpc.message();
    EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
    EXPECT_FALSE(report.terminated);
    EXPECT_EQ(report.drained, 1u);
    EXPECT_EQ(report.cancelled, 1u);
    expect_gone(*s.worker);
  }});
}

// With a grace of zero a call that reacts to cancellation ends at once.
TEST_F(Stop, WithZeroGraceCancelsCallsAtOnce) {
  const auto listening = [](asio::awaitable<std::string> (*make)(LocalWorker&), std::string sign,
                            bool returns_a_value) -> asio::awaitable<void> {
    const Started s = co_await started();
    const Task<std::string> call(co_await asio::this_coro::executor, make(*s.worker));
    co_await said(s.pipe, sign);
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(0s);
    EXPECT_LT(since(start), 500ms + 1s);
    EXPECT_FALSE(report.rpc) << report.rpc.message();
    EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
    EXPECT_FALSE(report.terminated);
    EXPECT_EQ(report.drained, returns_a_value ? 1u : 0u);
    EXPECT_EQ(report.cancelled, returns_a_value ? 0u : 1u);
    const Failure failure = co_await call.failure();
    EXPECT_EQ(!failure, returns_a_value) << failure;
    expect_gone(*s.worker);
  };
  run_together({
      [&] { return listening([](LocalWorker& w) { return w.call<std::string>("nap", 30000, 0); }, "napping", false); },
      [&] { return listening([](LocalWorker& w) { return w.call<std::string>("until_stopped"); }, "looping", true); },
  });
}

// A routine that ignores its cancellation is cut off by the worker's hard exit within the budget, without a signal.
TEST_F(Stop, CutsOffAnEndlessLoopWithoutASignal) {
  const auto looping = [](std::string routine, std::string sign, Timeout grace,
                          Duration margin) -> asio::awaitable<void> {
    WorkerOptions options = plain_worker();
    options.stop_margin = margin;
    const Started s = co_await started(options);
    const auto executor = co_await asio::this_coro::executor;
    const Task<void> call(executor, s.worker->call(routine));
    co_await said(s.pipe, sign);
    const Ticker ticker(executor);
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(grace);
    EXPECT_GE(since(start), (*grace + margin) / 2);
    EXPECT_LE(since(start), *grace + margin + (slowed_down ? slack : 50ms));
    EXPECT_EQ(report.exit.value, 1) << report.exit.to_string();
    if (!slowed_down) {  // otherwise SIGTERM may arrive during the hard exit
      EXPECT_FALSE(report.rpc) << report.rpc.message();
      EXPECT_FALSE(report.terminated);
    }
    EXPECT_EQ(report.cancelled, 1u);
    EXPECT_EQ(report.drained, 0u);
    EXPECT_LT(ticker.longest_gap(), slowed_down ? 500ms : 100ms);
    const Failure failure = co_await call.failure();
    EXPECT_EQ(failure, Errc::worker_exited);
    expect_gone(*s.worker);
  };
  run_together({
      [&] { return looping("spin", "spinning", 0s, 1s); },
      [&] { return looping("spin", "spinning", 700ms, 800ms); },
      [&] { return looping("block_stop_callback", "spinning", 0s, 1s); },
      [&] { return looping("block_stop_callback", "spinning", 500ms, 1s); },
  });
}

// A suspended worker is continued and terminated when the stop's deadline has passed.
TEST_F(Stop, ContinuesAndTerminatesASuspendedWorker) {
  run_together({[]() -> asio::awaitable<void> {
    WorkerOptions options = plain_worker();
    options.stop_margin = 500ms;
    const Started s = co_await started(options);
    ::kill(s.worker->pid(), SIGSTOP);
    await_stopped(s.worker->pid());
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(500ms);
    EXPECT_GE(since(start), 1s);
    EXPECT_LT(since(start), 1s + 1s);
    EXPECT_EQ(report.rpc, drover::make_error_code(Errc::deadline_exceeded)) << report.rpc.message();
    EXPECT_TRUE(report.terminated);
    EXPECT_FALSE(report.killed);
    expect_gone(*s.worker);
  }});
}

// With a stop_margin of zero calls still have the whole grace: they are cancelled at its end and not cut off before.
TEST_F(Stop, WithoutAMarginGrantsTheWholeGrace) {
  run_together({[]() -> asio::awaitable<void> {
    WorkerOptions options = plain_worker();
    options.stop_margin = 0s;
    const Started s = co_await started(options);
    const Task<std::string> call(co_await asio::this_coro::executor, s.worker->call<std::string>("until_stopped"));
    co_await said(s.pipe, "looping");
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(1s);
    EXPECT_GE(since(start), 1s);
    EXPECT_LT(since(start), 1s + slack);
    EXPECT_EQ(report.drained, 1u);  // the routine returned its value, if only because it was cancelled
    EXPECT_EQ(report.cancelled, 0u);
    EXPECT_FALSE(report.killed);
    const std::string answer = co_await call.result();
    EXPECT_EQ(answer, "stopped");
    expect_gone(*s.worker);
  }});
}

// A worker that suspends itself again and again is terminated, and killed if need be.
TEST_F(Stop, EndsAWorkerThatSuspendsItselfRepeatedly) {
  run_together({[]() -> asio::awaitable<void> {
    WorkerOptions options = plain_worker();
    options.stop_margin = 400ms;
    options.term_grace = 400ms;
    const Started s = co_await started(options);
    const Task<void> call(co_await asio::this_coro::executor, s.worker->call("stop_often"));
    co_await said(s.pipe, "stopping");
    await_stopped(s.worker->pid());
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(200ms);
    EXPECT_LT(since(start), 1s + 1s);
    EXPECT_EQ(report.rpc, drover::make_error_code(Errc::deadline_exceeded)) << report.rpc.message();
    // SIGCONT may let it run for the moment that the hard exit takes, or it is suspended until SIGKILL.
    EXPECT_TRUE(report.terminated);
    EXPECT_EQ(co_await call.failure(), Errc::worker_exited);
    expect_gone(*s.worker);
  }});
}

// A worker that ignores SIGTERM and is suspended from outside whenever it continues gets SIGKILL at the end of the
// budget.
TEST_F(Stop, EndsAWorkerThatIsKeptSuspended) {
  run_together({[]() -> asio::awaitable<void> {
    WorkerOptions options = worker_with({"ignore", "15"});
    options.stop_margin = 300ms;
    options.term_grace = 300ms;
    const Started s = co_await started(options);
    const pid_t pid = s.worker->pid();
    ::kill(pid, SIGSTOP);
    await_stopped(pid);
    std::thread stopper([pid] {
      while (::kill(pid, SIGSTOP) == 0) std::this_thread::yield();
    });
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(200ms);
    stopper.join();
    EXPECT_LT(since(start), 800ms + 1s);
    EXPECT_EQ(report.rpc, drover::make_error_code(Errc::deadline_exceeded)) << report.rpc.message();
    EXPECT_TRUE(report.terminated);
    expect_gone(*s.worker);
  }});
}

}  // namespace
