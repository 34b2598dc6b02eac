// The life of workers, pools, processes and leases for any completion token: async_start() and its like.
#include <chrono>
#include <exception>
#include <gtest/gtest.h>
#include <optional>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/bind_executor.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/system_executor.hpp>
#include <asio/use_future.hpp>

#include <drover/os/process.hpp>
#include <drover/resource_pool.hpp>

#include "support/calls.hpp"
#include "support/tokens.hpp"

namespace {

using namespace support;

class AsyncLifecycle : public Calls {
 protected:
  // Asio's system context, which the handlers of asio::use_future need, opens its descriptors now, and keeps them.
  static void SetUpTestSuite() { const asio::steady_timer timer{asio::system_executor()}; }
};

TEST_F(AsyncLifecycle, StopsAWorkerWhoseStartHasBegun) {
  asio::io_context context(1);
  LocalWorker worker(context.get_executor(), call_worker());
  std::optional<Failure> start, stop;
  bool ran = false;
  worker.async_start([&](const std::exception_ptr& failure) { start = describe(failure); });
  EXPECT_TRUE(worker.alive()) << "the start begins at once";
  worker.async_stop([&](const std::exception_ptr& failure, const StopReport& report) {
    stop = describe(failure);
    ran = report.elapsed.count() > 0;
  });
  context.run_for(30s);
  EXPECT_TRUE(start && start->aborted());
  EXPECT_TRUE(stop && !*stop && ran);
  EXPECT_FALSE(worker.alive());
}

// The wait for the end has not begun then, so the handler may run before the process has exited.
TEST_F(AsyncLifecycle, StartIsCancelledBeforeItsWaitBegins) {
  asio::io_context context(1);
  LocalWorker worker(context.get_executor(), call_worker());
  asio::cancellation_signal signal;
  std::optional<Failure> failure;
  worker.async_start(asio::bind_cancellation_slot(
      signal.slot(), [&](const std::exception_ptr& thrown) { failure = describe(thrown); }));
  EXPECT_TRUE(worker.alive());
  signal.emit(asio::cancellation_type::terminal);
  context.run_for(30s);
  EXPECT_TRUE(failure && failure->aborted());
  EXPECT_FALSE(worker.alive()) << "nobody but the cancelled start has asked for it";
}

TEST_F(AsyncLifecycle, StartThatNobodyAwaitsIsAborted) {
  asio::io_context context(1);
  LocalWorker worker(context.get_executor(), call_worker());
  {
    const auto dropped = worker.async_start(lazy);
  }
  context.run_for(30s);
  EXPECT_FALSE(worker.alive());
}

// The handlers of start, call and stop follow one another. A start that fails passes the reason to its handler.
TEST_F(AsyncLifecycle, StartsAndStopsAWorker) {
  asio::io_context context(1);
  LocalWorker worker(context.get_executor(), call_worker());
  int steps = 0;
  bool initiating = true;
  worker.async_start([&](const std::exception_ptr& failure) {
    EXPECT_EQ(failure, nullptr);
    EXPECT_FALSE(initiating);
    ++steps;
    worker.async_call<int>("square", 5, [&](const std::exception_ptr&, int result) {
      EXPECT_EQ(result, 25);
      ++steps;
      worker.async_stop(5s, [&](const std::exception_ptr& stopped, const drover::StopReport& report) {
        EXPECT_EQ(stopped, nullptr);
        EXPECT_TRUE(report.exit.success());
        ++steps;
      });
    });
  });
  initiating = false;
  context.run_for(30s);
  EXPECT_EQ(steps, 3);
  LocalWorker bad(context.get_executor(), [] {
    WorkerOptions options;
    options.command.program = "/no/such/program";
    return options;
  }());
  std::optional<Failure> failure, refused;
  LocalWorker unasked(context.get_executor(), call_worker());
  unasked.async_start(0s, [&](const std::exception_ptr& thrown) { refused = describe(thrown); });
  bad.async_start([&](const std::exception_ptr& thrown) { failure = describe(thrown); });
  EXPECT_FALSE(failure || refused);
  context.restart();
  context.run_for(30s);
  EXPECT_TRUE(failure && failure->code == std::errc::no_such_file_or_directory) << *failure;
  EXPECT_TRUE(refused && refused->argument) << *refused;
}

// async_wait() has the exit code of a process that exits; async_reap() ends one that would stay.
TEST_F(AsyncLifecycle, WaitsForAProcessAndReapsIt) {
  asio::io_context context(1);
  Process quick = Process::spawn(child({"exit", "3"})), slow = Process::spawn(child({"stay"}));
  std::optional<drover::ExitStatus> exit;
  quick.async_wait(
      asio::bind_executor(context, [&](const std::exception_ptr&, drover::ExitStatus status) { exit = status; }));
  context.run_for(30s);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->value, 3);
  std::optional<drover::ReapReport> reaped;
  slow.async_reap(0ms, asio::bind_executor(context, [&](const std::exception_ptr&, const drover::ReapReport& report) {
                    reaped = report;
                  }));
  EXPECT_FALSE(reaped);
  context.restart();
  context.run_for(30s);
  ASSERT_TRUE(reaped);
  EXPECT_FALSE(reaped->exit.success());
}

