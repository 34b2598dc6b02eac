// Starts that fail: the error, its time, and that no process is left.
#include <gtest/gtest.h>
#include <signal.h>
#include <string>
#include <vector>

#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>

#include "support/workers.hpp"

namespace {

using namespace support;
using drover::Timeout;

class StartFailure : public Workers {};

/// Starts such a worker, and expects the start to fail and to leave no process.
asio::awaitable<Failure> failing_start(WorkerOptions options, Timeout timeout = 30s) {
  LocalWorker worker(co_await asio::this_coro::executor, options);
  const Failure failure = co_await failure_of(worker.start(timeout));
  EXPECT_TRUE(failure) << "it has started";
  if (worker.pid() != 0) {
    EXPECT_TRUE(gone(worker.pid())) << failure;
  }
  EXPECT_FALSE(worker.alive());
  const StopReport report = co_await worker.stop();  // it changes nothing
  EXPECT_FALSE(worker.alive()) << report.rpc;
  co_return failure;
}

// A program that cannot be executed fails with the errno of exec.
TEST_F(StartFailure, OfTheExecHasItsErrno) {
  WorkerOptions options;
  options.command.program = "/no/such/program";
  EXPECT_EQ(run(failing_start(options)).code, std::errc::no_such_file_or_directory);
  options.command.program = "/etc/passwd";
  EXPECT_EQ(run(failing_start(options)).code, std::errc::permission_denied);
}

// A worker that is not ready at the timeout is ended, with SIGKILL if it ignores SIGTERM.
TEST_F(StartFailure, AtTheTimeoutLeavesNoProcess) {
  const auto never_ready = [](std::vector<std::string> steps) -> asio::awaitable<void> {
    const auto start = Clock::now();
    WorkerOptions options = worker_with(std::move(steps));
    options.term_grace = 500ms;  // a stubborn grandchild uses all of it
    const Failure failure = co_await failing_start(options, 300ms);
    EXPECT_EQ(failure, Errc::start_timeout);
    EXPECT_GE(since(start), 300ms);
    EXPECT_LT(since(start), 300ms + slack);
  };
  const auto stubborn = [](std::vector<std::string> steps) -> asio::awaitable<void> {
    const auto start = Clock::now();
    WorkerOptions options = worker_with(std::move(steps));
    options.term_grace = 400ms;
    std::vector<Event::Kind> events;
    options.on_event = [&](const Event& event) {
      if (event.kind != Event::Kind::stopped && event.kind != Event::Kind::continued) events.push_back(event.kind);
    };
    const Failure failure = co_await failing_start(options, 1s);  // time enough to begin to ignore SIGTERM
    EXPECT_EQ(failure, Errc::start_timeout);
    EXPECT_GE(since(start), 1400ms);
    EXPECT_LT(since(start), 1400ms + slack);
    using enum Event::Kind;
    co_await asio::post(co_await asio::this_coro::executor, asio::use_awaitable);
    EXPECT_EQ(events, (std::vector{spawned, terminate_sent, kill_sent, exited, reaped}));
  };
  run_together({
      [&] { return never_ready({"pause"}); },
      [&] { return never_ready({"unarmed", "pause"}); },
      [&] { return never_ready({"unarmed", "close-channels", "pause"}); },
      [&] { return never_ready({"grandchild", "stubborn", "pause"}); },
      [&] { return never_ready({"stop"}); },
      [&] { return never_ready({"unarmed", "stop"}); },
      [&] { return stubborn({"ignore", "15", "pause"}); },
      [&] { return stubborn({"ignore", "15", "stop", "pause"}); },
  });
}

// A worker that closes its socket can never get ready, so the start fails before its timeout.
TEST_F(StartFailure, ForAClosedSocketComesBeforeTheTimeout) {
  WorkerOptions options = worker_with({"unarmed", "close-channels", "pause"});
  const auto start = Clock::now();
  const Failure failure = run(failing_start(options));
  EXPECT_EQ(failure, Errc::protocol_error) << failure;
  EXPECT_LT(since(start), 5s);
}

// A worker that exits before it is ready fails the start at once, with its exit status.
TEST_F(StartFailure, ByAnEarlyExitHasTheExitStatus) {
  const auto ending = [](std::vector<std::string> steps, ExitStatus expected) -> asio::awaitable<void> {
    const auto start = Clock::now();
    WorkerOptions options = worker_with(std::move(steps));
    const Failure failure = co_await failing_start(options);
    EXPECT_EQ(failure, Errc::start_failed);
    EXPECT_TRUE(failure.exit && failure.exit->kind == expected.kind && failure.exit->value == expected.value)
        << (failure.exit ? failure.exit->to_string() : "no status");
    EXPECT_LT(since(start), slack);
  };
  using enum ExitStatus::Kind;
  run_together({
      [&] { return ending({"exit", "3"}, {exited, 3}); },
      [&] { return ending({"unarmed", "exit", "3"}, {exited, 3}); },
      [&] { return ending({"unarmed", "exit", "0"}, {exited, 0}); },
      [&] { return ending({"crash", "11"}, {signaled, SIGSEGV}); },
      [&] { return ending({"crash", "9"}, {signaled, SIGKILL}); },
      [&] { return ending({"unarmed", "close-channels", "sleep", "50", "exit", "4"}, {exited, 4}); },
      [&] { return ending({"unarmed", "grandchild", "holding", "exit", "5"}, {exited, 5}); },
  });
}

// A program with another protocol version or without the protocol fails with a specific error.
TEST_F(StartFailure, TellsWrongVersionFromWrongProtocol) {
  const auto refused = [](std::vector<std::string> steps, Errc expected) -> asio::awaitable<void> {
    const auto start = Clock::now();
    WorkerOptions options = worker_with(steps);
    const Failure failure = co_await failing_start(options, 10s);
    EXPECT_EQ(failure, expected) << steps[1];
    EXPECT_LT(since(start), slack);
    if (expected == Errc::version_mismatch) {
      EXPECT_NE(failure.text.find("77"), std::string::npos) << failure.text;
      EXPECT_NE(failure.text.find("speaks 1;"), std::string::npos) << failure.text;
    }
  };
  run_together({
      [&] { return refused({"unarmed", "version", "77", "pause"}, Errc::version_mismatch); },
      [&] { return refused({"unarmed", "version", "77", "exit", "0"}, Errc::version_mismatch); },
      [&] { return refused({"unarmed", "garbage", "pause"}, Errc::protocol_error); },
      [&] { return refused({"unarmed", "reply", "pause"}, Errc::protocol_error); },
      [&] { return refused({"unarmed", "garbage", "exit", "0"}, Errc::protocol_error); },
      [&] { return refused({"unarmed", "huge-frame", "pause"}, Errc::protocol_error); },
      [&] { return refused({"unarmed", "half-frame", "close-channels", "pause"}, Errc::protocol_error); },
      [&] { return refused({"unarmed", "half-frame", "exit", "0"}, Errc::protocol_error); },
  });
}

// A worker cannot make its parent read and sort any number of names.
TEST_F(StartFailure, ForTooManyRoutinesNamesTheirNumber) {
  const auto refused = [](const char* count, const char* text) -> asio::awaitable<void> {
    WorkerOptions options = worker_with({"unarmed", "announce", count, "pause"});
    const Failure failure = co_await failing_start(options, 10s);
    EXPECT_EQ(failure, Errc::protocol_error);
    EXPECT_NE(failure.text.find(text), std::string::npos) << failure.text;
  };
  run_together({
      [&] { return refused("16385", "announces 16385 routines, at most 16384 are allowed"); },
      [&] { return refused("1000000", "greeting with the names of all routines of 10000024 bytes"); },
  });
}

// HELLO must come from a descendant of this process. A worker that has left its lineage, because its parent has exited
// and it is in a session of its own, is a stranger.
TEST_F(StartFailure, ForHelloOfAStrangerIsAProtocolError) {
  WorkerOptions options = plain_worker();
  const std::string worker = options.command.program.string();
  options.command.program = "/bin/sh";
  options.command.args = {"-c", "(setsid " + worker + " &); sleep 60"};
  EXPECT_EQ(run(failing_start(options)), Errc::protocol_error);
}

// The environment says that a process is a worker. A process whose environment was cleared, even if its descriptors are
// closed as well, still has the mark of its spawn. It must not take itself for the parent program: its own pool would
// be a fork bomb.
TEST_F(StartFailure, ByAClearedEnvironmentDoesNotMultiply) {
  WorkerOptions options = plain_worker();
  const std::string worker = options.command.program.string();
  options.command.program = "/bin/sh";
  options.command.args = {"-c", "exec env -i " + worker};
  const Failure cleared = run(failing_start(options));
  EXPECT_EQ(cleared, Errc::start_failed);
  EXPECT_TRUE(cleared.exit && cleared.exit->value == 76) << cleared;

  options.command.args = {"-c", "exec env -i " + worker + " 3>&- 4>&- 5>&-"};
  const auto start = Clock::now();
  const Failure closed = run(failing_start(options));
  EXPECT_LT(since(start), 5s);
  EXPECT_EQ(closed, Errc::start_failed) << closed;
  EXPECT_TRUE(closed.exit && closed.exit->value == 76) << closed;

  options.command.args = {"-c", "exec 3>&- 4>&- 5>&-; sleep 60"};
  const Failure idle = run(failing_start(options));
  EXPECT_LT(since(start), 5s);
  EXPECT_EQ(idle, Errc::protocol_error) << idle;
  EXPECT_NE(idle.text.find("close descriptors"), std::string::npos) << idle;
}

// Python's subprocess and many scripts close descriptors above 2 and keep the environment. The process must not take
// itself for the parent program: its own pool would be a fork bomb, and here it would exit with code 0.
TEST_F(StartFailure, ByClosedDescriptorsNamesTheCause) {
  WorkerOptions options = plain_worker();
  const std::string worker = options.command.program.string();
  options.command.program = "/bin/sh";
  for (const std::string closed : {"exec 3>&-", "exec 4>&-", "exec 3>&- 4>&- 5>&-", "exec 4</dev/null"}) {
    SCOPED_TRACE(closed);
    options.command.args = {"-c", closed + "; exec " + worker};
    const auto start = Clock::now();
    const Failure failure = run(failing_start(options));
    EXPECT_LT(since(start), 5s);
    EXPECT_EQ(failure, Errc::start_failed);
    EXPECT_TRUE(failure.exit && failure.exit->value == 76) << failure;
    EXPECT_NE(failure.text.find("descriptors"), std::string::npos) << failure;
  }
}

// A worker for which the machine has no thread left says so and exits; it does not abort.
TEST_F(StartFailure, ByMissingThreadsNamesTheCause) {
  WorkerOptions options = plain_worker();
  const std::string worker = options.command.program.string();
  options.command.program = DROVER_HELPER_NO_THREADS;
  options.command.args = {worker};
  const Failure failure = run(failing_start(options));
  EXPECT_EQ(failure, Errc::start_failed);
  EXPECT_TRUE(failure.exit && failure.exit->value == 71) << failure;
  EXPECT_NE(failure.text.find("thread"), std::string::npos) << failure;
}

// A main() that never reaches serve() does not start workers without end.
TEST_F(StartFailure, OfAMainWithoutServeDoesNotMultiply) {
  for (auto steps : {std::vector<std::string>{"forget"}, {"unarmed", "forget"}}) {
    const Failure failure = run(failing_start(worker_with(steps)));
    EXPECT_EQ(failure, Errc::start_failed);
    EXPECT_TRUE(failure.exit && failure.exit->value == 77) << (failure.exit ? failure.exit->to_string() : "no status");
  }
}

}  // namespace
