// Children that wait for the handler of their lines: LinesOptions::WhenBehind::wait.
#include <atomic>
#include <cstddef>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <sys/syscall.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/io_context.hpp>
#include <asio/thread_pool.hpp>

#include <drover/os/process.hpp>

#include "support/processes.hpp"

namespace {

using namespace support;
using drover::LinesOptions;
using drover::ReapReport;

class WaitingLines : public Processes {};

Command telling(std::vector<std::string> steps, const asio::any_io_executor& executor,
                std::function<void(std::string_view)> handler) {
  Command command = child(std::move(steps));
  command.out = Stdio::lines(executor, std::move(handler), {.when_behind = LinesOptions::WhenBehind::wait});
  return command;
}

/// Waits until the child has been in the same write(2) for a while. Returns false if the child exits instead.
bool soon_blocked(const Process& process) {
  std::string before;
  for (int same = 0; same < 20;) {
    std::string now;
    std::getline(std::ifstream("/proc/" + std::to_string(process.pid()) + "/syscall"), now);
    same = now == before && now.starts_with(std::to_string(SYS_write) + " ") ? same + 1 : 0;
    before = std::move(now);
    if (!process.running()) return false;
    ::poll(nullptr, 0, 5);
  }
  return true;
}

/// Expects the lines that "flood" writes, from the first one on.
void expect_flood(const std::vector<std::string>& lines) {
  for (std::size_t i = 0; i < lines.size(); ++i) ASSERT_EQ(lines[i], "line " + std::to_string(i));
}

// The handler is far behind and receives all lines in the end.
TEST_F(WaitingLines, AllReachASlowHandler) {
  asio::io_context context;
  std::vector<std::string> lines;
  auto process = Process::spawn(
      telling({"flood", "1000000"}, context.get_executor(), [&](std::string_view line) { lines.emplace_back(line); }));
  EXPECT_TRUE(soon_blocked(process));
  const ReapReport report = run(context, process.reap(30s));
  EXPECT_TRUE(report.exit.success());
  EXPECT_EQ(report.lost_lines + report.lost_bytes, 0u);
  EXPECT_EQ(lines.size(), 1000000u);
  expect_flood(lines);
}

// A handler on several threads serves several processes and is slower than any of them.
TEST_F(WaitingLines, OfManyProcessesMayShareAHandler) {
  asio::thread_pool pool(4);
  std::atomic<int> count{0};
  Command command =
      telling({"flood", "200000", "err", "one\ntwo\n"}, pool.get_executor(), [&](std::string_view) { ++count; });
  command.err = command.out;
  std::vector<Process> processes;
  for (int i = 0; i < 4; ++i) processes.push_back(Process::spawn(command));
  for (auto& process : processes) {
    const ReapReport report = run(process.reap(30s));
    EXPECT_TRUE(report.exit.success());
    EXPECT_EQ(report.lost_lines, 0u);
  }
  pool.join();
  EXPECT_EQ(count, 4 * 200002);
}

// The handler's executor does not run; the process is ended as if it had no lines.
TEST_F(WaitingLines, DelayNoReap) {
  asio::io_context context;
  std::vector<std::string> lines;
  auto process = Process::spawn(telling({"flood", "100000000"}, context.get_executor(),
                                        [&](std::string_view line) { lines.emplace_back(line); }));
  EXPECT_TRUE(soon_blocked(process));
  const auto start = Clock::now();
  const ReapReport report = run(process.reap(0s));
  EXPECT_TRUE(report.terminated);
  EXPECT_LT(since(start), slack);
  context.run();
  std::size_t bytes = 0;
  for (const auto& line : lines) bytes += line.size() + 1;
  EXPECT_GE(bytes, Stdio::max_pending);
  EXPECT_LE(bytes, Stdio::max_pending + 3 * 64 * 1024);
  ASSERT_FALSE(lines.empty());
  lines.pop_back();  // cut off
  expect_flood(lines);
  EXPECT_EQ(report.lost_lines, 0u);
}

// The child writes more than may be pending and exits: the rest is in the pipe.
TEST_F(WaitingLines, LeftInThePipeAtTheExitAreDelivered) {
  int count = 0;
  for (std::size_t bytes = 0; bytes < Stdio::max_pending + 48 * 1024; ++count)
    bytes += std::string("line \n").size() + std::to_string(count).size();
  asio::io_context context;
  std::vector<std::string> lines;
  auto process = Process::spawn(telling({"flood", std::to_string(count)}, context.get_executor(),
                                        [&](std::string_view line) { lines.emplace_back(line); }));
  const ReapReport report = run(process.reap(30s));  // on a context of its own: the handler's has not run yet
  EXPECT_TRUE(report.exit.success());
  context.run();
  EXPECT_EQ(lines.size(), static_cast<std::size_t>(count));
  expect_flood(lines);
}

TEST_F(WaitingLines, DoNotBlockTheChildOfADestroyedContext) {
  auto context = std::make_unique<asio::io_context>();
  auto process =
      Process::spawn(telling({"flood", "1000000", "exit", "2"}, context->get_executor(), [](std::string_view) {}));
  EXPECT_TRUE(soon_blocked(process));
  context.reset();
  EXPECT_EQ(run(process.wait()).value, 2);
  // The same if the context is destroyed before the first line.
  context = std::make_unique<asio::io_context>();
  Command command = telling({"flood", "1000000", "exit", "2"}, context->get_executor(), [](std::string_view) {});
  context.reset();
  auto again = Process::spawn(command);
  EXPECT_EQ(run(again.wait()).value, 2);
}

// The child ignores SIGTERM, so that it exits by itself.
TEST_F(WaitingLines, DoNotBlockTheChildOfADestroyedOwner) {
  asio::io_context context;
  ReadPipe pipe;
  Command command = child({"ignore", "15", "flood", "1000000", "err", "x"});
  command.out =
      Stdio::lines(context.get_executor(), [](std::string_view) {}, {.when_behind = LinesOptions::WhenBehind::wait});
  command.err = pipe.stdio();
  auto process = Process::spawn(command);
  EXPECT_TRUE(soon_blocked(process));
  const pid_t pid = process.pid();
  process = Process();
  EXPECT_EQ(pipe.byte(), std::optional('x'));
  EXPECT_TRUE(soon_gone(pid));
  while (::kill(pid, 0) == 0) ::poll(nullptr, 0, 1);
}

}  // namespace
