// The context of a coroutine that waits for a process watches for the exit as well: os/detail/exit_watcher.hpp.
#include <algorithm>
#include <gtest/gtest.h>
#include <random>
#include <semaphore>
#include <string>
#include <sys/resource.h>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/thread_pool.hpp>

#include <drover/detail/context/registry.hpp>
#include <drover/os/process.hpp>

#include "support/busy_reaper.hpp"
#include "support/processes.hpp"

namespace {

using namespace support;
using Kind = ExitStatus::Kind;

class ExitWatcher : public Processes {
 protected:
  /// Creates what the context needs anyway, so that later only the descriptor of the watch is opened.
  static void warm_up(asio::io_context& context) {
    (void)drover::detail::ContextRegistry::of(context);
    asio::steady_timer(context).cancel();
  }
};

TEST_F(ExitWatcher, SeesTheExitWithoutTheReaperThread) {
  asio::io_context context;
  Command waits = child({"pause"}), reaps = child({"pause"});
  auto waited_for = Process::spawn(waits), reaped = Process::spawn(reaps);
  int ends = 0;
  const BusyReaper busy;
  asio::co_spawn(context, waited_for.wait(), [&](std::exception_ptr e, ExitStatus status) {
    EXPECT_FALSE(e);
    EXPECT_EQ(status, (ExitStatus{Kind::signaled, SIGUSR1, false}));
    ++ends;
  });
  asio::co_spawn(context, reaped.reap(0s), [&](std::exception_ptr e, drover::ReapReport report) {
    EXPECT_FALSE(e);
    EXPECT_EQ(report.exit, (ExitStatus{Kind::signaled, SIGTERM, false}));
    ++ends;
  });
  context.poll();
  waited_for.signal(SIGUSR1);
  context.run_for(slack);
  EXPECT_EQ(ends, 2);
  EXPECT_EQ(::kill(waited_for.pid(), 0), -1);
}

// Asio may report to a new descriptor an event of the closed one whose number it has: the exit comes after that.
TEST_F(ExitWatcher, SeesManyExitsOneAfterAnother) {
  asio::io_context context;
  const BusyReaper busy;
  int ended = 0;
  const auto body = [&]() -> asio::awaitable<void> {
    for (; ended < 20; ++ended) {
      ReadPipe pipe;
      Command command = child({"exit-on", "15", "5", "0", "say", "x", "pause"});
      command.out = pipe.stdio();
      auto process = Process::spawn(command);
      pipe.byte();
      co_await process.reap(0s);
    }
  };
  asio::co_spawn(context, body(), [](std::exception_ptr e) { EXPECT_FALSE(e); });
  context.run_for(20 * slack);
  EXPECT_EQ(ended, 20);
}

TEST_F(ExitWatcher, UsesOneDescriptorForAllWaiters) {
  asio::io_context context;
  warm_up(context);
  Command command = child({"pause"});
  auto process = Process::spawn(command);
  const std::size_t before = open_descriptors();
  std::vector<asio::cancellation_signal> cancel(3);
  std::size_t cancelled = 0;
  for (auto& signal : cancel)
    asio::co_spawn(context, process.wait(),
                   asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr e, ExitStatus) {
                     if (e) ++cancelled;
                   }));
  context.poll();
  EXPECT_EQ(open_descriptors(), before + 1);
  for (auto& signal : cancel) {
    signal.emit(asio::cancellation_type::terminal);
    context.poll();
  }
  EXPECT_EQ(cancelled, cancel.size());
  EXPECT_EQ(open_descriptors(), before);
  context.restart();
  asio::co_spawn(context, process.wait(), [&](std::exception_ptr e, ExitStatus) { EXPECT_FALSE(e); });
  context.poll();
  EXPECT_EQ(open_descriptors(), before + 1);  // the next waiter has one again
  process.signal(SIGKILL);
  context.run();
}

TEST_F(ExitWatcher, WithoutDescriptorsLeavesItToTheReaperThread) {
  asio::io_context context;
  warm_up(context);
  Command command = child({"pause"});
  auto process = Process::spawn(command);
  const std::size_t before = open_descriptors();
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const rlimit none{3, limit.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &none);
  bool ended = false;
  asio::co_spawn(context, process.wait(), [&](std::exception_ptr e, ExitStatus) { ended = !e; });
  context.poll();
  ::setrlimit(RLIMIT_NOFILE, &limit);
  EXPECT_EQ(open_descriptors(), before);
  process.signal(SIGKILL);
  context.run_for(slack);
  EXPECT_TRUE(ended);
}

TEST_F(ExitWatcher, OnAnIdleContextDelaysNoOtherWaiter) {
  asio::io_context idle, context;
  Command command = child({"pause"});
  auto process = Process::spawn(command);
  bool ended = false;
  asio::co_spawn(idle, process.wait(), [&](std::exception_ptr e, ExitStatus) { ended = !e; });
  idle.poll();
  process.signal(SIGUSR2);
  EXPECT_EQ(run(context, process.wait()), (ExitStatus{Kind::signaled, SIGUSR2, false}));
  EXPECT_FALSE(ended);
  idle.run();
  EXPECT_TRUE(ended);
}

TEST_F(ExitWatcher, ExitDuringACancellationIsReportedOnce) {
  asio::thread_pool threads(4);
  std::minstd_rand random(7);
  std::atomic<int> ends = 0, wrong = 0;
  constexpr int rounds = 200, waiters = 3;
  for (int round = 0; round < rounds; ++round) {
    Command command = child({"pause"});
    auto process = Process::spawn(command);
    const auto strand = asio::make_strand(threads.get_executor());
    std::vector<asio::cancellation_signal> cancel(waiters);
    std::counting_semaphore<> done(0);
    for (int i = 0; i < waiters; ++i) {
      // The first one runs on the pool's own executor, where its handler and the watch may run at the same time.
      const asio::any_io_executor executor = i == 0 ? asio::any_io_executor(threads.get_executor()) : strand;
      const auto handler = [&](std::exception_ptr e, ExitStatus status) {
        if (!e && status != ExitStatus{Kind::signaled, SIGUSR1, false}) ++wrong;
        ++ends;
        done.release();
      };
      if (i == 0)
        asio::co_spawn(executor, process.wait(), handler);
      else
        asio::co_spawn(executor, process.wait(),
                       asio::bind_cancellation_slot(cancel[static_cast<std::size_t>(i)].slot(), handler));
    }
    const auto pause = std::chrono::microseconds(random() % 300);
    asio::post(strand, [&] { cancel[1].emit(asio::cancellation_type::terminal); });
    process.signal(SIGUSR1);
    asio::steady_timer timer(strand, pause);
    timer.async_wait([&](std::error_code) {
      cancel[2].emit(asio::cancellation_type::terminal);
      done.release();
    });
    for (int i = 0; i <= waiters; ++i) done.acquire();
    run(process.wait());
  }
  threads.join();
  EXPECT_EQ(ends, rounds * waiters);
  EXPECT_EQ(wrong, 0);
}

}  // namespace
