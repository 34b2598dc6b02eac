#include <csignal>
#include <memory>
#include <sys/stat.h>

#include "program.hpp"

namespace {

using namespace std::chrono_literals;
using Clock = Program::Clock;
namespace fs = std::filesystem;

class HashTree : public testing::Test {
 protected:
  HashTree() {
    std::string name = testing::TempDir() + "drover-hash-tree-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no folder for the test");
    root_ = name;
  }
  ~HashTree() override { fs::remove_all(root_); }

  void write(const std::string& name, const std::string& content) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << content;
  }

  /// A file of zeros that takes no room.
  void write_hole(const std::string& name, std::uintmax_t size) {
    write(name, "");
    fs::resize_file(root_ / name, size);
  }

  std::string root() const { return root_.string(); }

  Program::Result run(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), DROVER_EXAMPLE);
    return Program::run(std::move(arguments));
  }

  /// What sha256sum makes of the same files.
  static std::string expected(const std::string& directory) {
    const Program::Result result = Program::run(
        {"sh", "-c", "find \"$1\" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum", "sh", directory});
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  }

  /// Running, and in the middle of a file that takes minutes.
  std::unique_ptr<Program> start_and_get_busy() {
    ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);  // LeakSanitizer takes longer than they have
    write_hole("large", std::uintmax_t{400} << 30);
    write("small", "x");
    auto program = std::make_unique<Program>(std::vector<std::string>{DROVER_EXAMPLE, "-j", "3", root()});
    const fs::path large = root_ / "large";
    const bool busy = Program::eventually(30s, [&] {
      for (const pid_t pid : program->processes()) {
        std::error_code gone;
        for (const auto& fd : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd", gone))
          if (fs::read_symlink(fd, gone) == large) return true;
      }
      return false;
    });
    if (!busy) throw std::runtime_error("no worker came to the large file");
    return program;
  }

  fs::path root_;
};

// Of a tree of the system the hashes are those of sha256sum, and no worker dies.
TEST_F(HashTree, PrintsWhatSha256sumPrints) {
  const Program::Result result = run({"/usr/include/linux"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, expected("/usr/include/linux"));
  EXPECT_NE(result.err.find(" files, "), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("; 0 died"), std::string::npos) << result.err;
}

TEST_F(HashTree, SortsByPathAndEscapesLikeSha256sum) {
  for (const char* name :
       {"a/z", "a.txt", "a0", "a", "b\\c", "b\nc", "b\rc", "d/e/f/g", "d-e", " ", "-n", "\xc3\xa4"}) {
    if (std::string(name) != "a") write(name, name);
  }
  write("empty", "");
  fs::create_directory(root_ / "no files");
  fs::create_symlink("a0", root_ / "link");
  fs::create_directory_symlink("d", root_ / "linked folder");
  ::mkfifo((root_ / "fifo").c_str(), 0600);

  for (const char* workers : {"1", "3"}) {
    const Program::Result result = run({"-j", workers, root()});
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.out, expected(root()));
  }
  EXPECT_EQ(run({root() + "/"}).out, expected(root() + "/"));
}

TEST_F(HashTree, AnEmptyTreeIsNoError) {
  const Program::Result result = run({root()});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, "");
}

TEST_F(HashTree, UnderChaosEveryFileIsStillHashedRight) {
  for (int i = 0; i < 100; ++i) write_hole("many/" + std::to_string(i), (4U << 20) + static_cast<unsigned>(i));
  write_hole("large", 200U << 20);
  for (int i = 0; i < 200; ++i) write("small/" + std::to_string(i), std::to_string(i));

  Program program({DROVER_EXAMPLE, "-j", "3", "--chaos", root()});
  const Program::Result result = program.wait();
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, expected(root()));
  EXPECT_EQ(result.err.find("; 0 died"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find(" were replaced"), std::string::npos) << result.err;
  EXPECT_TRUE(program.processes().empty());
}

