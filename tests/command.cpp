#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <vector>

#include <drover/os/command.hpp>
#include <drover/os/detail/child_process.hpp>
#include <drover/os/process.hpp>

#include "support/processes.hpp"

namespace {

using namespace support;
namespace fs = std::filesystem;

class Spawn : public Processes {
 protected:
  Spawn() { fs::create_directories(folder_); }
  ~Spawn() override { fs::remove_all(folder_); }

  const fs::path folder_ = fs::temp_directory_path() / ("drover-test-" + std::to_string(::getpid()));
};

// Starts a command that writes to its stdout, and returns what it wrote.
std::string output_of(Command command) {
  ReadPipe pipe;
  command.out = pipe.stdio();
  auto process = Process::spawn(command);
  const std::string text = pipe.rest();
  EXPECT_TRUE(run(process.wait()).success());
  return text;
}

void expect_failure(const Command& command, int error, const std::vector<std::string>& words) {
  try {
    auto process = Process::spawn(command);
    FAIL() << "it was started";
  } catch (const std::system_error& failure) {
    EXPECT_EQ(failure.code(), std::error_code(error, std::system_category())) << failure.what();
    for (const auto& word : words)
      EXPECT_NE(std::string(failure.what()).find(word), std::string::npos) << failure.what() << " lacks " << word;
  }
}

TEST_F(Spawn, ErrorNamesAProgramThatCannotBeExecuted) {
  Command command;
  command.program = "/no/such/program";
  expect_failure(command, ENOENT, {"/no/such/program"});
  command.program = "no-such-program-anywhere";
  expect_failure(command, ENOENT, {"no-such-program-anywhere"});
  command.program = folder_;
  expect_failure(command, EACCES, {folder_});
  command.program = folder_ / "plain";
  std::ofstream(command.program) << "no program\n";
  expect_failure(command, EACCES, {"plain"});
  ::chmod(command.program.c_str(), 0755);
  expect_failure(command, ENOEXEC, {"plain"});
  command.program = folder_ / "script";
  std::ofstream(command.program) << "#!/no/such/interpreter\n";
  ::chmod(command.program.c_str(), 0755);
  expect_failure(command, ENOENT, {"script", "interpreter"});
}

TEST_F(Spawn, ErrorNamesAMissingFolderOrFile) {
  Command command = child({});
  command.cwd = "/no/such/folder";
  expect_failure(command, ENOENT, {"working directory", "/no/such/folder"});
  command.cwd = DROVER_HELPER_CHILD;
  expect_failure(command, ENOTDIR, {"working directory"});
  command.cwd.clear();
  command.in = Stdio::file("/no/such/input");
  expect_failure(command, ENOENT, {"stdin", "/no/such/input"});
  command.in = Stdio::null();
  command.err = Stdio::file(folder_);
  expect_failure(command, EISDIR, {"stderr", folder_});
}

TEST_F(Spawn, RefusesInvalidCommands) {
  const auto refused = [](auto change) {
    Command command = child({});
    change(command);
    EXPECT_THROW(static_cast<void>(Process::spawn(command)), std::invalid_argument);
  };
  using namespace std::string_literals;
  refused([](Command& c) { c.program.clear(); });
  refused([](Command& c) { c.program += "\0x"s; });
  refused([](Command& c) { c.args = {"a\0b"s}; });
  refused([](Command& c) { c.cwd = "/\0"s; });
  refused([](Command& c) { c.env["A=B"] = "x"; });
  refused([](Command& c) { c.env[""] = "x"; });
  refused([](Command& c) { c.env["A\0"s] = "x"; });
  refused([](Command& c) { c.env["A"] = "x\0y"s; });
  refused([](Command& c) { c.env["A=B"] = std::nullopt; });
  refused([](Command& c) { c.out = Stdio::file("/tmp/\0"s); });
  asio::io_context context;
  refused([&](Command& c) { c.in = Stdio::lines(context.get_executor(), [](std::string_view) {}); });
  EXPECT_THROW(Stdio::lines({}, [](std::string_view) {}), std::invalid_argument);
  EXPECT_THROW(Stdio::lines(context.get_executor(), {}), std::invalid_argument);
}

TEST_F(Spawn, InheritsChangesOrReplacesTheEnvironment) {
  ::setenv("DROVER_TEST_A", "one", 1);
  ::setenv("DROVER_TEST_B", "two", 1);
  Command command = child({"say-env", "DROVER_TEST_A", "say-env", "DROVER_TEST_B", "say-env", "DROVER_TEST_C"});
  EXPECT_EQ(output_of(command), "=one\n=two\nunset\n");
  command.env = {{"DROVER_TEST_A", "1=1"}, {"DROVER_TEST_B", std::nullopt}, {"DROVER_TEST_C", ""}};
  EXPECT_EQ(output_of(command), "=1=1\nunset\n=\n");
  command.env = {{"DROVER_TEST_C", "three"}};
  command.inherit_env = false;
  EXPECT_EQ(output_of(command), "unset\nunset\n=three\n");
  ::unsetenv("DROVER_TEST_A");
  ::unsetenv("DROVER_TEST_B");
}

TEST_F(Spawn, RelativeProgramIsRelativeToTheCaller) {
  const fs::path before = fs::current_path();
  fs::create_directories(folder_ / "bin");
  fs::create_symlink(DROVER_HELPER_CHILD, folder_ / "bin" / "drover-test-tool");
  fs::create_directories(folder_ / "elsewhere");
  fs::current_path(folder_);
  Command command = child({"say-cwd"});
  command.program = "bin/drover-test-tool";
  EXPECT_EQ(output_of(command), fs::current_path());
  command.cwd = "elsewhere";
  EXPECT_EQ(output_of(command), fs::current_path() / "elsewhere");
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", ("/no/such:bin:" + path).c_str(), 1);
  command.program = "drover-test-tool";
  EXPECT_EQ(output_of(command), fs::current_path() / "elsewhere");
  command.cwd.clear();
  EXPECT_EQ(output_of(command), fs::current_path());
  command.cwd = "elsewhere";
  command.program = "drover-test-no-tool";
  expect_failure(command, ENOENT, {"drover-test-no-tool"});
  ::setenv("PATH", path.c_str(), 1);
  fs::current_path(before);
}

TEST_F(Spawn, ReadsFromAndAppendsToFiles) {
  std::ofstream(folder_ / "in") << "?";
  std::ofstream(folder_ / "out") << "first\n";
  Command command = child({"await-input", "say", "second\n"});
  command.in = Stdio::file(folder_ / "in");
  command.out = Stdio::file(folder_ / "out");
  auto process = Process::spawn(command);
  EXPECT_TRUE(run(process.wait()).success());
  std::ifstream file(folder_ / "out");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "first\nsecond\n");
}

