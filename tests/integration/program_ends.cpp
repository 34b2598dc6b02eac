// Programs that exit with workers in every state: how these workers end, and what forked copies do to them. Each
// program is support/worker_host.cpp.
#include <cerrno>
#include <gtest/gtest.h>
#include <signal.h>
#include <string>
#include <vector>

#include "support/workers.hpp"

namespace {

using namespace support;

class ProgramExit : public Workers {};

class Exec : public Workers {};

const std::vector<std::string> owners{"local", "global", "leaked", "exit"};

/// The program exits with code 0 between `at_least` and `at_most` after it began to, and leaves no process, not even a
/// zombie.
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

// A program that exits takes its workers with it.
TEST_F(ProgramExit, TerminatesAllItsWorkers) {
  for (const std::string& owner : owners) run_together({[&] { return ends(owner, "lives", 0s, 1s); }});
}

// A program that exits waits for workers that ignore SIGTERM until their term_grace is over, and not longer.
TEST_F(ProgramExit, KillsWorkersThatIgnoreSigterm) {
  for (const std::string& owner : owners) run_together({[&] { return ends(owner, "deaf", 600ms, 700ms + 1s); }});
}

// The exit of a forked copy ends no worker of the original.
TEST_F(ProgramExit, ForkedCopyStopsNoWorkers) {
  for (const std::string& owner : owners) run_together({[&] { return ends(owner, "forked", 0s, 2s); }});
}

// A program replaces itself after prepare_for_exec(); the new program finds no worker.
TEST_F(Exec, AfterPrepareForExecFindsNoWorkers) {
  run_together({[] { return ends("local", "prepared", 0s, 1s); }});
}

// A program replaces itself without prepare_for_exec(): the workers' sockets close, and they exit while the new program
// runs.
TEST_F(Exec, WithoutPrepareForExecEndsTheWorkers) {
  run_together({[] { return ends("local", "unprepared", 0s, 5s); }});
}

}  // namespace
