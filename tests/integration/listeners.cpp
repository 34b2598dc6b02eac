// Event and line handlers (on_event, Stdio::lines) get everything in time and nothing once the worker object is
// destroyed.
#include <algorithm>
#include <atomic>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_future.hpp>

#include "support/workers.hpp"

namespace {

using namespace support;
using Kind = Event::Kind;

class Events : public Workers {};

class WorkerLines : public Workers {};

/// The events that arrived while the source existed, and how many arrived afterwards.
struct Heard {
  std::vector<Kind> kinds;
  std::atomic<bool> gone{false};
  std::atomic<int> late{0};

  static std::function<void(const Event&)> by(std::shared_ptr<Heard> heard, Duration pace = 0s) {
    return [heard, pace](const Event& event) {
      if (pace > 0s) std::this_thread::sleep_for(pace);
      if (heard->gone) ++heard->late;
      heard->kinds.push_back(event.kind);
    };
  }
};

/// Until the reaper thread has reported the exit of our child: until it has reported that of one that was started
/// later.
asio::awaitable<void> reported_end(pid_t pid) {
  while (::kill(pid, 0) == 0) co_await pause_for(1ms);
  const Command command = child({});
  Process later = Process::spawn(command);
  co_await later.wait();
}

/// Sets `gone` at the end of a scope, after everything that was declared later has been destroyed.
struct GoneAtTheEnd {
  std::shared_ptr<Heard> heard;
  ~GoneAtTheEnd() { heard->gone = true; }
};

WorkerOptions heard_by(std::shared_ptr<Heard> heard, Duration pace = 0s) {
  WorkerOptions options = plain_worker();
  options.on_event = Heard::by(std::move(heard), pace);
  return options;
}

asio::awaitable<void> stop_while_it_works(std::shared_ptr<Heard> heard) {
  const GoneAtTheEnd end{heard};
  const auto executor = co_await asio::this_coro::executor;
  LocalWorker worker(executor, heard_by(heard));
  co_await worker.start();
  const Task<std::string> call(executor, worker.call<std::string>("nap", 30000, 100));
  co_await worker.stop(30s);
}

// A cancelled stop returns after all events have been delivered, `reaped` last.
TEST_F(Events, AllArriveBeforeACancelledStopReturns) {
  run_together({[]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const auto heard = std::make_shared<Heard>();
    asio::cancellation_signal signal;
    bool ended = false;
    asio::co_spawn(executor, stop_while_it_works(heard),
                   asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr thrown) {
                     EXPECT_TRUE(describe(thrown).aborted());
                     ended = true;
                   }));
    while (heard->kinds.size() < 3) co_await pause_for(1ms);  // the stop has begun
    signal.emit(asio::cancellation_type::terminal);
    while (!ended) co_await pause_for(1ms);
    const std::vector<Kind> kinds = heard->kinds;
    EXPECT_TRUE(kinds.size() > 2 && kinds.back() == Kind::reaped);
    co_await pause_for(200ms);
    EXPECT_EQ(heard->late, 0);
  }});
}

// A start that fails or is cancelled returns after all events have been delivered.
TEST_F(Events, AllArriveBeforeAFailedStartReturns) {
  const auto failing = [](std::vector<std::string> steps, bool cancels) -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const auto heard = std::make_shared<Heard>();
    auto worker = std::make_unique<LocalWorker>(executor, [&] {
      WorkerOptions options = worker_with(steps);
      options.on_event = Heard::by(heard);
      return options;
    }());
    asio::cancellation_signal signal;
    bool ended = false;
    asio::co_spawn(executor, worker->start(),
                   asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr thrown) {
                     EXPECT_TRUE(thrown);
                     worker.reset();
                     heard->gone = ended = true;
                   }));
    while (cancels && heard->kinds.empty()) co_await pause_for(1ms);
    if (cancels) signal.emit(asio::cancellation_type::terminal);
    while (!ended) co_await pause_for(1ms);
    const std::vector<Kind> kinds = heard->kinds;
    EXPECT_TRUE(!kinds.empty() && kinds.back() == Kind::reaped);
    co_await pause_for(200ms);
    EXPECT_EQ(heard->late, 0);
  };
  run_together({[&] { return failing({"exit", "3"}, false); }, [&] { return failing({"sleep", "20000"}, true); }});
}

// After the worker or the pool is destroyed no event is delivered.
TEST_F(Events, NoneArrivesOnceTheOwnerIsDestroyed) {
  run_together({
      []() -> asio::awaitable<void> {
        const auto executor = co_await asio::this_coro::executor;
        const auto heard = std::make_shared<Heard>();
        pid_t pid = 0;
        {
          const GoneAtTheEnd end{heard};
          LocalWorker worker(executor, heard_by(heard));
          co_await worker.start();
          pid = worker.pid();
        }
        EXPECT_TRUE(co_await sees_gone(pid));
        co_await reported_end(pid);
        EXPECT_EQ(heard->kinds, (std::vector{Kind::spawned, Kind::ready}));
      },
      []() -> asio::awaitable<void> {
        const auto heard = std::make_shared<Heard>();
        pid_t pid = 0;
        {
          const GoneAtTheEnd end{heard};
          drover::PoolOptions options;
          options.size = 1;
          options.worker = heard_by(heard);
          const WorkerPool pool = co_await WorkerPool::start(options);
          pid = pool.workers().front().pid;
        }
        EXPECT_TRUE(co_await sees_gone(pid));
        co_await reported_end(pid);
        EXPECT_EQ(heard->kinds, (std::vector{Kind::spawned, Kind::ready}));
      },
  });
  EXPECT_TRUE(soon_childless());
}

