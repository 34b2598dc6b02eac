// Stops that coincide with an exit, a start, a call, a signal or another stop.
#include <atomic>
#include <gtest/gtest.h>
#include <memory>
#include <signal.h>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/workers.hpp"

namespace {

using namespace support;
using drover::Timeout;

class StopRace : public Workers {};

// A worker that exits or closes its sockets, before or during the stop, is reaped with its exit status.
TEST_F(StopRace, WithAnExitOrClosedSocketsReapsTheWorker) {
  const auto dead_before = [](int code) -> asio::awaitable<void> {
    const Started s = co_await started();
    const Failure failure = co_await failure_of(s.worker->call("exit", code));
    EXPECT_EQ(failure, Errc::worker_exited);
    EXPECT_TRUE(failure.exit && failure.exit->value == code);
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(30s);
    EXPECT_LT(since(start), slack);
    EXPECT_EQ(report.rpc, drover::make_error_code(Errc::worker_exited)) << report.rpc.message();
    EXPECT_EQ(report.exit.value, code);
    EXPECT_FALSE(report.terminated);
    expect_gone(*s.worker);
  };
  const auto dead_unnoticed = []() -> asio::awaitable<void> {
    const Started s = co_await started();
    ::kill(s.worker->pid(), SIGKILL);
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(30s);
    EXPECT_LT(since(start), slack);
    EXPECT_EQ(report.exit.kind, ExitStatus::Kind::signaled);
    EXPECT_EQ(report.exit.value, SIGKILL);
    EXPECT_FALSE(report.terminated || report.killed);
    expect_gone(*s.worker);
  };
  const auto dying = []() -> asio::awaitable<void> {
    const Started s = co_await started();
    const Task<std::string> call(co_await asio::this_coro::executor, s.worker->call<std::string>("nap", 30000, 0));
    co_await said(s.pipe, "napping");
    const auto start = Clock::now();
    auto stop = s.worker->stop(30s);
    ::kill(s.worker->pid(), SIGKILL);
    const StopReport report = co_await std::move(stop);
    EXPECT_LT(since(start), slack);
    EXPECT_EQ(report.rpc, drover::make_error_code(Errc::connection_lost)) << report.rpc.message();
    EXPECT_EQ(report.exit.value, SIGKILL);
    EXPECT_EQ(co_await call.failure(), Errc::worker_exited);
    expect_gone(*s.worker);
  };
  const auto closing = []() -> asio::awaitable<void> {
    WorkerOptions options = plain_worker();
    options.shutdown_grace = 500ms;
    const Started s = co_await started(options);
    const Task<void> call(co_await asio::this_coro::executor, s.worker->call("close_channels"));
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(500ms);
    EXPECT_LT(since(start), 500ms + 5s + slack);
    EXPECT_TRUE(co_await call.failure());
    expect_gone(*s.worker);
    EXPECT_NE(report.exit.kind, ExitStatus::Kind::unknown);
  };
  const auto silent_then_stopped = []() -> asio::awaitable<void> {
    WorkerOptions options = plain_worker();
    options.stop_margin = 300ms;
    const Started s = co_await started(options);
    const Task<void> call(co_await asio::this_coro::executor, s.worker->call("spin"));
    co_await said(s.pipe, "spinning");
    ::kill(s.worker->pid(), SIGSTOP);
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(0s);
    EXPECT_LT(since(start), 300ms + slack);
    EXPECT_TRUE(report.terminated);
    expect_gone(*s.worker);
  };
  run_together({
      [&] { return dead_before(0); },
      [&] { return dead_before(3); },
      dead_unnoticed,
      dying,
      closing,
      silent_then_stopped,
  });
}

// The exit of the process ends a stop, even if another process holds the worker's sockets open.
TEST_F(StopRace, WithACopyOfTheSocketsIsNotDelayed) {
  run_together({[]() -> asio::awaitable<void> {
    const Started s = co_await started();
    // A copy of the worker outside its group holds both sockets, and its stdout.
    const int copy = co_await s.worker->call<int>("grandchild", "holding all");
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(30s);
    EXPECT_LT(since(start), slack);
    EXPECT_TRUE(report.exit.success());
    EXPECT_FALSE(gone(copy));
    ::kill(copy, SIGKILL);
    expect_gone(*s.worker);
  }});
}

// A second stop joins the first one, may only shorten it, and returns the same report.
TEST_F(StopRace, LaterStopJoinsTheFirstAndOnlyShortensIt) {
  const auto two_stops = [](Timeout first, Timeout second, Duration at_least,
                            Duration at_most) -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const Started s = co_await started();
    const Task<std::string> call(executor, s.worker->call<std::string>("nap", 2500, 0));
    co_await said(s.pipe, "napping");
    const auto start = Clock::now();
    const Task<StopReport> one(executor, s.worker->stop(first));
    co_await pause_for(500ms);
    const StopReport two = co_await s.worker->stop(second);
    EXPECT_GE(since(start), at_least);
    EXPECT_LT(since(start), at_most + slack);
    const StopReport report = co_await one.result();
    EXPECT_LT(since(start), at_most + slack);
    EXPECT_EQ(report.elapsed, two.elapsed);
    EXPECT_EQ(report.drained, two.drained);
    EXPECT_EQ(report.cancelled, two.cancelled);
    EXPECT_EQ(report.drained + report.cancelled, 1u);
    EXPECT_FALSE(report.rpc) << report.rpc.message();
    const StopReport after = co_await s.worker->stop();
    EXPECT_EQ(after.elapsed, two.elapsed);
    EXPECT_FALSE(after.terminated);
    expect_gone(*s.worker);
  };
  run_together({
      [&] { return two_stops(30s, 0s, 500ms, 500ms); },
      [&] { return two_stops(std::nullopt, 0s, 500ms, 500ms); },
      [&] { return two_stops(0s, 30s, 0ms, 500ms); },
      [&] { return two_stops(700ms, std::nullopt, 700ms, 700ms); },
      [&] { return two_stops(std::nullopt, std::nullopt, 2400ms, 2500ms); },
  });
}