TEST_F(AsyncLifecycle, ReapsAProcessWithoutAPlan) {
  asio::io_context context(1);
  Process quick = Process::spawn(child({"exit", "3"}));
  std::optional<drover::ReapReport> reaped;
  quick.async_reap(
      asio::bind_executor(context, [&](const std::exception_ptr& failure, const drover::ReapReport& report) {
        EXPECT_EQ(failure, nullptr);
        reaped = report;
      }));
  EXPECT_FALSE(reaped);
  context.run_for(30s);
  ASSERT_TRUE(reaped);
  EXPECT_EQ(reaped->exit.value, 3);
  EXPECT_FALSE(reaped->terminated);
}

TEST_F(AsyncLifecycle, StartsAndReapsAWorkerProcess) {
  asio::io_context context(1);
  WorkerOptions options = call_worker();
  options.shutdown_grace = 0s;
  drover::WorkerProcess first(context.get_executor(), options), second(context.get_executor(), call_worker());
  int starts = 0, reaps = 0;
  const auto on_reap = [&](const std::exception_ptr& failure, const drover::ReapReport& report) {
    EXPECT_EQ(failure, nullptr);
    EXPECT_TRUE(report.terminated && report.exit.success()) << report.to_string();
    ++reaps;
  };
  first.async_start([&](const std::exception_ptr& failure, const drover::WorkerMetadata& metadata) {
    EXPECT_EQ(failure, nullptr);
    EXPECT_EQ(metadata.pid, first.pid());
    ++starts;
    first.async_reap(on_reap);
  });
  second.async_start(20s, [&](const std::exception_ptr& failure, const drover::WorkerMetadata&) {
    EXPECT_EQ(failure, nullptr);
    ++starts;
    second.async_reap(0s, on_reap);
  });
  EXPECT_EQ(starts, 0);
  context.run_for(30s);
  EXPECT_EQ(starts, 2);
  EXPECT_EQ(reaps, 2);
  EXPECT_FALSE(first.alive() || second.alive());
}

// The handler of async_acquire() gets the lease, after async_acquire() has returned.
TEST_F(AsyncLifecycle, AcquiresALease) {
  asio::io_context context(1);
  drover::ResourcePool<int, int> pool(context.get_executor(), [](int key) { return key + 1; });
  int value = 0;
  pool.async_acquire(3, asio::bind_executor(context, [&](const std::exception_ptr& failure, auto lease) {
                       EXPECT_EQ(failure, nullptr);
                       value = *lease;
                     }));
  EXPECT_EQ(value, 0);
  context.run_for(30s);
  EXPECT_EQ(value, 4);
}

// asio::co_spawn() starts a pool for any completion token.
TEST_F(AsyncLifecycle, StartsAPool) {
  asio::io_context context(1);
  WorkerPool pool;
  int sum = 0;
  asio::co_spawn(context, WorkerPool::start(call_pool(2)), [&](const std::exception_ptr& failure, WorkerPool started) {
    EXPECT_EQ(failure, nullptr);
    pool = std::move(started);
    pool.async_call<int>("add", 1, 2, [&](const std::exception_ptr& error, int result) {
      EXPECT_EQ(error, nullptr);
      sum = result;
      pool.async_stop([](const std::exception_ptr&, const std::vector<drover::StopReport>&) {});
    });
  });
  auto failed = asio::co_spawn(context, WorkerPool::start(call_pool(0)), asio::use_future);
  asio::cancellation_signal cancel;
  Failure cancelled;
  asio::co_spawn(context, WorkerPool::start(call_pool(2)),
                 asio::bind_cancellation_slot(cancel.slot(), [&](const std::exception_ptr& failure, WorkerPool) {
                   cancelled = describe(failure);
                 }));
  asio::post(context, [&] { cancel.emit(asio::cancellation_type::terminal); });
  context.run_for(30s);
  EXPECT_EQ(sum, 3);
  EXPECT_THROW((void)failed.get(), std::invalid_argument);
  EXPECT_TRUE(cancelled.code == asio::error::operation_aborted) << cancelled;
}

// The handler of async_stop() gets one report for each worker.
TEST_F(AsyncLifecycle, StopsAPool) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(2));
    std::optional<std::size_t> reports;
    pool.async_stop([&](const std::exception_ptr& failure, const std::vector<drover::StopReport>& stopped) {
      EXPECT_EQ(failure, nullptr);
      reports = stopped.size();
    });
    const bool ended = co_await soon([&] { return reports.has_value(); });
    EXPECT_TRUE(ended);
    EXPECT_EQ(reports, 2u);
  });
}

}  // namespace
