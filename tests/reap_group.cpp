// What a reap does to the rest of a process group whose leader has exited.
#include <algorithm>
#include <gtest/gtest.h>
#include <memory>
#include <signal.h>
#include <string>
#include <string_view>
#include <sys/resource.h>
#include <sys/wait.h>
#include <system_error>
#include <thread>
#include <tuple>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/os/detail/child_process.hpp>
#include <drover/os/process.hpp>

#include "support/processes.hpp"
#include "support/ticker.hpp"

namespace {

using namespace support;

class ReapGroup : public Processes {};

/// Its leader exits at SIGTERM; the rest of the group, whose pid it says, does not.
Command leader_with_survivor(const ReadPipe& pipe) {
  Command command = child({"fork", "ignore", "15", "say-pid", "pause", "end", "pause"});
  command.out = pipe.stdio();
  return command;
}

// In `sh -c 'program; true'` the shell exits at SIGTERM at once. The program still has term_grace to clean up, and
// wait() reports the shell's exit without waiting for the program.
TEST_F(ReapGroup, GroupKeepsItsGraceAfterTheLeadersExit) {
  for (const char* then : {"sleep", "ignore"}) {
    SCOPED_TRACE(then);
    const bool stubborn = std::string(then) == "ignore";
    ReadPipe pipe;
    Command command = stubborn ? child({"fork", "ignore", "15", "say-pid", "pause", "end", "pause"})
                               : child({"fork", "exit-on", "15", "300", "7", "say-pid", "pause", "end", "pause"});
    command.out = pipe.stdio();
    auto process = Process::spawn(command);
    const pid_t grandchild = pipe.pid();
    const auto start = Clock::now();
    asio::io_context context;
    Duration waited{};
    asio::co_spawn(context, process.wait(), [&](std::exception_ptr, ExitStatus) { waited = since(start); });
    const drover::ReapReport report = run(context, process.reap({.patience = 0ms, .term_grace = 1s}));
    EXPECT_EQ(report.exit.value, SIGTERM);
    EXPECT_TRUE(report.terminated);
    EXPECT_EQ(report.killed, stubborn);
    EXPECT_GE(since(start), stubborn ? 1s : 300ms);
    EXPECT_LT(since(start), 1s + slack);
    EXPECT_LT(waited, 250ms);
    EXPECT_GE(report.elapsed, stubborn ? 1s : 300ms);
    EXPECT_TRUE(gone(grandchild));
  }
}

// The rest of a group whose leader exited by itself gets SIGTERM and Command::group_grace, if that is set.
TEST_F(ReapGroup, GroupGraceIsForTheRestOfTheGroup) {
  for (const Duration grace : {Duration(0ms), Duration(200ms), Duration(5s)}) {
    ReadPipe pipe;
    Command command =
        child({"exit-on", "10", "0", "0", "fork", "exit-on", "15", "100", "7", "say-pid", "pause", "end", "pause"});
    command.out = pipe.stdio();
    command.group_grace = grace;
    auto process = Process::spawn(command);
    const pid_t grandchild = pipe.pid();
    const auto start = Clock::now();
    process.signal(SIGUSR1);  // the leader exits by itself
    const drover::ReapReport report = run(process.reap(10s));
    EXPECT_TRUE(report.exit.success());
    EXPECT_FALSE(report.terminated);
    EXPECT_FALSE(report.killed);
    EXPECT_TRUE(gone(grandchild));
    if (grace > 0s) {
      EXPECT_GE(since(start), 50ms);
    }
    EXPECT_LT(since(start), slack);
  }
  Command command = child({});
  command.group_grace = -1ns;
  EXPECT_THROW(Process::spawn(command), std::invalid_argument);
}

// Two survivors of a group exit one after the other, long before their grace is over. The exit of the second one is
// noticed at once, although its descriptor usually has the number that the first one's had.
TEST_F(ReapGroup, NoticesTheExitOfEachSurvivor) {
  ReadPipe pipe;
  Command command = child({"fork", "exit-on", "15", "100", "7", "say-pid", "pause", "end",  //
                           "fork", "exit-on", "15", "400", "7", "say-pid", "pause", "end", "pause"});
  command.out = pipe.stdio();
  auto process = Process::spawn(command);
  const pid_t first = pipe.pid(), second = pipe.pid();
  const drover::ReapReport report = run(process.reap({.patience = 0ms, .term_grace = 60s}));
  EXPECT_FALSE(report.killed);
  EXPECT_LT(report.elapsed, 5s);
  EXPECT_TRUE(gone(first) && gone(second));
}

// Without a free descriptor drover cannot look who is left of a group. It takes nobody for gone, and kills the group.
TEST_F(ReapGroup, KillsSurvivorsWithoutAFreeDescriptor) {
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  ReadPipe pipe;
  auto process = Process::spawn(leader_with_survivor(pipe));
  const pid_t survivor = pipe.pid();
  asio::io_context context;
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &none);
  const drover::ReapReport report = run(context, process.reap({.patience = 0ms, .term_grace = 300ms}));
  ::setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_TRUE(report.killed);
  EXPECT_TRUE(soon_gone(survivor));
}

