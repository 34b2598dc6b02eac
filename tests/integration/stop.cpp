// Stopping workers: the drain, the budget, and what the report says.
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

class Stopping : public Workers {};

// S-01
TEST_F(Stopping, AnIdleWorkerStopsAtOnceWhateverTheGrace) {
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

// S-02
TEST_F(Stopping, CallsThatFinishWithinTheGraceAreDrained) {
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

// S-03
TEST_F(Stopping, CallsThatDoNotFinishAreCancelledAtTheGraceAndCleanUp) {
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

// S-04
TEST_F(Stopping, WithoutGraceACallThatListensIsCancelledAtOnce) {
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

// S-04: what does not listen is cut by the worker's own hard exit.
TEST_F(Stopping, AnEndlessLoopEndsWithinTheBudgetByItself) {
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
    if (!slowed_down) {  // or SIGTERM may meet it on its way out
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

// S-05
TEST_F(Stopping, AStoppedWorkerIsContinuedAndTerminated) {
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

// The whole grace is the calls', whatever follows: they are cancelled at its end, and not cut off before.
TEST_F(Stopping, WithoutAMarginCallsHaveTheirGraceAllTheSame) {
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
    EXPECT_EQ(report.drained, 1u);  // it returned its value, if only because it was cancelled
    EXPECT_EQ(report.cancelled, 0u);
    EXPECT_FALSE(report.killed);
    const std::string answer = co_await call.result();
    EXPECT_EQ(answer, "stopped");
    expect_gone(*s.worker);
  }});
}

// S-05
TEST_F(Stopping, AWorkerThatStopsAgainAndAgainIsKilled) {
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
    // Whether SIGCONT let it run for the moment that the hard exit takes, or not until SIGKILL.
    EXPECT_TRUE(report.terminated);
    EXPECT_EQ(co_await call.failure(), Errc::worker_exited);
    expect_gone(*s.worker);
  }});
}

// S-05: stopped from outside whenever it goes on, and deaf to SIGTERM.
TEST_F(Stopping, AWorkerThatIsKeptStoppedIsKilledAtTheEndOfTheLadder) {
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
