#include <algorithm>
#include <atomic>
#include <future>
#include <gtest/gtest.h>
#include <memory>
#include <signal.h>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/strand.hpp>
#include <asio/thread_pool.hpp>

#include <drover/os/detail/lines.hpp>
#include <drover/os/process.hpp>

#include "support/processes.hpp"

namespace {

using namespace support;
using drover::ReapReport;
using drover::detail::LineBuffer;

std::vector<std::string> lines_in(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

TEST(LineBuffer, CutsAtLineEndsWhereverTheBytesAreSplit) {
  const std::string text = "one\n\ntwo\r\nthree\n\n";
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    LineBuffer buffer;
    buffer.append(text.substr(0, cut));
    std::string got = buffer.take().text;
    buffer.append(text.substr(cut));
    got += buffer.take().text;
    EXPECT_EQ(got, text);
    EXPECT_FALSE(buffer.has_lines());
  }
}

TEST(LineBuffer, KeepsAnUnfinishedLineUntilTheEnd) {
  LineBuffer buffer;
  buffer.append("a\nb");
  EXPECT_EQ(buffer.take().text, "a\n");
  EXPECT_FALSE(buffer.has_lines());
  buffer.append("c");
  buffer.end_of_input();
  EXPECT_EQ(buffer.take().text, "bc\n");
}

TEST(LineBuffer, SplitsLongLinesAtTheBoundOnly) {
  constexpr std::size_t bound = Stdio::max_line;
  for (const std::size_t length : {bound - 1, bound, bound + 1, 2 * bound, 3 * bound + 7}) {
    for (const std::size_t chunk : {std::size_t{1000}, std::size_t{16384}, length + 1}) {
      LineBuffer buffer;
      const std::string text = std::string(length, 'x') + "\n";
      for (std::size_t at = 0; at < text.size(); at += chunk) buffer.append(std::string_view(text).substr(at, chunk));
      buffer.end_of_input();
      const auto lines = lines_in(buffer.take().text);
      EXPECT_EQ(lines.size(), (length + bound - 1) / bound) << length << " in chunks of " << chunk;
      std::size_t total = 0;
      for (const auto& line : lines) total += line.size();
      EXPECT_EQ(total, length);
      EXPECT_TRUE(std::all_of(lines.begin(), lines.end() - 1, [](auto& line) { return line.size() == bound; }));
    }
  }
}

TEST(LineBuffer, DropsWholeLinesFromTheFront) {
  LineBuffer buffer;
  constexpr std::size_t count = 400000;
  for (std::size_t i = 0; i < count; ++i) buffer.append(std::to_string(i) + "\n");
  const auto batch = buffer.take();
  const auto& text = batch.text;
  const std::size_t dropped = batch.dropped;
  EXPECT_LE(text.size(), Stdio::max_pending);
  EXPECT_GT(text.size(), Stdio::max_pending - 10);
  const auto lines = lines_in(text);
  EXPECT_EQ(lines.size() + dropped, count);
  EXPECT_EQ(lines.front(), std::to_string(dropped));
  EXPECT_EQ(lines.back(), std::to_string(count - 1));
}

// Wherever the memory runs out, each line is lost once, and the rest of a line whose beginning was lost does not count
// as a line.
TEST(LineBuffer, CountsALineThatIsLostInPartsOnce) {
  const std::string text = "one\n\ntwo\nthree\n\nfour";
  for (std::size_t kept = 0; kept <= text.size(); ++kept) {
    for (std::size_t failed = kept; failed <= text.size(); ++failed) {
      LineBuffer buffer;
      buffer.append(text.substr(0, kept));
      buffer.lose_everything(text.substr(kept, failed - kept));
      buffer.append(text.substr(failed));
      buffer.append("\nend");
      buffer.end_of_input();
      const auto batch = buffer.take();
      const auto left = lines_in(batch.text);
      EXPECT_EQ(left.size() + buffer.lost().lines, 7u) << kept << " " << failed;
      EXPECT_EQ(batch.dropped, buffer.lost().lines);
      EXPECT_EQ(batch.text.size() + buffer.lost().bytes, text.size() + 5);
      EXPECT_TRUE((text + "\nend\n").ends_with("\n" + batch.text) || buffer.lost().lines == 0) << batch.text;
    }
  }
}

TEST(LineBuffer, KeepsEverythingIfConfigured) {
  LineBuffer buffer(LineBuffer::WhenFull::keep_all);
  std::size_t appended = 0;
  for (int i = 0; i < 400000; ++i) {
    const std::string line = std::to_string(i) + "\n";
    appended += line.size();
    buffer.append(line);
    ASSERT_EQ(buffer.full(), appended >= Stdio::max_pending);
  }
  const auto batch = buffer.take();
  EXPECT_EQ(batch.text.size(), appended);
  EXPECT_EQ(batch.dropped + buffer.lost().lines, 0u);
  EXPECT_FALSE(buffer.full());
}

class Lines : public Processes {};

// Pending lines do not keep a context running.
void run_until_stopped(asio::io_context& context) {
  const auto work = asio::make_work_guard(context);
  context.run_for(10s);
}

// A command that writes as its steps say, with this handler for the lines of its stdout.
Command telling(std::vector<std::string> steps, const asio::any_io_executor& executor,
                std::function<void(std::string_view)> handler) {
  Command command = child(std::move(steps));
  command.out = Stdio::lines(executor, std::move(handler));
  return command;
}

// The number of bytes that "flood" writes.
std::size_t flooded_bytes(int lines) {
  std::size_t bytes = 0;
  for (int i = 0; i < lines; ++i) bytes += std::string("line \n").size() + std::to_string(i).size();
  return bytes;
}

TEST_F(Lines, ArriveInOrderAndBeforeTheExit) {
  for (int round = 0; round < 30; ++round) {
    asio::io_context context;
    std::vector<std::string> lines;
    auto body = [&]() -> asio::awaitable<void> {
      Command command = telling({"say", "a\nb", "say", "c\n\nlast"}, context.get_executor(),
                                [&](std::string_view line) { lines.emplace_back(line); });
      auto process = Process::spawn(command);
      // Every second time the process has exited and been reaped before wait() is called.
      while (round % 2 == 0 && process.running()) std::this_thread::yield();
      co_await process.wait();
      lines.emplace_back("(end)");
    };
    run(context, body());
    EXPECT_EQ(lines, (std::vector<std::string>{"a", "bc", "", "last", "(end)"}));
  }
}

TEST_F(Lines, OfStdoutAndStderrMayShareAHandler) {
  asio::thread_pool pool(4);
  std::atomic<int> running{0}, overlaps{0}, count{0};
  const Stdio shared = Stdio::lines(pool.get_executor(), [&](std::string_view) {
    if (++running != 1) ++overlaps;
    ++count;
    --running;
  });
  std::vector<Process> processes;
  for (int i = 0; i < 4; ++i) {
    Command command = child({"flood", "2000", "err", "one\ntwo\n"});
    command.out = command.err = shared;
    processes.push_back(Process::spawn(command));
  }
  for (auto& process : processes) run(process.wait());
  pool.join();
  EXPECT_EQ(overlaps, 0);
  EXPECT_EQ(count, 4 * 2002);
}

TEST_F(Lines, SlowHandlerLosesTheOldestOnly) {
  asio::io_context context;
  std::vector<std::string> lines;
  Command command =
      telling({"flood", "1000000"}, context.get_executor(), [&](std::string_view line) { lines.emplace_back(line); });
  auto process = Process::spawn(command);
  const ReapReport report = run(process.reap(30s));  // on a context of its own: the handler's context has not run yet
  context.run();
  ASSERT_GT(lines.size(), 1000u);
  EXPECT_LT(lines.size(), 200000u);
  EXPECT_EQ(lines.front(), "drover: " + std::to_string(1000000 - (lines.size() - 1)) +
                               " lines dropped here, their handler was too slow");
  for (std::size_t i = 1; i < lines.size(); ++i)
    ASSERT_EQ(lines[i], "line " + std::to_string(1000000 - lines.size() + i));
  // The report counts them as well, so that the run does not look complete.
  EXPECT_EQ(report.lost_lines, 1000000 - (lines.size() - 1));
  std::size_t got = 0;
  for (std::size_t i = 1; i < lines.size(); ++i) got += lines[i].size() + 1;
  EXPECT_EQ(report.lost_bytes + got, flooded_bytes(1000000));
}

TEST_F(Lines, LongLineArrivesInPieces) {
  asio::io_context context;
  std::size_t total = 0, pieces = 0, longest = 0;
  Command command = telling({"long-line", "500000"}, context.get_executor(), [&](std::string_view line) {
    total += line.size();
    ++pieces;
    longest = std::max(longest, line.size());
  });
  auto process = Process::spawn(command);
  run(context, process.wait());
  EXPECT_EQ(total, 500000u);
  EXPECT_EQ(longest, Stdio::max_line);
  EXPECT_EQ(pieces, 8u);
}

// A grandchild holds the child's stdout open; neither wait() nor reap() waits for it.
TEST_F(Lines, GrandchildThatHoldsThePipeDelaysNothing) {
  for (const bool reaped : {false, true}) {
    asio::io_context context;
    std::vector<std::string> lines;
    // The grandchild has left the group, so it is not killed.
    Command command = telling({"exit-on", "10", "0", "3", "fork", "new-session", "say-pid", "pause", "end", "pause"},
                              context.get_executor(), [&](std::string_view line) {
                                lines.emplace_back(line);
                                context.stop();
                              });
    auto process = Process::spawn(command);
    run_until_stopped(context);
    ASSERT_EQ(lines.size(), 1u);
    const pid_t grandchild = std::stoi(lines[0]);
    const auto start = Clock::now();
    if (reaped) {
      EXPECT_TRUE(run(context, process.reap(0s)).terminated);
    } else {
      process.signal(SIGUSR1);
      EXPECT_EQ(run(context, process.wait()).value, 3);
    }
    EXPECT_LT(since(start), slack);
    EXPECT_FALSE(gone(grandchild));
    ::kill(grandchild, SIGKILL);
    EXPECT_TRUE(soon_gone(grandchild));
  }
}

// The grandchild writes without end, until it finds the pipe closed.
TEST_F(Lines, GrandchildThatFloodsThePipeDelaysNothing) {
  asio::io_context context;
  pid_t grandchild = 0;
  Command command =
      telling({"exit-on", "10", "0", "3", "fork", "new-session", "say-pid", "flood", "100000000", "end", "pause"},
              context.get_executor(), [&](std::string_view line) {
                if (std::exchange(grandchild, grandchild == 0 ? std::stoi(std::string(line)) : grandchild) == 0)
                  context.stop();
              });
  auto process = Process::spawn(command);
  run_until_stopped(context);
  process.signal(SIGUSR1);
  const auto start = Clock::now();
  EXPECT_EQ(run(process.wait()).value, 3);
  EXPECT_LT(since(start), slack);
  EXPECT_TRUE(soon_gone(grandchild, 10s));
}

TEST_F(Lines, HandlerThatThrowsHarmsNothing) {
  asio::io_context context;
  int calls = 0;
  Command command = telling({"say", "a\nb\nc\n"}, context.get_executor(), [&](std::string_view) {
    ++calls;
    throw std::runtime_error("no");
  });
  auto process = Process::spawn(command);
  EXPECT_TRUE(run(context, process.wait()).success());
  EXPECT_EQ(calls, 3);
}

TEST_F(Lines, AreDroppedOnceTheirContextIsDestroyed) {
  auto context = std::make_unique<asio::io_context>();
  auto held = std::make_shared<int>(0);
  Command command = telling({"say", "a\n", "sleep", "50", "flood", "20000", "exit", "2"},
                            asio::make_strand(context->get_executor()), [held](std::string_view) { ++*held; });
  auto process = Process::spawn(command);
  context.reset();
  EXPECT_EQ(held.use_count(), 1) << "the handler goes with its context";
  EXPECT_EQ(run(process.wait()).value, 2);
  auto again = Process::spawn(command);  // the command has outlived the context as well
  EXPECT_EQ(run(again.wait()).value, 2);
}

TEST_F(Lines, HandlerIsDestroyedWithItsLastUser) {
  asio::io_context context;
  auto held = std::make_shared<int>(0);
  {
    Command command = telling({"say", "a\n"}, context.get_executor(), [held](std::string_view) { ++*held; });
    auto process = Process::spawn(command);
    command = Command{};
    run(context, process.wait());
    EXPECT_EQ(*held, 1);
  }
  context.poll();
  EXPECT_EQ(held.use_count(), 1);
}

TEST_F(Lines, AreDroppedOnceTheOwnerIsDestroyed) {
  asio::io_context context;
  std::vector<std::string> lines;
  // The child is suspended after the first line and continues when its owner is destroyed, because SIGCONT follows
  // SIGTERM.
  Command command = telling({"ignore", "15", "say", "a\n", "raise", "19", "say", "b\n"}, context.get_executor(),
                            [&](std::string_view line) { lines.emplace_back(line); });
  auto process = Process::spawn(command);
  const pid_t pid = process.pid();
  while (lines.empty()) {
    context.restart();
    context.run_for(1ms);
  }
  await_stopped(pid);
  process = Process();
  siginfo_t info{};
  while (::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0) ::poll(nullptr, 0, 1);
  context.restart();
  context.poll();
  EXPECT_EQ(lines, std::vector<std::string>{"a"});
}

TEST_F(Lines, EndMayRaceWithTheContextsDestruction) {
  for (int round = 0; round < 50; ++round) {
    Process process;
    {
      asio::io_context context;
      Command command = telling({"flood", "100"}, context.get_executor(), [](std::string_view) {});
      process = Process::spawn(command);
      context.run_for(std::chrono::microseconds(round * 50));
    }
    EXPECT_TRUE(run(process.wait()).success());
  }
}

}  // namespace
