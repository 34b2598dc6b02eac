// Allocations that fail on the reaper thread: each single one of a scenario, and many in a row.
#include <atomic>
#include <cstdlib>
#include <gtest/gtest.h>
#include <memory>
#include <new>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string_view>
#include <utility>
#include <vector>

#include <drover/drover.hpp>

#include "support/calls.hpp"
#include "support/failing_allocations.hpp"
#include "support/processes.hpp"

namespace {

std::atomic<int> spared{0};  // this many succeed first
std::atomic<int> failures_left{0};
std::atomic<int> failures{0};

}  // namespace

bool support::allocation_fails() noexcept {
  if (failures_left.load(std::memory_order_relaxed) == 0) return false;
  char name[16] = "";
  ::pthread_getname_np(::pthread_self(), name, sizeof name);
  if (std::string_view(name) != "drover-reaper" || spared.fetch_sub(1) > 0) return false;
  if (failures_left.fetch_sub(1) <= 0) return false;
  ++failures;
  return true;
}

namespace {

using namespace support;

class OutOfMemory : public Processes {
 protected:
  /// Calls `scenario` once for each allocation, which fails together with the next ones, `many` in all.
  template <class Scenario>
  static void sweep(Scenario scenario) {
    for (const int many : {1, 2, 10}) {
      int first = 0;
      do {
        failures = 0;
        spared = first;
        failures_left = many;
        scenario();
        failures_left = 0;
      } while (failures != 0 && ++first < 100);
      EXPECT_GT(first, 0) << "nothing was allocated on that thread";
      EXPECT_LT(first, 100);
    }
  }
};

// The waiting context sleeps, so that the reaper thread sees the exits.
TEST_F(OutOfMemory, StillCompletesEveryWaiter) {
  sweep([] {
    asio::io_context context;
    int told = 0, lines = 0;
    Command command = child({"say", "a\nb", "exit-on", "10", "20", "3", "say", "\n", "pause"});
    command.out = Stdio::lines(context.get_executor(), [&](std::string_view) { ++lines; });
    auto process = Process::spawn(command);
    auto other = Process::spawn(child({"ignore", "15", "pause"}));
    const auto count = [&](std::exception_ptr failure, auto) { told += failure ? 100 : 1; };
    for (int i = 0; i < 2; ++i) asio::co_spawn(context, process.wait(), count);
    asio::co_spawn(context, process.reap(), count);
    asio::co_spawn(context, other.reap({.patience = 20ms, .term_grace = 20ms}), count);
    context.poll();
    while (lines < 2) context.run_for(1ms), context.restart();
    process.signal(SIGUSR1);
    while (process.running() || other.running()) ::poll(nullptr, 0, 1);
    context.run_for(10s);
    EXPECT_EQ(told, 4);
    EXPECT_EQ(lines, 2);
  });
}

asio::awaitable<void> worker_that_dies(asio::any_io_executor executor) {
  drover::LocalWorker worker(executor, call_worker());
  co_await worker.start();
  ::kill(worker.pid(), SIGKILL);
  while (worker.alive()) ::poll(nullptr, 0, 1);
  const drover::StopReport report = co_await worker.stop();
  EXPECT_EQ(report.exit, (ExitStatus{ExitStatus::Kind::signaled, SIGKILL, false}));
}

TEST_F(OutOfMemory, StillReportsTheExitOfAWorker) {
  sweep([] {
    asio::io_context context;
    run(context, worker_that_dies(context.get_executor()));
  });
}

// The reaper thread sends SIGTERM and posts its event.
asio::awaitable<void> listened_worker(asio::any_io_executor executor) {
  using Kind = drover::Event::Kind;
  std::vector<Kind> kinds;
  drover::WorkerOptions options = call_worker();
  options.stop_margin = 20ms;
  options.on_event = [&](const drover::Event& event) {
    if (event.kind != Kind::stopped && event.kind != Kind::continued) kinds.push_back(event.kind);
  };
  drover::LocalWorker worker(executor, options);
  co_await worker.start();
  ::kill(worker.pid(), SIGSTOP);
  auto stopped = worker.stop(0s);
  while (worker.alive()) ::poll(nullptr, 0, 1);
  co_await std::move(stopped);
  const std::vector<Kind> all{Kind::spawned,        Kind::ready,  Kind::stopping,
                              Kind::terminate_sent, Kind::exited, Kind::reaped};
  EXPECT_EQ(kinds, all);
}

TEST_F(OutOfMemory, LosesNoEvent) {
  sweep([] {
    asio::io_context context;
    run(context, listened_worker(context.get_executor()));
  });
}

asio::awaitable<void> pool_of_mortals() {
  const drover::PoolOptions options = call_pool(2);
  drover::WorkerPool pool = co_await drover::WorkerPool::start(options);
  for (int i = 0; i < 2; ++i) {
    const pid_t pid = pool.workers().front().pid;
    ::kill(pid, SIGKILL);
    while (!gone(pid)) ::poll(nullptr, 0, 1);
    int sum = 0;
    for (int tries = 0; sum == 0 && tries < 100; ++tries) {
      try {
        sum = co_await pool.call<int>("add", 1, 2L);
      } catch (const drover::Error& error) {  // the call was sent before the pool knew of the exit
        EXPECT_EQ(error.code(), drover::Errc::worker_exited) << error.what();
      }
    }
    EXPECT_EQ(sum, 3);
  }
  const auto reports = co_await pool.stop();
  EXPECT_EQ(reports.size(), 2u);
}

TEST_F(OutOfMemory, StillReplacesCrashedWorkers) {
  sweep([] { run(pool_of_mortals()); });
}

}  // namespace
