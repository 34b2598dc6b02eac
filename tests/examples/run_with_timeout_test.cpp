#include <csignal>

#include "program.hpp"

namespace {

using namespace std::chrono_literals;
using Clock = Program::Clock;

Program::Result run(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), DROVER_EXAMPLE);
  return Program::run(std::move(arguments));
}

// The exit code is that of the command, or 128 + the signal that killed it; its output goes through.
TEST(RunWithTimeout, PassesOnWhatTheCommandSaysAndHowItEnds) {
  EXPECT_EQ(run({"10", "true"}).code, 0);
  EXPECT_EQ(run({"10", "sh", "-c", "exit 7"}).code, 7);
  EXPECT_EQ(run({"0", "sh", "-c", "kill -KILL $$"}).code, 128 + SIGKILL);
  EXPECT_EQ(run({"10", "sh", "-c", "kill -SEGV $$"}).code, 128 + SIGSEGV);

  const Program::Result result = run({"10", "sh", "-c", "echo out; echo err >&2"});
  EXPECT_EQ(result.out, "out\n");
  EXPECT_EQ(result.err, "err\n");
}

TEST(RunWithTimeout, EndsACommandThatTakesTooLong) {
  const Clock::time_point start = Clock::now();
  EXPECT_EQ(run({"0.3", "sleep", "60"}).code, 124);
  EXPECT_GE(Clock::now() - start, 300ms);
  EXPECT_LT(Clock::now() - start, 300ms + 1500ms);
}

TEST(RunWithTimeout, KillsACommandThatIgnoresTheTermination) {
  const Clock::time_point start = Clock::now();
  EXPECT_EQ(run({"-k", "0.4", "0.3", "sh", "-c", "trap '' TERM; while :; do sleep 60; done"}).code, 128 + SIGKILL);
  EXPECT_GE(Clock::now() - start, 700ms);
  EXPECT_LT(Clock::now() - start, 700ms + 1500ms);
}

TEST(RunWithTimeout, LeavesNothingOfTheCommand) {
  Program program({DROVER_EXAMPLE, "60", "sh", "-c", "sleep 60 & echo started; exit 0"});
  EXPECT_EQ(program.wait().code, 0);
  EXPECT_TRUE(program.processes().empty());
}

TEST(RunWithTimeout, TellsWhyACommandCantBeRun) {
  const Program::Result missing = run({"1", "/nonexistent/command"});
  EXPECT_EQ(missing.code, 127);
  EXPECT_NE(missing.err.find("/nonexistent/command"), std::string::npos) << missing.err;
  EXPECT_EQ(run({"1", "no-such-command-anywhere"}).code, 127);
  EXPECT_EQ(run({"1", "/"}).code, 126);
  EXPECT_EQ(run({"1", "/etc/passwd"}).code, 126);
}

TEST(RunWithTimeout, RefusesAWrongCommandLineAndHelps) {
  using Arguments = std::vector<std::string>;
  for (const Arguments& wrong : {Arguments{},
                                 {"1"},
                                 {"-1", "true"},
                                 {"soon", "true"},
                                 {"1s", "true"},
                                 {"nan", "true"},
                                 {"-k", "x", "1", "true"},
                                 {"-k"},
                                 {"-x", "1", "true"},
                                 {"--what", "1", "true"}}) {
    const Program::Result result = run(wrong);
    EXPECT_EQ(result.code, 125) << testing::PrintToString(wrong);
    EXPECT_NE(result.err.find("--help"), std::string::npos) << result.err;
  }
  const Program::Result help = run({"--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.out.rfind("Usage:", 0), 0U);
}

TEST(RunWithTimeout, GivesItsInputToTheCommand) {
  Program program({DROVER_EXAMPLE, "60", "cat"});
  program.type("spoken\n");
  program.close_input();
  const Program::Result result = program.wait();
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, "spoken\n");
}

TEST(RunWithTimeout, PassesSignalsOn) {
  Program program({DROVER_EXAMPLE, "60", "sh", "-c", "trap 'exit 3' INT; echo ready; while :; do sleep 0.01; done"});
  program.wait_for("ready");
  ::kill(program.pid(), SIGINT);
  EXPECT_EQ(program.wait().code, 3);
  EXPECT_TRUE(program.processes().empty());
}

TEST(RunWithTimeout, GivesTheTerminalToTheCommand) {
  Program::Setup setup;
  setup.terminal = true;
  Program program({DROVER_EXAMPLE, "60", "sh", "-c", "read line; echo \"got $line\"; exit 5"}, setup);
  program.type("spoken\n");
  const Program::Result result = program.wait();
  EXPECT_EQ(result.code, 5);
  EXPECT_EQ(result.out, "got spoken\n");
}

TEST(RunWithTimeout, CtrlCEndsTheCommand) {
  Program::Setup setup;
  setup.terminal = true;
  // Again and again: it may come before the command is there, and then ends both at the same time.
  for (int i = 0; i < 20; ++i) {
    Program program({DROVER_EXAMPLE, "60", "sleep", "60"}, setup);
    ASSERT_TRUE(Program::eventually(10s, [&] { return program.processes().size() == 2; }));
    program.type("\x03");
    EXPECT_EQ(program.wait().code, 128 + SIGINT);
    EXPECT_TRUE(program.processes().empty());
  }
}

}  // namespace
