#include <algorithm>
#include <csignal>
#include <sstream>

#include "program.hpp"

namespace {

using namespace std::chrono_literals;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// The host with that plug-in, a deadline of 1 s, and these inputs.
std::vector<std::string> host(std::vector<std::string> inputs) {
  inputs.insert(inputs.begin(), {DROVER_EXAMPLE, DROVER_PLUGIN, "--deadline", "1000"});
  return inputs;
}

// Between the evils a call of the same plug-in succeeds, in another worker if the last one has ended.
TEST(PluginHost, OutlivesWhateverThePluginDoes) {
  const std::vector<std::pair<std::string, std::string>> evils{
      {"segfault", "the worker ended: killed by SIGSEGV"},
      {"spin", "no result within 1000 ms, the worker is killed"},
      {"leak", "out of memory, the worker is replaced"},
      {"forge", "the worker wrote nonsense: "},
      {"close", "the worker ended: exited with code 0"},
      {"fork", "result FORK"},
      {"exit", "the worker ended: exited with code 0"},
      {"_exit", "the worker ended: exited with code 0"},
      {"fail", "failed: error 7"},
  };
  std::vector<std::string> inputs{"hello"};
  for (const auto& evil : evils) inputs.insert(inputs.end(), {evil.first, "hello"});
  Program program(host(inputs));
  const Program::Result result = program.wait();
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.err, "");
  const std::vector<std::string> lines = lines_of(result.out);
  ASSERT_EQ(lines.size(), inputs.size()) << result.out;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string expected = i % 2 == 0 ? "result HELLO" : evils[i / 2].second;
    EXPECT_EQ(lines[i].rfind(inputs[i] + ' ', 0), 0u) << lines[i];
    EXPECT_NE(lines[i].find(' ' + expected), std::string::npos) << lines[i];
  }
  EXPECT_TRUE(program.processes().empty());
}

// Two copies of the worker send results on one socket. That may cost the next call of this plug-in, and nothing else.
TEST(PluginHost, OutlivesTwoWorkersInOne) {
  Program program(host({"twice", "hello", "hello", "hello", "hello"}));
  const Program::Result result = program.wait();
  const std::vector<std::string> lines = lines_of(result.out);
  ASSERT_EQ(lines.size(), 5u) << result.out;
  EXPECT_GE(
      std::count_if(lines.begin(), lines.end(), [](const std::string& line) { return line.ends_with("result HELLO"); }),
      3)
      << result.out;
  EXPECT_TRUE(program.processes().empty());
}

TEST(PluginHost, SucceedsIfEachInputHasAResult) {
  const Program::Result result = Program::run(host({"one", "two\n\033[2J"}));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, "one          result ONE\ntwo??[2J     result TWO??[2J\n");
}

TEST(PluginHost, ReportsWhatIsNoPlugin) {
  const Program::Result result = Program::run({DROVER_EXAMPLE, DROVER_EXAMPLE, "hello"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_NE(result.err.find("could not start"), std::string::npos) << result.err;
}

TEST(PluginHost, RefusesAWrongCommandLineAndHelps) {
  using Arguments = std::vector<std::string>;
  for (const Arguments& wrong :
       {Arguments{}, {DROVER_PLUGIN}, {"missing.so", "hello"}, {DROVER_PLUGIN, "--deadline", "0", "hello"}}) {
    Arguments arguments = wrong;
    arguments.insert(arguments.begin(), DROVER_EXAMPLE);
    const Program::Result result = Program::run(arguments);
    EXPECT_EQ(result.code, 2) << testing::PrintToString(wrong);
    EXPECT_NE(result.err.find("--help"), std::string::npos) << result.err;
  }
  EXPECT_EQ(Program::run({DROVER_EXAMPLE, "--help"}).code, 0);
}

TEST(PluginHost, CtrlCEndsItAndLeavesNothing) {
  Program program({DROVER_EXAMPLE, DROVER_PLUGIN, "--deadline", "60000", "fork", "spin"});
  program.wait_for("result FORK");
  ::kill(program.pid(), SIGINT);
  EXPECT_EQ(program.wait().code, 130);
  EXPECT_TRUE(program.processes().empty());
}

TEST(PluginHost, LeavesNothingWhenItIsKilled) {
  Program program({DROVER_EXAMPLE, DROVER_PLUGIN, "--deadline", "60000", "fork", "spin"});
  program.wait_for("result FORK");
  ::kill(program.pid(), SIGKILL);
  EXPECT_TRUE(Program::eventually(2s, [&] { return program.processes().empty(); }));
  EXPECT_EQ(program.wait().code, 128 + SIGKILL);
}

}  // namespace