TEST_F(HashTree, ReportsWhatItCantReadAndDoesTheRest) {
  write("a", "a");
  write("b", "b");
  write("c/d", "d");
  write("e", "e");
  fs::permissions(root_ / "b", fs::perms::none);
  fs::permissions(root_ / "c", fs::perms::none);

  Program::Setup setup;
  setup.powerless = true;
  Program program({DROVER_EXAMPLE, root()}, setup);
  const Program::Result result = program.wait();
  fs::permissions(root_ / "c", fs::perms::owner_all);
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.err.find(root() + "/b: Permission denied\n"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find(root() + "/c/: Permission denied\n"), std::string::npos) << result.err;
  EXPECT_EQ(result.out, Program::run({"sha256sum", root() + "/a", root() + "/e"}).out);
}

TEST_F(HashTree, RefusesAWrongCommandLineAndHelps) {
  using Arguments = std::vector<std::string>;
  write("file", "");
  for (const Arguments& wrong : {Arguments{},
                                 {root(), root()},
                                 {"-j"},
                                 {"-j", "0", root()},
                                 {"-j", "many", root()},
                                 {"-j", "3x", root()},
                                 {"--what", root()},
                                 {"-xz", root()},
                                 {root() + "/missing"},
                                 {root() + "/file"}}) {
    const Program::Result result = run(wrong);
    EXPECT_EQ(result.code, 2) << testing::PrintToString(wrong);
    EXPECT_EQ(result.out, "");
    EXPECT_NE(result.err.find("--help"), std::string::npos) << result.err;
  }
  const Program::Result help = run({"--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.out.rfind("Usage:", 0), 0U);
}

TEST_F(HashTree, ShowsItsProgressOnATerminal) {
  write_hole("large", 300U << 20);
  Program::Setup setup;
  setup.terminal = true;
  Program program({DROVER_EXAMPLE, "-j", "2", root()}, setup);
  const Program::Result result = program.wait();
  EXPECT_EQ(result.code, 0);
  EXPECT_NE(result.err.find("] 0/1 files, "), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("/2 workers ready"), std::string::npos) << result.err;
  EXPECT_EQ(result.out, expected(root()));
}

// Each worker dies at once. The pool gives up long before the files have been tried.
TEST_F(HashTree, EndsIfNoWorkerLives) {
  for (int i = 0; i < 200; ++i) write_hole("more/" + std::to_string(i), std::uintmax_t{400} << 30);
  const std::unique_ptr<Program> program = start_and_get_busy();
  const bool ended = Program::eventually(60s, [&] {
    const std::vector<pid_t> running = program->processes();
    for (const pid_t pid : running)
      if (pid != program->pid()) ::kill(pid, SIGKILL);
    return running.empty();
  });
  EXPECT_TRUE(ended);
  const Program::Result result = program->wait();
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.err.find("error: "), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("SIGKILL"), std::string::npos) << result.err;
}

TEST_F(HashTree, ReportsThatItsOutputIsLost) {
  write("a", "a");
  const Program::Result result = Program::run({"sh", "-c", "\"$0\" \"$1\" >/dev/full", DROVER_EXAMPLE, root()});
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.err.find("hash_tree: standard output: "), std::string::npos) << result.err;
}

// SIGINT ends the program with 130 within 2.5 s, and leaves none of its processes.
TEST_F(HashTree, CtrlCEndsItAndLeavesNothing) {
  const std::unique_ptr<Program> program = start_and_get_busy();
  const Clock::time_point start = Clock::now();
  ::kill(program->pid(), SIGINT);
  EXPECT_EQ(program->wait().code, 130);
  EXPECT_LT(Clock::now() - start, 1s + 1500ms);
  EXPECT_TRUE(program->processes().empty());
}

// Within a second of the SIGKILL its busy workers have exited, too.
TEST_F(HashTree, LeavesNothingWhenItIsKilled) {
  const std::unique_ptr<Program> program = start_and_get_busy();
  ::kill(program->pid(), SIGKILL);
  EXPECT_TRUE(Program::eventually(1s, [&] { return program->processes().empty(); }));
  EXPECT_EQ(program->wait().code, 128 + SIGKILL);
}

}  // namespace
