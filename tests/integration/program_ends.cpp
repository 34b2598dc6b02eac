// Programs that end with workers in every state: what becomes of those, and what their forked copies do to them. Each
// is a program of its own, see support/worker_host.cpp.
#include <cerrno>
#include <gtest/gtest.h>
#include <signal.h>
#include <string>
#include <vector>

#include "support/workers.hpp"

namespace {

using namespace support;

class ProgramEnds : public Workers {};

const std::vector<std::string> owners{"local", "global", "leaked", "exit"};

/// It ends with code 0 and this long after it has begun to, and leaves no process, not even a zombie.
asio::awaitable<void> ends(std::string owner, std::string how, Duration at_least, Duration at_most) {
  ReadPipe pipe;
  Command command;
  command.program = DROVER_HELPER_WORKER_HOST;
  command.args = {owner, how};
  command.out = pipe.stdio();
  Process host = Process::spawn(command);
  pipe.close_write_end();
  std::vector<pid_t> workers;
  do {
    while (!pipe.readable()) co_await pause_for(1ms);
    workers.push_back(pipe.pid());
  } while (workers.back() != host.pid());
  workers.pop_back();
  EXPECT_EQ(workers.size(), 6u);
  const auto start = Clock::now();
  const ExitStatus status = co_await host.wait();
  EXPECT_TRUE(status.success()) << owner << ", " << how << ": " << status.to_string();
  EXPECT_GE(since(start), at_least) << owner << ", " << how;
  EXPECT_LT(since(start), at_most + slack) << owner << ", " << how;
  for (const pid_t pid : workers) EXPECT_TRUE(::kill(pid, 0) != 0 && errno == ESRCH) << owner << ", " << how;
}

//
TEST_F(ProgramEnds, TakingAllItsWorkersAlong) {
  for (const std::string& owner : owners) run_together({[&] { return ends(owner, "lives", 0s, 1s); }});
}

//
TEST_F(ProgramEnds, WaitingForTheGraceOfThoseThatIgnoreSigtermAndNoLonger) {
  for (const std::string& owner : owners) run_together({[&] { return ends(owner, "deaf", 600ms, 700ms + 1s); }});
}

//
TEST_F(ProgramEnds, HarmingNobodyIfItIsAForkedCopy) {
  for (const std::string& owner : owners) run_together({[&] { return ends(owner, "forked", 0s, 2s); }});
}

// A program that replaces itself by another, which looks for the workers: there are none.
TEST_F(ProgramEnds, PreparedForAnExecLeavingNothing) {
  run_together({[] { return ends("local", "prepared", 0s, 1s); }});
}

// The workers' sockets close, and they exit while the new program runs.
TEST_F(ProgramEnds, UnpreparedForAnExecWithWorkersThatExit) {
  run_together({[] { return ends("local", "unprepared", 0s, 5s); }});
}

}  // namespace
