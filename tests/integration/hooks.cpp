// on_start() and on_stop(): when they run, what their failures are to the parent, and how they end.
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <signal.h>
#include <string>
#include <utility>
#include <vector>

#include <asio/io_context.hpp>

#include "support/life.hpp"

namespace {

using namespace support;
using drover::Timeout;

class StartHook : public Calls {};
class StopHook : public Calls {};
class HostileWorker : public Calls {};

// ---- on_start -------------------------------------------------------------------------------------------------------

// A coroutine that awaits holds the start up. What it says is there when start() returns.
TEST_F(StartHook, RunsBeforeTheWorkerIsReady) {
  run_together({[]() -> asio::awaitable<void> {
    WorkerOptions options = life_worker({"start-say", "first", "start-info", "start-say", "third"});
    options.name = "me";
    options.tags = {"a", "b"};
    const Started s = co_await started(options);
    for (const char* line : {"first", "started me 0 2", "third"}) {
      EXPECT_TRUE(s.pipe->readable()) << line;
      EXPECT_EQ(s.pipe->line(), line);
    }
    EXPECT_EQ(co_await s.worker->call<int>("square", 3), 9);
    co_await s.worker->stop();
  }});
}

// A coroutine that an on_start() has spawned goes on between the calls.
TEST_F(StartHook, LeavesItsCoroutinesRunning) {
  on_one_thread([]() -> asio::awaitable<void> {
    const WorkerOptions options = life_worker({"start-ticker"});
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    const int before = co_await worker.call<int>("ticks");
    int now = before;
    for (const auto until = Clock::now() + 10s; now <= before && Clock::now() < until;) {
      co_await pause_for(1ms);
      now = co_await worker.call<int>("ticks");
    }
    EXPECT_GT(now, before);
    const StopReport report = co_await worker.stop();
    EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
  });
}

struct FailedStart {
  Failure failure;
  std::vector<Event> events;
};

asio::awaitable<FailedStart> failed_start(WorkerOptions options, Timeout timeout = 30s) {
  FailedStart result;
  EventLog log;
  options.on_event = log.handler();
  LocalWorker worker(co_await asio::this_coro::executor, options);
  result.failure = co_await failure_of(worker.start(timeout));
  EXPECT_TRUE(result.failure) << "it has started";
  EXPECT_TRUE(worker.pid() == 0 || gone(worker.pid()));
  result.events = log.all();
  co_return result;
}

// The text has the worker's name, the exception's type and its text. The process exits by itself, once.
TEST_F(StartHook, ThatThrowsFailsTheStartWithItsText) {
  const auto failing = [](std::vector<std::string> steps, std::string type, std::string text) -> asio::awaitable<void> {
    const auto start = Clock::now();
    WorkerOptions options = life_worker(steps);
    options.name = "the failing one";
    const FailedStart failed = co_await failed_start(options);
    EXPECT_LT(since(start), slack);
    EXPECT_EQ(failed.failure, Errc::start_failed) << failed.failure;
    EXPECT_NE(failed.failure.text.find("worker 'the failing one'"), std::string::npos) << failed.failure;
    EXPECT_NE(failed.failure.text.find("its on_start() threw " + type), std::string::npos) << failed.failure;
    EXPECT_NE(failed.failure.text.find(text), std::string::npos) << failed.failure;
    EXPECT_LT(failed.failure.text.size(), 2 * 65536 + 1000u);
    EXPECT_EQ(failed.events.size(), 3u);
    if (failed.events.size() != 3) co_return;
    EXPECT_EQ(failed.events[0].kind, Event::Kind::spawned);
    EXPECT_EQ(failed.events[1].kind, Event::Kind::exited);
    EXPECT_TRUE(failed.events[1].expected);
    EXPECT_EQ(failed.events[1].exit->to_string(), "exited with code 70");
    EXPECT_EQ(failed.events[2].kind, Event::Kind::reaped);
  };
  run_together({
      [&] { return failing({"start-throw", "no GPU"}, "std::runtime_error", ": no GPU"); },
      [&] { return failing({"start-throw-later", "no disk"}, "std::invalid_argument", ": no disk"); },
      [&] { return failing({"start-throw-int"}, "int", ""); },
      [&] { return failing({"start-throw-long"}, "std::runtime_error", std::string(60000, 'x')); },
      [&] { return failing({"start-say", "x", "start-throw", "late"}, "std::runtime_error", ": late"); },
  });
}

// What follows a failed one does not run, nor does any on_stop(). serve() returns.
TEST_F(StartHook, ThatThrowsIsTheLast) {
  run_together({[]() -> asio::awaitable<void> {
    ReadPipe pipe;
    WorkerOptions options =
        life_worker({"stop-say", "stopped", "start-say", "one", "start-throw", "two", "start-say", "three"});
    options.command.out = pipe.stdio();
    const FailedStart failed = co_await failed_start(options);
    EXPECT_EQ(failed.failure, Errc::start_failed) << failed.failure;
    EXPECT_EQ(pipe.rest(), "one\nserved\n");
  }});
}

// An exception of on_start() is the error of WorkerPool::start(), with its text.
TEST_F(StartHook, FailsTheStartOfAPool) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(3);
    options.worker = life_worker({"start-throw", "no licence"});
    const Failure failure = co_await failure_of(WorkerPool::start(options));
    EXPECT_EQ(failure, Errc::start_failed) << failure;
    EXPECT_NE(failure.text.find("no licence"), std::string::npos) << failure;
  });
}

