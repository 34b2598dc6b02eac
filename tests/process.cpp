#include <atomic>
#include <fcntl.h>
#include <filesystem>
#include <gtest/gtest.h>
#include <signal.h>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <system_error>
#include <thread>
#include <type_traits>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>

#include <drover/error.hpp>
#include <drover/os/process.hpp>

#include "support/processes.hpp"

namespace {

using namespace support;
using Kind = ExitStatus::Kind;

class Wait : public Processes {};

class Spawn : public Processes {};
class ProcessObject : public Processes {};

static_assert(std::is_default_constructible_v<Process> && std::is_nothrow_move_constructible_v<Process> &&
              std::is_nothrow_move_assignable_v<Process> && !std::is_copy_constructible_v<Process>);

ExitStatus status_of(std::vector<std::string> steps) {
  Command command = child(std::move(steps));
  auto process = Process::spawn(command);
  return run(process.wait());
}

TEST_F(Wait, DistinguishesExitsFromSignals) {
  EXPECT_EQ(status_of({"exit", "9"}), (ExitStatus{Kind::exited, 9, false}));
  EXPECT_EQ(status_of({"exit", "137"}), (ExitStatus{Kind::exited, 137, false}));
  EXPECT_EQ(status_of({"raise", "9"}), (ExitStatus{Kind::signaled, SIGKILL, false}));
  EXPECT_EQ(status_of({"exit", "0"}), (ExitStatus{Kind::exited, 0, false}));
  EXPECT_EQ(status_of({"raise", "34"}), (ExitStatus{Kind::signaled, 34, false}));
}

// Compared with the report of waitid() for the same exit, since it depends on the machine whether cores are written.
TEST_F(Wait, ReportsACoreDump) {
  const auto folder = std::filesystem::temp_directory_path() / ("drover-core-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  Command command = child({"allow-core", "raise", std::to_string(SIGQUIT)});
  command.cwd = folder;
  const pid_t raw = ::fork();
  if (raw == 0) {
    if (::chdir(folder.c_str()) == 0) ::execl(DROVER_HELPER_CHILD, "child", "allow-core", "raise", "3", nullptr);
    ::_exit(1);
  }
  int expected = 0;
  ASSERT_EQ(::waitpid(raw, &expected, 0), raw);
  auto process = Process::spawn(command);
  EXPECT_EQ(run(process.wait()), (ExitStatus{Kind::signaled, SIGQUIT, static_cast<bool>(WCOREDUMP(expected))}));
  std::filesystem::remove_all(folder);
}

// A child of a program in good order; tests/hosts.cpp has the other programs.
TEST_F(Spawn, PassesNoDescriptorsThatAreLeftOpen) {
  std::vector<UniqueFd> leaked;
  for (int i = 0; i < 200; ++i) leaked.emplace_back(::fcntl(0, F_DUPFD, 3));
  ReadPipe pipe;
  Command command = child({"report"});
  command.out = pipe.stdio();
  auto process = Process::spawn(command);
  EXPECT_EQ(pipe.line(), "fds 0 1 2");
  run(process.wait());
}

TEST_F(Spawn, ResetsBlockedAndIgnoredSignals) {
  sigset_t mask, before;
  ::sigemptyset(&mask);
  for (const int signo : {SIGTERM, SIGCHLD, SIGRTMIN + 3}) ::sigaddset(&mask, signo);
  ::pthread_sigmask(SIG_BLOCK, &mask, &before);
  std::vector<std::pair<int, sighandler_t>> handlers;
  for (const int signo : {SIGPIPE, SIGHUP, SIGRTMIN + 5, SIGRTMAX})
    handlers.emplace_back(signo, ::signal(signo, SIG_IGN));
  ReadPipe pipe;
  Command command = child({"report"});
  command.out = pipe.stdio();
  auto process = Process::spawn(command);
  sigset_t after;
  ::pthread_sigmask(SIG_SETMASK, &before, &after);
  for (const auto& [signo, handler] : handlers) ::signal(signo, handler);
  EXPECT_EQ(::sigismember(&after, SIGTERM), 1);
  EXPECT_EQ(::sigismember(&after, SIGUSR1), 0) << "spawn must give the caller its mask back";
  pipe.line();
  EXPECT_EQ(pipe.line(), "blocked");
  const std::string ignored = pipe.line();
  EXPECT_TRUE(ignored == "not-default" || ignored == "not-default 32 33") << ignored;
  EXPECT_EQ(pipe.line(), "leader yes");
  run(process.wait());
}

TEST_F(Wait, IgnoredSigchldMakesTheStatusUnknown) {
  const auto before = ::signal(SIGCHLD, SIG_IGN);
  EXPECT_EQ(status_of({"exit", "0"}).kind, Kind::unknown);
  ReadPipe pipe;
  Command command = child({"say", "x", "pause"});
  command.out = pipe.stdio();
  auto process = Process::spawn(command);
  pipe.byte();
  EXPECT_TRUE(process.running());
  const auto report = run(process.reap(0s));
  EXPECT_EQ(report.exit.kind, Kind::unknown);
  EXPECT_TRUE(report.terminated);
  EXPECT_FALSE(report.killed);
  ::signal(SIGCHLD, before);
}

TEST_F(Wait, StolenStatusIsUnknownAndNeverZero) {
  std::atomic<bool> over{false};
  std::thread thief([&] {
    int status = 0;
    while (!over) ::waitpid(-1, &status, 0);
  });
  for (int i = 0; i < 50; ++i) {
    const ExitStatus status = status_of({"exit", "7"});
    EXPECT_TRUE(status.kind == Kind::unknown || status == (ExitStatus{Kind::exited, 7, false}));
    EXPECT_FALSE(status.success());
  }
  over = true;
  thief.join();
}

TEST_F(Wait, WorksForManyProcessesAndManyWaiters) {
  asio::io_context context;
  std::vector<int> codes;
  std::vector<ExitStatus> same;
  auto one = [&codes](Command command) -> asio::awaitable<void> {
    auto process = Process::spawn(command);
    const auto status = co_await process.wait();
    codes.push_back(status.value);
  };
  for (int i = 0; i < 7; ++i)
    asio::co_spawn(context, one(child({"sleep", std::to_string((7 - i) * 30), "exit", std::to_string(i)})),
                   asio::detached);
  Command shared = child({"sleep", "100", "exit", "42"});
  auto process = Process::spawn(shared);
  auto waiting = [&same](asio::awaitable<ExitStatus> end) -> asio::awaitable<void> {
    const auto status = co_await std::move(end);
    same.push_back(status);
  };
  for (int i = 0; i < 2; ++i) asio::co_spawn(context, waiting(process.wait()), asio::detached);
  context.run();
  std::sort(codes.begin(), codes.end());
  EXPECT_EQ(codes, (std::vector{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(same, std::vector(2, ExitStatus{Kind::exited, 42, false}));
}

TEST_F(Wait, CancelledLeavesTheProcessRunning) {
  asio::io_context context;
  Command command = child({"pause"});
  auto process = Process::spawn(command);
  asio::cancellation_signal cancel;
  std::exception_ptr failure;
  asio::co_spawn(context, process.wait(),
                 asio::bind_cancellation_slot(cancel.slot(), [&](std::exception_ptr e, ExitStatus) { failure = e; }));
  const auto start = Clock::now();
  asio::steady_timer timer(context, 100ms);
  timer.async_wait([&](std::error_code) { cancel.emit(asio::cancellation_type::terminal); });
  context.run();
  EXPECT_GE(since(start), 100ms);
  EXPECT_LT(since(start), 100ms + slack);
  ASSERT_TRUE(failure);
  try {
    std::rethrow_exception(failure);
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), asio::error::operation_aborted);
  }
  EXPECT_TRUE(process.running());
  EXPECT_EQ(run(process.reap(0s)).exit, (ExitStatus{Kind::signaled, SIGTERM, false}));
}

TEST_F(ProcessObject, SignalAfterTheExitDoesNothing) {
  Command command = child({"pause"});
  auto process = Process::spawn(command);
  EXPECT_THROW(process.signal(12345), std::system_error);
  process.signal(SIGUSR1);
  EXPECT_EQ(run(process.wait()), (ExitStatus{Kind::signaled, SIGUSR1, false}));
  EXPECT_FALSE(process.running());
  EXPECT_EQ(process.exit_status(), (ExitStatus{Kind::signaled, SIGUSR1, false}));
  process.signal(SIGKILL);
  process.signal(12345);
  EXPECT_EQ(process.exit_status()->value, SIGUSR1);
}

TEST_F(Wait, CompletesOnceDuringAReap) {
  asio::io_context context;
  Command command = child({"pause"});
  auto process = Process::spawn(command);
  int ends = 0;
  asio::co_spawn(context, process.wait(), [&](std::exception_ptr e, ExitStatus) { ends += e ? 100 : 1; });
  context.poll();
  context.restart();
  auto reaping = [](asio::awaitable<drover::ReapReport> reap) -> asio::awaitable<void> { co_await std::move(reap); };
  asio::co_spawn(context, reaping(process.reap(0s)), asio::detached);
  context.run();
  EXPECT_EQ(ends, 1);
}

TEST_F(Wait, ReportsManyShortProcessesCorrectly) {
  asio::io_context context;
  int next = 0, wrong = 0;
  auto link = [&]() -> asio::awaitable<void> {
    while (next < 900) {
      const int code = next++ % 256;
      Command command = child({"exit", std::to_string(code)});
      auto process = Process::spawn(command);
      const auto status = co_await process.wait();
      if (status != ExitStatus{Kind::exited, code, false}) ++wrong;
    }
  };
  for (int i = 0; i < 50; ++i) asio::co_spawn(context, link(), asio::detached);
  context.run();
  EXPECT_EQ(wrong, 0);
}

TEST_F(ProcessObject, EmptyOneIsNotRunning) {
  Process process;
  EXPECT_EQ(process.pid(), 0);
  EXPECT_FALSE(process.running());
  EXPECT_FALSE(process.exit_status());
  process.signal(SIGTERM);
  EXPECT_EQ(run(process.reap()).exit.kind, Kind::unknown);  // returns at once, since it was never started
  try {
    run(process.wait());
    ADD_FAILURE() << "waited";
  } catch (const drover::Error& error) {
    EXPECT_EQ(error.code(), drover::Errc::not_running);
  }
}

TEST_F(ProcessObject, MoveDisturbsNoWaiter) {
  asio::io_context context;
  Command command = child({"await-input", "exit", "5"});
  ReadPipe pipe;
  auto process = Process::spawn(child({"pause"}));
  int value = 0;
  asio::co_spawn(context, process.wait(), [&](std::exception_ptr, ExitStatus status) { value = status.value; });
  context.poll();
  Process moved = std::move(process);
  EXPECT_EQ(process.pid(), 0);
  moved.signal(SIGUSR2);
  context.restart();
  context.run();
  EXPECT_EQ(value, SIGUSR2);
  moved = Process::spawn(command);  // replaces a process that has exited
  EXPECT_EQ(run(moved.wait()).value, 5);
}

// For each descriptor that spawn needs, there is a round in which that descriptor cannot be created.
TEST_F(Spawn, FailsCleanlyAtEachMissingDescriptor) {
  asio::io_context context;
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const rlimit tight{static_cast<rlim_t>(open_descriptors() + 20), before.rlim_max};
  int failures = 0;
  bool started = false;
  for (std::size_t left = 0; !started && left < 15; ++left) {
    Command command = child({"say", "hello\n", "exit", "3"});
    command.in = Stdio::file("/dev/null");
    command.err = command.out = Stdio::lines(context.get_executor(), [](std::string_view) {});
    std::vector<UniqueFd> filler;
    ::setrlimit(RLIMIT_NOFILE, &tight);
    for (UniqueFd fd(::dup(0)); fd; fd.reset(::dup(0))) filler.emplace_back(fd.release());
    for (std::size_t i = 0; i < left; ++i) filler.pop_back();
    Process process;
    int status = 0;
    try {
      process = Process::spawn(command);
      started = true;
    } catch (const std::system_error& error) {
      ++failures;
      EXPECT_EQ(error.code(), std::error_code(EMFILE, std::system_category())) << error.what();
      EXPECT_EQ(::waitpid(-1, &status, WNOHANG), -1);
      std::size_t free = 0;
      std::vector<UniqueFd> probe;
      for (UniqueFd fd(::dup(0)); fd; fd.reset(::dup(0))) ++free, probe.emplace_back(fd.release());
      EXPECT_EQ(free, left) << "leaked";
    }
    filler.clear();
    ::setrlimit(RLIMIT_NOFILE, &before);
    if (!started) continue;
    EXPECT_EQ(run(process.wait()), (ExitStatus{Kind::exited, 3, false}));
  }
  EXPECT_TRUE(started);
  EXPECT_GE(failures, 5);  // stdin, and both ends of two pipes
}

TEST_F(ProcessObject, ReportsTheSignalThatSuspendedIt) {
  auto process = Process::spawn(child({"say", "x", "raise", "19", "raise", "20", "pause"}));
  for (const int signo : {SIGSTOP, SIGTSTP}) {
    await_stopped(process.pid());
    EXPECT_EQ(process.stopped(), signo);
    process.signal(SIGCONT);
  }
  while (process.stopped()) std::this_thread::yield();
  run(process.reap(0s));
  EXPECT_EQ(process.stopped(), std::nullopt);
  EXPECT_EQ(Process().stopped(), std::nullopt);
}

}  // namespace
