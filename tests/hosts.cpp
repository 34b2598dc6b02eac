// Programs that exit or are short of something, and the processes that they started. Each program is
// support/process_host.cpp.
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <signal.h>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>

#include <drover/os/process.hpp>

#include "support/processes.hpp"

namespace {

using namespace support;

struct Outcome {
  ExitStatus exit;
  std::string said;
  Duration took{};
};

class ProgramExit : public Processes {
 protected:
  static Outcome host(std::vector<std::string> words) {
    words.insert(words.begin(), DROVER_HELPER_CHILD);
    ReadPipe pipe;
    Command command;
    command.program = DROVER_HELPER_PROCESS_HOST;
    command.args = std::move(words);
    command.out = pipe.stdio();
    // In a forked copy a leak sanitizer may hang, and a thread sanitizer refuses to start threads.
    if (command.args[1] == "forked-copy")
      command.env = {{"ASAN_OPTIONS", "detect_leaks=0"}, {"TSAN_OPTIONS", "die_after_fork=0"}};
    const auto start = Clock::now();
    auto process = Process::spawn(command);
    Outcome outcome;
    outcome.exit = run(process.wait(), 60s);
    outcome.took = since(start);
    outcome.said = pipe.rest();
    return outcome;
  }
};

class Exec : public ProgramExit {};
class ForkedCopy : public ProgramExit {};
class Reap : public ProgramExit {};
class Spawn : public ProgramExit {};

TEST_F(ProgramExit, TerminatesRemainingChildren) {
  for (const std::string owner : {"global", "leaked"}) {
    for (const std::string kind : {"lives", "stopped"}) {
      const auto outcome = host({"ends", owner, kind});
      EXPECT_TRUE(outcome.exit.success()) << owner << " " << kind << " " << outcome.exit.to_string();
      EXPECT_LT(outcome.took, 1s + slack);
      EXPECT_TRUE(gone(static_cast<pid_t>(std::stol(outcome.said)))) << owner << " " << kind;
    }
  }
}

TEST_F(ProgramExit, KillsChildrenAtTheEndOfTermGrace) {
  asio::io_context context;
  int ended = 0;
  for (const std::string owner : {"global", "leaked"}) {
    auto one = [](std::string who, int& count) -> asio::awaitable<void> {
      ReadPipe pipe;
      Command command;
      command.program = DROVER_HELPER_PROCESS_HOST;
      command.args = {DROVER_HELPER_CHILD, "ends", std::move(who), "ignores"};
      command.out = pipe.stdio();
      const auto start = Clock::now();
      auto process = Process::spawn(command);
      const auto status = co_await process.wait();
      EXPECT_TRUE(status.success()) << status.to_string();
      EXPECT_GE(since(start), 5s);
      EXPECT_LT(since(start), 6s + slack);
      EXPECT_TRUE(gone(pipe.pid()));
      ++count;
    };
    asio::co_spawn(context, one(owner, ended), asio::detached);
  }
  context.run();
  EXPECT_EQ(ended, 2);
}

TEST_F(ProgramExit, KeepsTheExitCode) {
  const auto outcome = host({"exits"});
  EXPECT_EQ(outcome.exit, (ExitStatus{ExitStatus::Kind::exited, 7, false}));
  EXPECT_TRUE(gone(static_cast<pid_t>(std::stol(outcome.said))));
}

TEST_F(ProgramExit, AllowsNoFurtherSpawn) {
  const auto outcome = host({"late"});
  EXPECT_TRUE(outcome.exit.success()) << outcome.exit.to_string();
  EXPECT_NE(outcome.said.find("late\n"), std::string::npos);
}

TEST_F(ForkedCopy, HarmsNoProcessOfTheOriginal) {
  for (const std::string way : {"exits", "destroys", "cancels", "spawns"}) {
    const auto outcome = host({"forked-copy", way});
    EXPECT_TRUE(outcome.exit.success()) << way << " " << outcome.exit.to_string();
  }
}

TEST_F(Spawn, ChildHasStdioEvenIfParentClosedIts) {
  const auto report = std::filesystem::temp_directory_path() / ("drover-report-" + std::to_string(::getpid()));
  for (int closed = 0; closed < 8; ++closed) {
    const auto outcome = host({"closed-stdio", std::to_string(closed), report});
    EXPECT_TRUE(outcome.exit.success()) << closed << " " << outcome.exit.to_string();
    std::ifstream file(report);
    std::string line;
    std::getline(file, line);
    EXPECT_EQ(line, "fds 0 1 2 3 4") << closed;
    std::filesystem::remove(report);
  }
}

TEST_F(Spawn, WithoutDescriptorsFailsAndLeaksNothing) {
  const auto outcome = host({"no-descriptors"});
  EXPECT_TRUE(outcome.exit.success()) << outcome.exit.to_string();
}

TEST_F(Reap, ReportsThatSigkillWasRefused) {
  const auto outcome = host({"refused-kill"});
  EXPECT_TRUE(outcome.exit.success()) << outcome.exit.to_string();
}

TEST_F(Reap, CollectsTheGroupInASubreaper) {
  const auto outcome = host({"subreaper"});
  EXPECT_TRUE(outcome.exit.success()) << outcome.exit.to_string();
}

TEST_F(Spawn, ErrorNamesWhatTheSystemLacks) {
  for (const std::string what : {"thread", "proc", "epoll"}) {
    const auto outcome = host({"refused", what});
    EXPECT_TRUE(outcome.exit.success()) << what << " " << outcome.exit.to_string();
  }
}

// A program that replaces itself leaves none of its processes to the new program if it calls prepare_for_exec().
TEST_F(Exec, AfterPrepareForExecLeavesNoProcess) {
  const auto outcome = host({"execs", "prepared"});
  EXPECT_TRUE(outcome.exit.success()) << outcome.exit.to_string();
  EXPECT_TRUE(outcome.said.ends_with("anew\n")) << outcome.said;
  EXPECT_LT(outcome.took, slack);
}

// prepare_for_exec() on one thread meets the start of a process on another, in every order: the program is
// support/spawning_host.cpp.
TEST_F(Exec, EndsAProcessThatIsBeingStarted) {
  Command command;
  command.program = DROVER_HELPER_SPAWNING_HOST;
  command.args = {DROVER_HELPER_CHILD};
  auto process = Process::spawn(command);
  const auto status = run(process.wait());
  EXPECT_TRUE(status.success()) << status.to_string();
}

TEST_F(Exec, WithoutPrepareForExecLeavesTheProcesses) {
  const auto outcome = host({"execs", "unprepared"});
  EXPECT_TRUE(outcome.exit.success()) << outcome.exit.to_string();
  EXPECT_TRUE(outcome.said.ends_with("anew\n")) << outcome.said;
}

}  // namespace
