// The parent of workers dies: how its workers end, however busy they are and whichever process holds their sockets.
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <signal.h>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <asio/io_context.hpp>

#include "support/workers.hpp"

namespace {

using namespace support;

class ParentDeath : public Workers {};

/// A program (host.cpp) that has written the awaited lines and has reported at least this many workers.
struct Host {
  std::shared_ptr<ReadPipe> pipe = std::make_shared<ReadPipe>();
  Process process;
  std::map<std::string, std::vector<pid_t>> pids;  // "worker", "copy", "middle"
};

asio::awaitable<Host> host(std::vector<std::string> steps, std::vector<std::string> awaited, std::size_t workers = 1) {
  Host h;
  Command command;
  command.program = DROVER_HELPER_HOST;
  command.args = std::move(steps);
  command.out = h.pipe->stdio();
  h.process = Process::spawn(command);
  h.pipe->close_write_end();
  const auto start = Clock::now();
  while (!awaited.empty() || h.pids["worker"].size() < workers) {
    while (!h.pipe->readable()) {
      if (since(start) > 20s)
        throw std::runtime_error("the host never said '" + (awaited.empty() ? "worker" : awaited.front()) + "'");
      co_await pause_for(1ms);
    }
    const std::string line = h.pipe->line();
    if (line.empty()) throw std::runtime_error("the host has ended");
    if (const auto space = line.find(' '); space != std::string::npos && std::isdigit(line.back()))
      h.pids[line.substr(0, space)].push_back(std::stoi(line.substr(space)));
    std::erase(awaited, line);
  }
  co_return h;
}

asio::awaitable<void> kill_host(Process& process) {
  process.signal(SIGKILL);
  co_await process.wait();
}

/// The program is killed; its workers exit within these bounds and not earlier.
asio::awaitable<void> orphans(std::vector<std::string> steps, std::vector<std::string> awaited, Duration at_least = 0s,
                              Duration at_most = 1s) {
  Host h = co_await host(steps, awaited);
  const std::vector<pid_t> workers = h.pids["worker"];
  EXPECT_FALSE(workers.empty());
  for (const pid_t pid : workers) EXPECT_FALSE(gone(pid));
  const auto start = Clock::now();
  co_await kill_host(h.process);
  for (const pid_t pid : workers) {
    EXPECT_TRUE(co_await sees_gone(pid, at_most - since(start) + slack));
    if (!gone(pid)) ::kill(pid, SIGKILL);
  }
  EXPECT_GE(since(start), at_least);
  EXPECT_LT(since(start), at_most + slack) << steps.back();
  for (const pid_t copy : h.pids["copy"]) {
    EXPECT_FALSE(gone(copy));
    ::kill(copy, SIGKILL);
  }
}

// Workers exit when their parent is killed: idle, busy, starting, draining or looping, also if a forked copy holds
// their sockets.
TEST_F(ParentDeath, EndsWorkersInEveryState) {
  for (const bool with_copy : {false, true}) {
    const auto forked = [&](std::vector<std::string> steps) {
      if (with_copy) steps.insert(steps.end(), {"fork"});
      steps.insert(steps.end(), {"say", "done"});
      return steps;
    };
    run_together({
        [&] { return orphans(forked({"start"}), {"done"}); },
        [&] { return orphans(forked({"start", "nap", "0"}), {"done", "napping"}); },
        [&] { return orphans(forked({"start", "nap", "200"}), {"done", "napping"}, 200ms); },
        [&] { return orphans(forked({"start", "call", "until_stopped"}), {"done", "looping"}); },
        [&] {
          return orphans(forked({"grace", "1200", "start", "call", "spin"}), {"done", "spinning"}, 1200ms, 1200ms);
        },
        [&] {
          return orphans(forked({"grace", "1200", "start", "call", "block_stop_callback"}), {"done", "spinning"},
                         1200ms, 1200ms);
        },
        [&] { return orphans(forked({"start-slowly"}), {"done", "booting"}); },
        [&] { return orphans(forked({"start", "nap", "0", "drain"}), {"done", "napping"}); },
        [&] { return orphans(forked({"start-on-a-thread"}), {"done", "ready"}); },
        [&] { return orphans(forked({"start-many", "5"}), {"done", "ready"}); },
    });
  }
}

/// Until SIGSTOP has suspended a process, which need not be our child.
asio::awaitable<void> seen_suspended(pid_t pid) {
  for (std::string state; state != "T";) {
    co_await pause_for(1ms);
    std::ifstream file("/proc/" + std::to_string(pid) + "/status");
    for (std::string word; file >> word && word != "State:";) continue;
    if (!(file >> state)) throw std::runtime_error("the process has ended");
  }
}

/// The workers are suspended when the parent dies, or are about to be: the kernel treats the two differently.
asio::awaitable<void> stopped_orphans(bool suspended, std::vector<std::string> steps,
                                      std::vector<std::string> awaited) {
  Host h = co_await host(steps, awaited);
  for (const pid_t pid : h.pids["worker"]) {
    ::kill(pid, SIGSTOP);
    if (suspended) co_await seen_suspended(pid);
  }
  const auto start = Clock::now();
  co_await kill_host(h.process);
  for (const pid_t pid : h.pids["worker"]) {
    EXPECT_TRUE(co_await sees_gone(pid, 1s + slack - since(start)));
    ::kill(pid, SIGCONT);
  }
  EXPECT_LT(since(start), 1s + slack);
  for (const pid_t copy : h.pids["copy"]) ::kill(copy, SIGKILL);
}

// A suspended worker is continued when its parent dies, and exits.
TEST_F(ParentDeath, EndsSuspendedWorkers) {
  for (const bool suspended : {true, false})
    run_together({
        [=] { return stopped_orphans(suspended, {"start", "say", "done"}, {"done"}); },
        [=] { return stopped_orphans(suspended, {"start", "fork", "say", "done"}, {"done"}); },
        [=] { return stopped_orphans(suspended, {"start", "nap", "0", "say", "done"}, {"done", "napping"}); },
        [=] { return stopped_orphans(suspended, {"start", "nap", "0", "fork", "say", "done"}, {"done", "napping"}); },
        [=] { return stopped_orphans(suspended, {"start-slowly", "say", "done"}, {"done", "booting"}); },
        [=] { return stopped_orphans(suspended, {"start-on-a-thread", "fork", "say", "done"}, {"done", "ready"}); },
    });
}

// The parent is killed at any moment of a start; no worker is left, whatever it was about to do.
TEST_F(ParentDeath, DuringTheStartLeavesNoWorker) {
  const auto repeat = [](int offset) -> asio::awaitable<void> {
    for (int i = 0; i < 12; ++i) {
      const std::vector<std::string> steps{"say", "starting", "start-many", "20"};
      const std::vector<std::string> awaited{"starting"};
      Host h = co_await host(steps, awaited, 0);
      co_await pause_for(std::chrono::microseconds(1000 + 730 * (offset + 2 * i)));
      co_await kill_host(h.process);
      // The pipe reaches its end when the last process that holds it has exited, including workers that were never
      // reported.
      const auto start = Clock::now();
      while (since(start) < slack) {
        if (!h.pipe->readable()) {
          co_await pause_for(1ms);
          continue;
        }
        if (!h.pipe->byte()) break;
      }
      EXPECT_LT(since(start), slack) << "something still holds the pipe";
    }
  };
  run_together({[&] { return repeat(0); }, [&] { return repeat(1); }});
}

/// The parent dies while a worker drains after SIGINT.
asio::awaitable<void> interrupted_orphan(std::vector<std::string> steps) {
  const std::vector<std::string> awaited{"napping"};
  Host h = co_await host(steps, awaited);
  const pid_t worker = h.pids["worker"].front();
  ::kill(worker, SIGINT);
  co_await pause_for(100ms);
  EXPECT_FALSE(gone(worker));
  const auto start = Clock::now();
  co_await kill_host(h.process);
  EXPECT_TRUE(co_await sees_gone(worker, 1s + slack));
  EXPECT_LT(since(start), 1s + slack);
}

// The parent's death shortens a drain that has no bound.
TEST_F(ParentDeath, ShortensAnUnboundedDrain) {
  run_together({
      [] { return interrupted_orphan({"start", "nap", "0"}); },
      [] { return interrupted_orphan({"start", "nap", "0", "drain"}); },
  });
}

asio::awaitable<void> grandchildren(std::vector<std::string> steps, std::vector<std::string> awaited,
                                    Duration at_most) {
  Host h = co_await host(steps, awaited);
  const auto start = Clock::now();
  co_await kill_host(h.process);
  for (const char* who : {"worker", "grandchild"})
    for (const pid_t pid : h.pids[who]) EXPECT_TRUE(co_await sees_gone(pid, at_most + slack - since(start))) << who;
  EXPECT_EQ(h.pids["grandchild"].size(), 2u);
  EXPECT_LT(since(start), at_most + slack);
}

// The children of routines are killed when the parent of the worker dies.
TEST_F(ParentDeath, EndsTheChildrenOfRoutines) {
  const std::vector<std::string> spawns{"start",     "call-with",      "say_grandchild", "plain",
                                        "call-with", "say_grandchild", "stubborn"};
  const auto with = [&](std::vector<std::string> before, std::vector<std::string> after) {
    before.insert(before.end(), spawns.begin(), spawns.end());
    before.insert(before.end(), after.begin(), after.end());
    return before;
  };
  run_together({
      [&] { return grandchildren(with({}, {"call-with", "say", "done"}), {"done"}, 1s); },
      [&] { return grandchildren(with({"grace", "700"}, {"call", "spin"}), {"spinning"}, 700ms); },
      [&] { return grandchildren(with({}, {"call-with", "say", "done", "nap", "100"}), {"done", "napping"}, 1s); },
  });
}

// Workers of workers exit, whether the lowest one's own parent or the topmost process dies.
TEST_F(ParentDeath, EndsNestedWorkers) {
  const auto nested = [](bool kill_the_middle, std::vector<std::string> steps,
                         std::vector<std::string> awaited) -> asio::awaitable<void> {
    steps.insert(steps.begin(), "nested");
    Host h = co_await host(steps, awaited);
    const pid_t middle = h.pids["middle"].front(), lowest = h.pids["worker"].front();
    const auto start = Clock::now();
    kill_the_middle ? (void)::kill(middle, SIGKILL) : h.process.signal(SIGKILL);
    EXPECT_TRUE(co_await sees_gone(middle, 500ms + slack));
    EXPECT_TRUE(co_await sees_gone(lowest, 1s + slack - since(start)));
    if (kill_the_middle) h.process.signal(SIGKILL);
    co_await h.process.wait();
    for (const pid_t copy : h.pids["copy"]) ::kill(copy, SIGKILL);
  };
  run_together({
      [&] { return nested(false, {"start", "say", "done"}, {"done"}); },
      [&] { return nested(true, {"start", "say", "done"}, {"done"}); },
      [&] { return nested(false, {"start", "nap", "0"}, {"napping"}); },
      [&] { return nested(true, {"start", "nap", "0"}, {"napping"}); },
      [&] { return nested(true, {"start", "fork", "say", "done"}, {"done"}); },
      [&] { return nested(false, {"grace", "300", "start", "call", "spin"}, {"spinning"}); },
  });
}

// The same inside a PID namespace. If the kernel forbids to create one, the test runs without it and says so.
TEST_F(ParentDeath, EndsWorkersInAPidNamespace) {
  ReadPipe output;
  int input[2];
  ASSERT_EQ(::pipe2(input, O_CLOEXEC), 0);
  const UniqueFd read_end(input[0]), write_end(input[1]);
  Command command;
  command.program = DROVER_HELPER_HOST;
  command.args = {"namespace", "start", "nap", "0", "start", "say", "done"};
  command.in = Stdio::file("/proc/self/fd/" + std::to_string(read_end.get()));
  command.out = output.stdio();
  Process process = Process::spawn(command);
  output.close_write_end();
  const std::string first = output.line();
  if (first == "forbidden") {
    std::fprintf(stderr, "[ NOTICE   ] this kernel forbids PID namespaces; tested without one\n");
    run(process.wait());
    run_together({[] { return orphans({"start", "nap", "0", "start", "say", "done"}, {"done", "napping"}); }});
    return;
  }
  EXPECT_EQ(first, "inside");
  int awaited = 2;
  while (awaited != 0) {
    const std::string line = output.line();
    ASSERT_FALSE(line.empty());
    if (line == "done" || line == "napping") --awaited;
  }
  const auto start = Clock::now();
  ASSERT_EQ(::write(write_end.get(), "x", 1), 1);
  int orphaned = 0;
  for (std::string line = output.line(); line != "all ended"; line = output.line()) {
    ASSERT_FALSE(line.empty());
    if (line == "orphan ended") ++orphaned;
  }
  EXPECT_GE(orphaned, 2);
  EXPECT_LT(since(start), 1s + slack);
  EXPECT_TRUE(run(process.wait()).success());
}

// The exit of the thread that started a worker does not end the worker.
TEST_F(ParentDeath, IsNotTheExitOfTheStartingThread) {
  asio::io_context context;
  LocalWorker worker(context.get_executor(), plain_worker());
  std::thread([&] { run(context, worker.start()); }).join();
  run(context, pause_for(300ms));
  EXPECT_TRUE(worker.alive());
  EXPECT_EQ(run(context, worker.call<int>("square", 4)), 16);
  const StopReport report = run(context, worker.stop());
  EXPECT_TRUE(report.exit.success());
  EXPECT_FALSE(report.terminated);
}

// Many workers exit together when their parent dies.
TEST_F(ParentDeath, EndsManyWorkersAtOnce) {
  const std::string many = slowed_down ? "6" : "32";
  run_together({[&] { return orphans({"start-many", many, "say", "done"}, {"done"}, 0s, 1500ms); }});
}

}  // namespace