// It counts as a death: the slot is given up, and calls fail with its text.
TEST_F(StartHook, OfAReplacementCountsAsADeath) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = call_pool(1);
    options.worker = life_worker({"start-throw-if", folder.file("gone")});
    options.worker.on_event = log.handler();
    options.restart = {.max_restarts = 2, .within = 30s, .backoff = 1ms, .max_backoff = 30s};
    WorkerPool pool = co_await WorkerPool::start(options);
    std::ofstream(folder.file("gone")) << "x";
    const Failure crash = co_await failure_of(pool.call("crash", SIGKILL));
    EXPECT_EQ(crash, Errc::worker_exited) << crash;
    EXPECT_TRUE(co_await soon([&] { return log.count(Event::Kind::gave_up) == 1; }));
    EXPECT_EQ(log.count(Event::Kind::spawned), 3u);  // the first, and two that failed
    const Failure failure = co_await failure_of(pool.call<int>("square", 3));
    EXPECT_EQ(failure, Errc::pool_failed) << failure;
    EXPECT_NE(failure.text.find("std::runtime_error: no GPU is left"), std::string::npos) << failure;
    co_await pool.stop();
  });
}

// The start time-out covers it, whether it blocks the main thread or awaits.
TEST_F(StartHook, ThatHangsIsEndedAtTheTimeout) {
  const auto hanging = [](std::vector<std::string> steps) -> asio::awaitable<void> {
    const auto start = Clock::now();
    const FailedStart failed = co_await failed_start(life_worker(steps), 400ms);
    EXPECT_EQ(failed.failure, Errc::start_timeout) << failed.failure;
    EXPECT_GE(since(start), 400ms);
    EXPECT_LT(since(start), 400ms + slack);
    EXPECT_EQ(failed.events.back().kind, Event::Kind::reaped);
  };
  run_together({
      [&] { return hanging({"start-block"}); },
      [&] { return hanging({"start-spin"}); },
      [&] { return hanging({"start-await", "30000"}); },
  });
}

enum class End { stop, cancel, destroy, signal };

