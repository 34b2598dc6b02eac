// Children that inherit the terminal of a program as their stdin; the program is support/terminal_host.cpp.
#include <gtest/gtest.h>
#include <optional>
#include <signal.h>
#include <string>

#include <drover/os/detail/terminal.hpp>
#include <drover/os/process.hpp>

#include "support/processes.hpp"

namespace {

using namespace support;
using drover::detail::next_step;
using drover::detail::TerminalStep;
using drover::detail::TerminalView;

TEST(TerminalStep, IsRightForEveryHolderAndSignal) {
  using Holder = TerminalView::Holder;
  for (const auto holder : {Holder::parent, Holder::child, Holder::other})
    EXPECT_EQ(next_step({holder, std::nullopt}), TerminalStep::nothing);
  for (const int signo : {SIGTSTP, SIGTTIN, SIGTTOU, SIGSTOP}) {
    EXPECT_EQ(next_step({Holder::child, signo}),
              signo == SIGTSTP ? TerminalStep::take_back_and_stop : TerminalStep::take_back);
    EXPECT_EQ(next_step({Holder::parent, signo}), signo == SIGSTOP ? TerminalStep::nothing : TerminalStep::hand_over);
    EXPECT_EQ(next_step({Holder::other, signo}), TerminalStep::nothing);
  }
}

class Terminal : public Processes {
 protected:
  static void expect_well(const std::string& mode) {
    Command command;
    command.program = DROVER_HELPER_TERMINAL_HOST;
    command.args = {DROVER_HELPER_CHILD, mode};
    // In a forked copy a leak sanitizer may hang, and a thread sanitizer refuses to start threads.
    command.env = {{"ASAN_OPTIONS", "detect_leaks=0"}, {"TSAN_OPTIONS", "die_after_fork=0"}};
    auto process = Process::spawn(command);
    const auto report = run(process.reap(50s), 60s);
    EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
  }
};

TEST_F(Terminal, CanBeReadByAChild) { expect_well("reads"); }

TEST_F(Terminal, CanBeReadByOneChildAtATime) { expect_well("second"); }

// A program in the background has no terminal to hand over.
TEST_F(Terminal, IsRefusedInTheBackground) { expect_well("background"); }

TEST_F(Terminal, ReturnsFromAnAbandonedChild) { expect_well("abandons"); }

// The user suspends the program and continues it; both apply to the child as well.
TEST_F(Terminal, SuspendsTheProgramWithTheChild) { expect_well("suspends"); }

TEST_F(Terminal, ReturnsFromASuspendedChild) { expect_well("stopped"); }

// The child has got SIGTERM and ignores it; SIGKILL is due much later.
TEST_F(Terminal, ReturnsFromAChildSuspendedDuringAReap) { expect_well("stopped-late"); }

}  // namespace