// Ten stops at once cause one teardown with one set of events.
TEST_F(StopRace, TenStopsAreOneTeardown) {
  std::vector<Event::Kind> events;
  run_together({[&]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    WorkerOptions options = plain_worker();
    options.on_event = [&](const Event& event) { events.push_back(event.kind); };
    const Started s = co_await started(options);
    std::vector<Task<StopReport>> stops;
    for (int i = 0; i < 10; ++i) stops.emplace_back(executor, s.worker->stop(i % 2 == 0 ? Timeout(10s) : Timeout()));
    const StopReport first = co_await stops.front().result();
    for (const auto& stop : stops) {
      const StopReport report = co_await stop.result();
      EXPECT_EQ(report.elapsed, first.elapsed);
      EXPECT_TRUE(report.exit.success());
    }
    co_await pause_for(20ms);
    expect_gone(*s.worker);
  }});
  using enum Event::Kind;
  EXPECT_EQ(events, (std::vector{spawned, ready, stopping, exited, reaped}));
}

// New and queued calls fail with stopping during and after a stop, and every call completes.
TEST_F(StopRace, QueuedAndNewCallsAreRefused) {
  run_together({[]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const Started s = co_await started();
    std::vector<Task<std::string>> calls;
    for (int i = 0; i < 20; ++i) calls.emplace_back(executor, s.worker->call<std::string>("nap", 300, 0));
    co_await said(s.pipe, "napping");
    const Task<StopReport> stop(executor, s.worker->stop(10s));
    EXPECT_EQ(co_await failure_of(s.worker->call<int>("square", 2)), Errc::stopping);
    co_await stop.ended();
    EXPECT_EQ(co_await failure_of(s.worker->call<int>("square", 2)), Errc::stopping);
    std::size_t done = 0, refused = 0;
    for (const auto& call : calls) {
      const Failure failure = co_await call.failure();
      failure ? ++refused : ++done;
      EXPECT_TRUE(!failure || failure == Errc::stopping) << failure;
    }
    EXPECT_EQ(done, 1u);  // max_in_flight
    EXPECT_EQ(refused, 19u);
  }});
}

// A stop during the start ends the start with operation_aborted.
TEST_F(StopRace, WithAStartEndsTheStart) {
  const auto stopped_at = [](Duration after, Timeout grace) -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const auto begin = Clock::now();
    LocalWorker worker(executor, worker_with({"sleep", "30000"}));
    const Task<void> start(executor, worker.start());
    co_await pause_for(after);
    const StopReport report = co_await worker.stop(grace);
    EXPECT_TRUE((co_await start.failure()).aborted());
    EXPECT_LT(since(begin), after + slack);
    EXPECT_NE(report.exit.kind, ExitStatus::Kind::unknown);
    EXPECT_EQ(report.rpc, make_error_code(Errc::not_running));
    expect_gone(worker);
  };
  run_together({
      [&] { return stopped_at(50ms, 30s); },
      [&] { return stopped_at(0ms, std::nullopt); },
      [&] { return stopped_at(5ms, 0s); },
  });
}