// A stop, a cancelled start, the owner's destruction and a signal end the process at once, as before serve().
TEST_F(StartHook, EndsAtOnceWithTheStart) {
  const auto ended = [](std::vector<std::string> steps, End how) -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const auto pipe = std::make_shared<ReadPipe>();
    WorkerOptions options = life_worker(steps);
    options.command.out = pipe->stdio();
    auto worker = std::make_unique<LocalWorker>(executor, options);
    const Task<void> start(executor, worker->start());
    co_await said(pipe, steps[0] == "start-await" ? "awaiting" : "blocking");
    const pid_t pid = worker->pid();
    const auto begin = Clock::now();
    switch (how) {
      case End::stop: {
        const StopReport report = co_await worker->stop(10s);
        EXPECT_EQ(report.rpc, make_error_code(Errc::not_running)) << report.rpc.message();
        EXPECT_TRUE(report.terminated);
        break;
      }
      case End::cancel: start.cancel(); break;
      case End::destroy: worker.reset(); break;
      case End::signal: ::kill(pid, SIGTERM); break;
    }
    const Failure failure = co_await start.failure();
    EXPECT_TRUE(co_await sees_gone(pid));
    EXPECT_LT(since(begin), slack);
    if (how == End::signal) {
      EXPECT_EQ(failure, Errc::start_failed) << failure;
      EXPECT_TRUE(failure.exit && failure.exit->value == SIGTERM) << failure;
    } else {
      EXPECT_TRUE(failure.aborted()) << failure;
    }
  };
  std::vector<std::function<asio::awaitable<void>()>> all;
  for (const End how : {End::stop, End::cancel, End::destroy, End::signal})
    for (const auto& steps : std::vector<std::vector<std::string>>{{"start-block"}, {"start-await", "30000"}})
      all.push_back([&ended, how, steps] { return ended(steps, how); });
  run_together(std::move(all));
}

// ---- on_stop --------------------------------------------------------------------------------------------------------

// The call in flight is answered first; then the hooks run, the last one first; then serve() returns.
TEST_F(StopHook, RunsAfterTheLastResult) {
  const auto stopped = [](bool in_flight) -> asio::awaitable<void> {
    const WorkerOptions options = life_worker({"stop-say", "last", "stop-await", "400", "stop-say", "first"});
    const Started s = co_await started(options);
    std::optional<Task<std::string>> call;
    if (in_flight) {
      call.emplace(co_await asio::this_coro::executor, s.worker->call<std::string>("nap", 200, 0));
      co_await said(s.pipe, "napping");
    }
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(10s);
    const auto end = Clock::now();
    EXPECT_FALSE(report.rpc) << report.rpc.message();
    EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
    EXPECT_FALSE(report.terminated);
    EXPECT_GE(end - start, 400ms);
    EXPECT_LT(end - start, 600ms + slack);
    if (call) {
      EXPECT_EQ(co_await call->result(), "slept");
      EXPECT_LT(call->ended_at(), end - 300ms) << "its result did not wait for on_stop()";
      EXPECT_EQ(report.drained, 1u);
    }
    EXPECT_EQ(s.pipe->rest(), "first\nawaiting\nawaited\nlast\nserved\n");
  };
  run_together({[&] { return stopped(true); }, [&] { return stopped(false); }});
}

// Its exception is a line on stderr. The others run, and the exit code stays 0.
TEST_F(StopHook, ThatThrowsIsALineOnStderr) {
  run_together({[]() -> asio::awaitable<void> {
    ReadPipe errors;
    WorkerOptions options = life_worker({"stop-say", "last", "stop-throw", "disk full", "stop-throw-later"});
    options.name = "the stopping one";
    options.command.err = errors.stdio();
    const Started s = co_await started(options);
    const StopReport report = co_await s.worker->stop();
    EXPECT_FALSE(report.rpc) << report.rpc.message();
    EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
    EXPECT_EQ(s.pipe->rest(), "last\nserved\n");
    EXPECT_EQ(errors.rest(),
              "drover: worker 'the stopping one': its on_stop() threw int\n"
              "drover: worker 'the stopping one': its on_stop() threw std::runtime_error: disk full\n");
  }});
}

// One that hangs is cut off within the budget of the stop. Without a bound that is shutdown_grace.
TEST_F(StopHook, ThatHangsIsCutOffWithinTheBudget) {
  const auto hanging = [](std::vector<std::string> steps, Timeout grace, Duration at_most) -> asio::awaitable<void> {
    WorkerOptions options = life_worker(steps);
    options.stop_margin = 400ms;
    options.shutdown_grace = 800ms;
    const Started s = co_await started(options);
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(grace);
    EXPECT_LT(since(start), at_most + slack);
    EXPECT_EQ(report.exit.to_string(), "exited with code 1");
    EXPECT_FALSE(report.terminated || report.killed);
    EXPECT_FALSE(report.rpc) << report.rpc.message();
    EXPECT_NE(s.pipe->rest().find("ing\n"), std::string::npos) << "it has begun";
  };
  run_together({
      [&] { return hanging({"stop-block"}, 0s, 400ms); },
      [&] { return hanging({"stop-spin"}, 300ms, 700ms); },
      [&] { return hanging({"stop-await", "30000"}, 0s, 400ms); },
      [&] { return hanging({"stop-block"}, std::nullopt, 800ms); },
      [&] { return hanging({"stop-await", "30000"}, std::nullopt, 800ms); },
  });
}

