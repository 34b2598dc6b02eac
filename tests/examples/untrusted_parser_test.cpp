#include <cstdlib>

#include "../support/sanitizers.hpp"
#include "program.hpp"

namespace {

using namespace std::chrono_literals;

class UntrustedParser : public testing::Test {
 protected:
  UntrustedParser() {
    std::string name = testing::TempDir() + "drover-untrusted-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no folder for the test");
    folder_ = name;
  }
  ~UntrustedParser() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& name, const std::string& content) { std::ofstream(folder_ / name) << content; }

  std::string line_of(const std::string& out, const std::string& name) {
    const std::string lines = '\n' + out;
    const std::size_t at = lines.find('\n' + name + ' ');
    return at == std::string::npos ? "" : lines.substr(at + 1, lines.find('\n', at + 1) - at - 1);
  }

  std::filesystem::path folder_;
};

// A parser that aborts, crashes, exits, hangs or takes all memory costs its own file only; no process is left.
TEST_F(UntrustedParser, EveryFileGetsItsVerdictWhateverTheParserDoes) {
  for (const char* name : {"abort", "crash", "exit", "good", "hang", "leak", "well"})
    write(name, "key=value\nother=one\n");
  write("refused", "no pair here\n");
  write("silent", "");
  Program program({DROVER_EXAMPLE, folder_.string()});
  const Program::Result result = program.wait();
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(line_of(result.out, "good").find("ok: 2 pairs"), std::string::npos) << result.out;
  EXPECT_NE(line_of(result.out, "well").find("ok: 2 pairs"), std::string::npos) << result.out;
  EXPECT_NE(line_of(result.out, "silent").find("ok: 0 pairs"), std::string::npos) << result.out;
  EXPECT_NE(line_of(result.out, "refused").find("refused: line 1"), std::string::npos) << result.out;
  EXPECT_NE(line_of(result.out, "hang").find("hung"), std::string::npos) << result.out;
  EXPECT_NE(line_of(result.out, "exit").find("ended its process: exited with code 0"), std::string::npos) << result.out;
#if defined(DROVER_TEST_ASAN) || defined(DROVER_TEST_TSAN)
  // Sanitizers report crashes themselves and take memory as they like.
  EXPECT_NE(line_of(result.out, "crash"), "");
#else
  EXPECT_NE(line_of(result.out, "abort").find("crashed: killed by SIGABRT"), std::string::npos) << result.out;
  EXPECT_NE(line_of(result.out, "crash").find("crashed: killed by SIGSEGV"), std::string::npos) << result.out;
  EXPECT_NE(line_of(result.out, "leak").find("out of memory"), std::string::npos) << result.out;
#endif
  EXPECT_TRUE(program.processes().empty());
}

TEST_F(UntrustedParser, SaysHowItIsUsed) {
  const Program::Result result = Program::run({DROVER_EXAMPLE, (folder_ / "nothing").string()});
  EXPECT_EQ(result.code, 2);
  EXPECT_NE(result.err.find("usage:"), std::string::npos);
}

}  // namespace