// One thread reaps while another one is spawning the process: the reap waits for the spawn and returns the exit status.
TEST_F(StopRace, ReapDuringTheSpawnReturnsTheStatus) {
  for (int round = 0; round < (slowed_down ? 40 : 150); ++round) {
    asio::io_context theirs, ours;
    drover::WorkerProcess process(theirs.get_executor(), worker_with({"sleep", "30000"}));
    std::atomic<bool> begins{false}, over{false};
    std::jthread spawner([&] {
      begins = true;
      EXPECT_TRUE(run(theirs, failure_of(process.start())).aborted());
      over = true;
    });
    while (!begins) std::this_thread::yield();
    for (const auto until = Clock::now() + round * (slowed_down ? 200us : 20us); Clock::now() < until;) continue;
    const drover::ReapReport report = run(ours, process.reap(0s));
    if (process.pid() != 0 && !process.alive()) {
      EXPECT_NE(report.exit.kind, ExitStatus::Kind::unknown) << "round " << round;
    }
    while (!over) run(ours, process.reap(0s));  // the first reap may have come before the start
    spawner.join();
    EXPECT_TRUE(gone(process.pid()));
  }
}

// A routine ends the worker about when STOP arrives.
TEST_F(StopRace, WithAnExitDuringStopReapsTheWorker) {
  run_together({[]() -> asio::awaitable<void> {
    for (int i = 0; i < 40; ++i) {
      const Started s = co_await started();
      co_await failure_of(s.worker->call("exit_later", i * 50, i % 3));  // or it exits before its result
      const auto start = Clock::now();
      const Timeout grace = i % 2 == 0 ? Timeout(10s) : Timeout();
      const StopReport report = co_await s.worker->stop(grace);
      EXPECT_LT(since(start), slack);
      EXPECT_FALSE(report.terminated) << report.exit.to_string();
      EXPECT_TRUE(report.exit.value == i % 3 || report.exit.success()) << report.exit.to_string();
      expect_gone(*s.worker);
    }
  }});
}

// SIGTERM arrives at a random moment of the stop.
TEST_F(StopRace, WithSigtermEndsCleanly) {
  const auto repeat = [](unsigned seed) -> asio::awaitable<void> {
    for (int i = 0; i < 50; ++i) {
      const Started s = co_await started();
      const pid_t pid = s.worker->pid();
      const Task<std::string> call(co_await asio::this_coro::executor, s.worker->call<std::string>("nap", 30000, 0));
      if (i % 2 == 0) co_await said(s.pipe, "napping");
      const auto start = Clock::now();
      seed = seed * 1103515245 + 12345;
      const auto moment = std::chrono::microseconds(seed / 65536 % 800);
      std::thread killer([pid, moment] {
        std::this_thread::sleep_for(moment);
        ::kill(pid, SIGTERM);  // it is reaped later, see below
      });
      auto stop = s.worker->stop(i % 3 == 0 ? 0ms : 100ms);
      killer.join();
      const StopReport report = co_await std::move(stop);
      EXPECT_LT(since(start), slack);
      EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
      EXPECT_FALSE(report.terminated);
      co_await call.ended();
      expect_gone(*s.worker);
    }
  };
  run_together(
      {[&] { return repeat(1); }, [&] { return repeat(2); }, [&] { return repeat(3); }, [&] { return repeat(4); }});
}

// A call that was made just before the stop is drained.
TEST_F(StopRace, CallMadeJustBeforeTheStopIsDrained) {
  constexpr int times = slowed_down ? 25 : 250;
  const auto repeat = [](Timeout grace, int times_each) -> asio::awaitable<void> {
    for (int i = 0; i < times_each; ++i) {
      const auto executor = co_await asio::this_coro::executor;
      LocalWorker worker(executor, plain_worker());
      co_await worker.start();
      auto call = worker.call<int>("square", i);
      auto stop = worker.stop(grace);
      const int result = co_await std::move(call);
      EXPECT_EQ(result, i * i);
      const StopReport report = co_await std::move(stop);
      EXPECT_FALSE(report.rpc) << report.rpc.message();
      EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
      EXPECT_EQ(report.cancelled, 0u);
    }
  };
  run_together({
      [&] { return repeat(std::nullopt, times); },
      [&] { return repeat(std::nullopt, times); },
      [&] { return repeat(1s, times); },
      [&] { return repeat(1s, times); },
  });
}

}  // namespace