TEST_F(Spawn, FifoWithoutAPeerDoesNotBlock) {
  const std::filesystem::path fifo =
      std::filesystem::temp_directory_path() / ("drover-command-fifo-" + std::to_string(::getpid()));
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  Command command = child({"pause"});
  command.out = Stdio::file(fifo);
  try {
    Process::spawn(command);
    ADD_FAILURE() << "started, though nobody reads what it says";
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code().value(), ENXIO) << error.what();
    EXPECT_NE(std::string(error.what()).find(fifo.string()), std::string::npos) << error.what();
  }
  const UniqueFd reader(::open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  command = child({"say", "x"});
  command.out = Stdio::file(fifo);
  EXPECT_TRUE(run(Process::spawn(command).wait()).success());
  char said = 0;
  EXPECT_EQ(::read(reader.get(), &said, 1), 1);
  EXPECT_EQ(said, 'x');
  std::filesystem::remove(fifo);
}

TEST_F(Spawn, NullReadsAsEmptyAndDiscardsOutput) {
  Command command = child({"await-input", "say", "x", "err", "y"});
  command.out = command.err = Stdio::null();
  auto process = Process::spawn(command);
  EXPECT_TRUE(run(process.wait()).success());
}

TEST_F(Spawn, SelfIsThisProgram) {
  Command command = Command::self({"--gtest_list_tests", "--gtest_filter=Spawn.SelfIsThisProgram"});
  EXPECT_NE(output_of(command).find("SelfIsThisProgram"), std::string::npos);
}

// So many descriptors that their numbers in the parent are among those in the child, in every order.
TEST_F(Spawn, DescriptorsArriveUnderTheirNumbers) {
  constexpr int count = 40;
  ReadPipe pipes[4];
  std::vector<int> numbers;
  for (const ReadPipe& pipe : pipes) numbers.push_back(pipe.write_end());
  ASSERT_LT(numbers.back(), 3 + count);
  for (const std::size_t step : {1u, 3u}) {
    drover::detail::SpawnOptions extras;
    std::vector<std::string> steps{"report"};
    for (std::size_t i = 0; i < count; ++i) {
      extras.descriptors.push_back(numbers[i * step % 4]);
      steps.insert(steps.end(), {"say-to", std::to_string(3 + i), std::string(1, static_cast<char>('A' + i))});
    }
    extras.descriptors[static_cast<std::size_t>(numbers[2]) - 3] = numbers[2];  // one that has its number already
    ReadPipe report;
    Command command = child(steps);
    command.out = report.stdio();
    const auto started = drover::detail::ChildProcess::spawn(command, extras);
    std::string expected = "fds";
    for (int fd = 0; fd < 3 + count; ++fd) expected += " " + std::to_string(fd);
    EXPECT_EQ(report.line(), expected);
    for (std::size_t i = 0; i < count; ++i) {
      const auto source = std::find(numbers.begin(), numbers.end(), extras.descriptors[i]) - numbers.begin();
      EXPECT_EQ(pipes[source].byte(), static_cast<char>('A' + i));
    }
    run(drover::detail::AsyncEvent::wait(started->ended()));
  }
}

}  // namespace