// with_pool() on several threads returns after a slow handler has received all events.
TEST_F(Events, SlowHandlerGetsAllBeforeAPoolStopReturns) {
  asio::thread_pool threads(3);
  for (int round = 0; round < (slowed_down ? 3 : 20); ++round) {
    const auto heard = std::make_shared<Heard>();
    drover::PoolOptions options;
    options.size = 2;
    options.worker = heard_by(heard, 1ms);
    const auto body = [](WorkerPool&) -> asio::awaitable<void> { co_return; };
    asio::co_spawn(threads, drover::with_pool(options, body), asio::use_future).get();
    heard->gone = true;
    EXPECT_EQ(std::count(heard->kinds.begin(), heard->kinds.end(), Kind::reaped), 2);
    std::this_thread::sleep_for(5ms);
    EXPECT_EQ(heard->late, 0);
  }
  threads.join();
}

// The worker's context does not run. All events have been delivered by then, so stop() does not wait.
TEST_F(Events, DoNotDelayAStopIfTheirContextDoesNotRun) {
  asio::io_context own, other;
  const auto heard = std::make_shared<Heard>();
  LocalWorker worker(own.get_executor(), heard_by(heard));
  run(own, worker.start());
  EXPECT_TRUE(run(own, worker.stop()).exit.success());
  EXPECT_EQ(heard->kinds.back(), Kind::reaped);
  EXPECT_TRUE(run(other, worker.stop()).exit.success());
}

// An event handler destroys the worker while its stop is awaited, and the stop still completes.
TEST_F(Events, HandlerMayDestroyAWorkerInItsStop) {
  run_together({[]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    auto worker = std::make_shared<std::unique_ptr<LocalWorker>>();
    WorkerOptions options = plain_worker();
    options.on_event = [weak = std::weak_ptr(worker)](const Event& event) {
      const auto held = weak.lock();
      if (held && event.kind == Kind::exited) held->reset();
    };
    *worker = std::make_unique<LocalWorker>(executor, options);
    co_await (*worker)->start();
    const StopReport report = co_await (*worker)->stop(0s);
    EXPECT_TRUE(report.exit.success());
    EXPECT_EQ(*worker, nullptr);
  }});
}

// Lines that a worker writes after its owner was destroyed are not delivered.
TEST_F(WorkerLines, StopWhenTheWorkerIsDestroyed) {
  run_together({[]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    std::vector<std::string> lines;
    pid_t pid = 0;
    {
      WorkerOptions options = plain_worker();
      options.command.out = Stdio::lines(executor, [&](std::string_view line) { lines.emplace_back(line); });
      LocalWorker worker(executor, options);
      co_await worker.start();
      pid = worker.pid();
      const Task<std::string> call(executor, worker.call<std::string>("nap", 30000, 50));
      while (lines.empty()) co_await pause_for(1ms);
    }
    EXPECT_TRUE(co_await sees_gone(pid));
    co_await reported_end(pid);
    EXPECT_EQ(lines, (std::vector<std::string>{"napping"}));  // and not "cleaned up"
  }});
  EXPECT_TRUE(soon_childless());
}

// An exit that nobody asked for is reported as unexpected, even if reap() is called before the exit was processed.
TEST_F(Events, UnexpectedExitStaysUnexpectedIfReapedLater) {
  const auto scenario = []() -> asio::awaitable<void> {
    const auto heard = std::make_shared<Heard>();
    std::vector<bool> expected;
    WorkerOptions options = plain_worker();
    options.on_event = [&](const Event& event) {
      heard->kinds.push_back(event.kind);
      if (event.kind == Kind::exited) expected.push_back(event.expected);
    };
    drover::WorkerProcess process(co_await asio::this_coro::executor, options);
    co_await process.start();
    ::kill(process.pid(), SIGKILL);
    while (process.alive()) std::this_thread::yield();  // this context has not processed the exit yet
    co_await process.reap();
    EXPECT_EQ(heard->kinds, (std::vector{Kind::spawned, Kind::ready, Kind::exited, Kind::reaped}));
    EXPECT_EQ(expected, std::vector{false});
  };
  run(scenario());
}

// A worker that job control or SIGSTOP suspends fails no call and completes none, so events report it.
TEST_F(Events, ReportSuspensionAndContinuation) {
  run_together({[]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    std::vector<Event> events;
    WorkerOptions options = plain_worker();
    options.on_event = [&](const Event& event) { events.push_back(event); };
    LocalWorker worker(executor, options);
    co_await worker.start();
    const auto await_kind = [&](Kind kind) -> asio::awaitable<void> {
      while (events.back().kind != kind) co_await pause_for(1ms);
    };
    for (const int signo : {SIGSTOP, SIGTSTP}) {
      const auto start = Clock::now();
      ::kill(worker.pid(), signo);
      co_await await_kind(Kind::stopped);
      EXPECT_LT(since(start), 5s);
      EXPECT_EQ(events.back().stopped_by, signo);
      EXPECT_EQ(events.back().pid, worker.pid());
      const std::string text = events.back().to_string();
      EXPECT_NE(text.find("stopped by SIG"), std::string::npos) << text;
      const Task<drover::WorkerStatus> asked(executor, worker.status(100ms));
      const Failure failure = co_await asked.failure();
      EXPECT_NE(failure.text.find("stopped by SIG"), std::string::npos) << failure.text;
      ::kill(worker.pid(), SIGCONT);
      co_await await_kind(Kind::continued);
      EXPECT_FALSE(events.back().stopped_by);
    }
    const drover::WorkerStatus status = co_await worker.status();
    EXPECT_EQ(status.in_flight, 0u);
    co_await worker.stop();
  }});
}

}  // namespace
