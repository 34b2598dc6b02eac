// Programs that close all descriptors, as daemons do, or one that they do not own: see support/lossy_host.cpp.
#include <gtest/gtest.h>
#include <string>
#include <tuple>
#include <vector>

#include <drover/os/process.hpp>

#include "support/processes.hpp"

namespace {

using namespace support;

class LostDescriptor : public Processes {
 protected:
  struct Outcome {
    ExitStatus exit;
    std::string said;
    Duration took{};
  };
  static Outcome host(std::vector<std::string> words) {
    words.insert(words.begin(), DROVER_HELPER_CHILD);
    ReadPipe pipe;
    Command command;
    command.program = DROVER_HELPER_LOSSY_HOST;
    command.args = std::move(words);
    command.out = pipe.stdio();
    // In a forked copy a leak sanitizer may hang, and a thread sanitizer refuses to start threads.
    command.env = {{"ASAN_OPTIONS", "detect_leaks=0"}, {"TSAN_OPTIONS", "die_after_fork=0"}};
    const auto start = Clock::now();
    auto process = Process::spawn(command);
    Outcome outcome;
    outcome.exit = run(process.wait(), 30s);
    outcome.took = since(start);
    outcome.said = pipe.rest();
    return outcome;
  }
};

// The program or a forked copy of it closes all descriptors and may open files of its own before it spawns.
TEST_F(LostDescriptor, LeavesAChildItsNullDevice) {
  for (const std::string where : {"here", "copy"}) {
    for (const std::string then : {"opens", "spawns"}) {
      const auto outcome = host({"null-device", where, then});
      EXPECT_TRUE(outcome.exit.success()) << where << " " << then << " " << outcome.exit.to_string();
      EXPECT_EQ(outcome.said, "/dev/null\n") << where << " " << then;
    }
  }
}

class EachLostDescriptor : public LostDescriptor,
                           public ::testing::WithParamInterface<std::tuple<std::string, std::string>> {};

// Each of drover's descriptors, one after another and then all of them, is closed or becomes a file of the program.
TEST_P(EachLostDescriptor, DelaysNoReapAndDisturbsNoFile) {
  const auto& [kind, moment] = GetParam();
  int index = -1;
  for (;; ++index) {
    const auto outcome = host({"loses", std::to_string(index), kind, moment});
    if (outcome.exit == ExitStatus{ExitStatus::Kind::exited, 9, false}) break;
    EXPECT_TRUE(outcome.exit.success()) << index << " " << outcome.exit.to_string();
  }
  EXPECT_GE(index, 3);  // the reaper thread's two, a pipe, and a pidfd if there are pidfds
}

INSTANTIATE_TEST_SUITE_P(InEachWayAndAtEachTime, EachLostDescriptor,
                         ::testing::Combine(::testing::Values("closed", "exhausted", "epoll", "timer", "event", "pidfd",
                                                              "pipe"),
                                            ::testing::Values("before", "patience", "grace")));

// No operation is called after the loss.
TEST_F(LostDescriptor, DelaysAnAwaitedExitByTenSeconds) {
  for (const std::string how : {"closed", "replaced"}) {
    const auto outcome = host({"ends", how});
    EXPECT_TRUE(outcome.exit.success()) << how << " " << outcome.exit.to_string();
    EXPECT_LT(outcome.took, 10s + slack) << how;
  }
}

}  // namespace