// ---- START_FAILED of a hostile worker -------------------------------------------------------------------------------

WorkerOptions hostile_worker(std::string mode) {
  WorkerOptions options = call_worker({std::move(mode)});
  options.command.program = DROVER_HELPER_HOSTILE_WORKER;
  options.term_grace = 500ms;
  return options;
}

// The first one counts. A process that then stays gets SIGTERM after half a second.
TEST_F(HostileWorker, StartFailedIsBelievedOnce) {
  const auto failing = [](const char* mode) -> asio::awaitable<void> {
    const auto start = Clock::now();
    const FailedStart failed = co_await failed_start(hostile_worker(mode));
    EXPECT_EQ(failed.failure, Errc::start_failed) << mode << failed.failure;
    EXPECT_NE(failed.failure.text.find("threw Type: text"), std::string::npos) << mode << failed.failure;
    EXPECT_LT(since(start), 500ms + slack) << mode;
  };
  run_together({
      [&] { return failing("start_failed_twice"); },
      [&] { return failing("start_failed_then_hello"); },
      [&] { return failing("start_failed_in_pieces"); },
      [&] { return failing("start_failed_flood"); },
  });
}

// A START_FAILED of a wrong size, content or version fails the start in time, with an error that says which.
TEST_F(HostileWorker, MalformedStartFailedIsAProtocolError) {
  const auto failing = [](const char* mode, Errc expected, const char* text) -> asio::awaitable<void> {
    const auto start = Clock::now();
    const FailedStart failed = co_await failed_start(hostile_worker(mode));
    EXPECT_EQ(failed.failure, expected) << mode << failed.failure;
    EXPECT_NE(failed.failure.text.find(text), std::string::npos) << mode << failed.failure;
    EXPECT_LT(since(start), slack) << mode;
  };
  using enum Errc;
  run_together({
      [&] { return failing("start_failed_oversized", protocol_error, "65537 bytes, at most 65536"); },
      [&] { return failing("start_failed_huge", protocol_error, "2097153 bytes, where at most 2097152"); },
      [&] { return failing("start_failed_malformed", protocol_error, "sent a malformed START_FAILED"); },
      [&] { return failing("start_failed_empty", protocol_error, "sent a malformed START_FAILED"); },
      [&] { return failing("start_failed_without_version", protocol_error, "is not a drover HELLO"); },
      [&] { return failing("start_failed_of_another_version", version_mismatch, "version 77"); },
  });
}

// START_FAILED of a worker that is ready fails its call with Errc::protocol_error.
TEST_F(HostileWorker, StartFailedAfterHelloIsAProtocolError) {
  on_one_thread([]() -> asio::awaitable<void> {
    const WorkerOptions options = hostile_worker("start_failed_when_ready");
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    const Failure failure = co_await failure_of(worker.call<int>("x"));
    EXPECT_EQ(failure, Errc::protocol_error) << failure;
    EXPECT_NE(failure.text.find("START_FAILED after its first message"), std::string::npos) << failure;
    co_await worker.stop();
  });
}

// A process that does not descend from the one that was spawned is not believed.
TEST_F(HostileWorker, StartFailedOfAStrangerIsAProtocolError) {
  WorkerOptions options = life_worker();
  const std::string worker = options.command.program.string();
  options.command.program = "/bin/sh";
  options.command.args = {"-c", "(setsid " + worker + " start-throw strange &); sleep 60"};
  const FailedStart failed = run(failed_start(options));
  EXPECT_EQ(failed.failure, Errc::protocol_error) << failed.failure;
  EXPECT_EQ(failed.failure.text.find("strange"), std::string::npos) << failed.failure;
}

}  // namespace
