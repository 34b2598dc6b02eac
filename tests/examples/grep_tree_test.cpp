#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "program.hpp"

namespace {

namespace fs = std::filesystem;

std::vector<std::string> sorted_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  std::sort(lines.begin(), lines.end());
  return lines;
}

/// The messages of grep, or those of grep_tree as grep writes them.
std::vector<std::string> complaints(const std::string& text) {
  std::vector<std::string> lines = sorted_lines(text);
  const std::string name = "grep_tree: ";
  for (std::string& line : lines)
    if (line.starts_with(name)) line = "grep: " + line.substr(name.size());
  return lines;
}

class GrepTree : public ::testing::Test {
 protected:
  GrepTree() {
    ::setenv("LC_ALL", "C", 1);
    char name[] = "/tmp/grep_tree.XXXXXX";
    folder_ = ::mkdtemp(name);
    fs::create_directories(folder_ / "a" / "b");
    write("empty", "");
    write("one line, no newline", "alpha");
    write("a/words", "alpha\nbeta\n\ngamma alpha\n");
    std::string many;
    for (int i = 0; i < 50'000; ++i) many += "line " + std::to_string(i) + (i % 3 == 0 ? " alpha\n" : "\n");
    write("a/b/many", many);
    fs::create_symlink("a", folder_ / "link");
  }
  ~GrepTree() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  Program::Result grep_tree(const std::string& pattern, std::vector<std::string> options = {}) const {
    std::vector<std::string> words{DROVER_EXAMPLE, pattern, folder_.string()};
    words.insert(words.end(), options.begin(), options.end());
    Program program(words);
    const Program::Result result = program.wait();
    EXPECT_TRUE(program.processes().empty());
    return result;
  }
  Program::Result grep(const std::string& pattern) const {
    return Program({"grep", "-rnE", pattern, folder_.string()}).wait();
  }

  void expect_what_grep_prints(const std::string& pattern) const {
    const Program::Result ours = grep_tree(pattern), theirs = grep(pattern);
    EXPECT_EQ(sorted_lines(ours.out), sorted_lines(theirs.out)) << pattern;
    EXPECT_EQ(complaints(ours.err), complaints(theirs.err)) << pattern;
    EXPECT_EQ(ours.code, theirs.code) << pattern;
  }

  fs::path folder_;
};

TEST_F(GrepTree, PrintsWhatGrepPrints) {
  for (const char* const pattern : {"alpha", "^$", "(be|gam)[a-z]+", "4{2}", "^line 1.*a$", "nowhere"})
    expect_what_grep_prints(pattern);
}

// A character has several bytes, and some bytes are none.
TEST_F(GrepTree, PrintsWhatGrepPrintsInUtf8) {
  ::setenv("LC_ALL", "C.UTF-8", 1);
  write("letters", "\xc3\xa4\xc3\xb6\xc3\xbc\nabc\nabcd\n");
  write("invalid", "alpha one\n\xff alpha\nalpha two \xc3\nalpha three\nomega\n");
  for (const char* const pattern : {"^.{3}$", "alpha", "omega", "\xc3\xb6", "^[[:alpha:]]+$"})
    expect_what_grep_prints(pattern);
  const Program::Result three = grep_tree("^.{3}$");
  EXPECT_NE(three.out.find("letters:1:\xc3\xa4\xc3\xb6\xc3\xbc\n"), std::string::npos) << three.out;
}

// A NUL ends lines, and hides those that are read with it, wherever it is.
TEST_F(GrepTree, PrintsWhatGrepPrintsOfBinaryFiles) {
  const std::string nul(1, '\0'), space(500'000, '\n');
  write("early", "one" + nul + "beta alpha\n");
  write("late", "early line\n" + space + "late line" + nul + "later line\n");
  write("unmatched", "early line\n" + space + nul);
  for (const char* const pattern : {"^beta alpha$", "early line", "late line", "^later line$", "^one$", "one.beta"})
    expect_what_grep_prints(pattern);
  EXPECT_NE(grep_tree("^later line$").err.find("late: binary file matches"), std::string::npos);
}

TEST_F(GrepTree, SurvivesAPatternThatTakesForEver) {
  write("bad", std::string(5000, 'a') + '\n');
  write("good", "xaab\n");
  const Program::Result result = grep_tree("(a*)*(a*)*\\1\\2b", {"--seconds", "1"});
  EXPECT_EQ(result.code, 2);
  EXPECT_NE(result.out.find("good:1:xaab"), std::string::npos) << result.out;
  EXPECT_NE(result.err.find("bad: the call of 'grep' ran for longer than"), std::string::npos) << result.err;
}

TEST_F(GrepTree, SaysWhatIsWrong) {
  EXPECT_EQ(grep_tree("(").code, 2);
  EXPECT_NE(grep_tree("(").err.find("Unmatched ("), std::string::npos);
  EXPECT_EQ(Program({DROVER_EXAMPLE, "x", "/nowhere"}).wait().code, 2);
  write("binary", std::string("a\0b alpha\n", 10));
  const Program::Result binary = grep_tree("b alpha|a");
  EXPECT_NE(binary.err.find("binary: binary file matches"), std::string::npos) << binary.err;
}

}  // namespace