// A second reap may shorten the grace of the rest of the group, even after the leader has been collected.
TEST_F(ReapGroup, SecondReapShortensTheGroupsGrace) {
  ReadPipe pipe;
  auto process = Process::spawn(leader_with_survivor(pipe));
  const pid_t grandchild = pipe.pid();
  asio::io_context context;
  const auto start = Clock::now();
  auto first = process.reap({.patience = 0ms, .term_grace = 60s});
  (void)run(context, process.wait());
  EXPECT_FALSE(gone(grandchild));
  const drover::ReapReport report = run(context, process.reap({.patience = 0ms, .term_grace = 100ms}));
  EXPECT_TRUE(report.killed);
  EXPECT_LT(since(start), slack);
  EXPECT_TRUE(gone(grandchild));
  (void)run(context, std::move(first));
}

// The owner is destroyed while the rest of the group has a long grace, so that no later reap can shorten it.
TEST_F(ReapGroup, OfADestroyedOwnerKillsTheRestOfTheGroup) {
  ReadPipe pipe;
  drover::detail::SpawnOptions extras;
  extras.term_grace = 100ms;
  const Command command = leader_with_survivor(pipe);
  const auto child = drover::detail::ChildProcess::spawn(command, extras);
  const pid_t grandchild = pipe.pid();
  child->reap({.patience = 0ms, .term_grace = 60s});
  run(drover::detail::AsyncEvent::wait(child->ended()));
  child->abandon();
  EXPECT_TRUE(soon_gone(grandchild));
  run(drover::detail::AsyncEvent::wait(child->settled()));
}

// The rest of a group may still write during its grace: its pipe is not closed.
TEST_F(ReapGroup, RestOfTheGroupMayWriteInItsGrace) {
  asio::io_context context;
  std::vector<std::string> lines;
  Command command;
  command.program = "/bin/sh";
  command.args = {"-c",
                  "trap 'exit 3' USR1; sh -c 'trap \"echo got; sleep 0.2; echo done; exit\" TERM; echo ready; "
                  "while :; do sleep 0.01; done' & while :; do sleep 0.01; done"};
  command.out = drover::Stdio::lines(context.get_executor(), [&](std::string_view line) { lines.emplace_back(line); });
  command.group_grace = 5s;
  auto process = Process::spawn(command);
  const auto work = asio::make_work_guard(context);
  while (lines.empty()) context.run_one();
  process.signal(SIGUSR1);
  const drover::ReapReport report = run(context, process.reap(10s));
  EXPECT_EQ(report.exit.value, 3);
  EXPECT_FALSE(report.killed);
  EXPECT_EQ(lines, (std::vector<std::string>{"ready", "got", "done"}));
}

}  // namespace
