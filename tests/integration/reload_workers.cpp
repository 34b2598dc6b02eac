// reload() and single workers: calls that a replaced one still has, workers that die, and a cancellation in between.
#include <gtest/gtest.h>
#include <signal.h>
#include <thread>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>

#include "support/callers.hpp"
#include "support/fleet.hpp"

namespace {

using namespace support;
using drover::ReloadReport;

class WorkerReload : public Calls {};

// A call that has begun is finished by its worker, however long it takes; others go to the successor.
TEST_F(WorkerReload, WaitsForCallsThatHaveBegun) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.worker.max_in_flight = 4;
    options.shutdown_grace = 100ms;
    const auto told = std::make_shared<ReadPipe>();
    options.worker.command.out = told->stdio();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto before = pids(pool);
    const auto here = co_await asio::this_coro::executor;
    const Task<std::string> nap(here, pool.call<std::string>("nap", 1500, 0));
    co_await said(told, "napping");
    const Task<ReloadReport> reload(here, pool.reload());
    const bool replaced = co_await soon([&] { return pids(pool).size() == 1 && pids(pool) != before; });
    EXPECT_TRUE(replaced);
    const int pid = co_await pool.call<int>("pid");
    EXPECT_NE(pid, before.front());
    EXPECT_FALSE(nap.done());
    const std::string slept = co_await nap.result();
    EXPECT_EQ(slept, "slept");
    const ReloadReport report = co_await reload.result();
    EXPECT_EQ(report.replaced, 1u);
    EXPECT_EQ(report.stopped.size(), 1u);
    co_await pool.stop();
  });
}

// With RecyclePolicy::drain a call that takes longer is cancelled.
TEST_F(WorkerReload, CancelsCallsThatTakeTooLong) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.recycle.drain = 50ms;
    const auto told = std::make_shared<ReadPipe>();
    options.worker.command.out = told->stdio();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    const Task<std::string> nap(here, pool.call<std::string>("nap", 60000, 0));
    co_await said(told, "napping");
    const ReloadReport report = co_await pool.reload();
    EXPECT_EQ(report.stopped.size(), 1u);
    const Failure failure = co_await nap.failure();
    EXPECT_EQ(failure, Errc::stopping) << failure;
    co_await pool.stop();
  });
}

// The worker dies while its successor starts: that takes the place.
TEST_F(WorkerReload, OutlivesTheWorkerThatItReplaces) {
  on_one_thread([]() -> asio::awaitable<void> {
    const EventLog log;
    PoolOptions options = logged_pool(1, log);
    WorkerPool pool = co_await WorkerPool::start(options);
    Command command = options.worker.command;
    command.args = {"sleep", "300"};
    const auto here = co_await asio::this_coro::executor;
    const Task<ReloadReport> reload(here, pool.reload(command));
    const bool begun = co_await soon([&] { return log.count(Event::Kind::spawned) == 2; });
    EXPECT_TRUE(begun);
    ::kill(pids(pool).front(), SIGKILL);
    const bool seen = co_await soon([&] { return log.count(Event::Kind::exited) == 1; });
    EXPECT_TRUE(seen);
    const int nine = co_await pool.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    const ReloadReport report = co_await reload.result();
    EXPECT_EQ(report.replaced, 1u);
    EXPECT_EQ(log.count(Event::Kind::spawned), 2u) << "no third worker was needed";
    EXPECT_EQ(pool.stats().crashes, 1u);
    co_await pool.stop();
  });
}

// Both die: the slot is restarted as after any crash, with the old command.
TEST_F(WorkerReload, FailsIfBothWorkersDie) {
  on_one_thread([]() -> asio::awaitable<void> {
    const EventLog log;
    PoolOptions options = logged_pool(1, log);
    options.restart.backoff = 1ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto before = pids(pool);
    const auto here = co_await asio::this_coro::executor;
    const Task<ReloadReport> reload(here, pool.reload(slow_command(options)));
    const bool begun = co_await soon([&] { return log.count(Event::Kind::spawned) == 2; });
    EXPECT_TRUE(begun);
    ::kill(before.front(), SIGKILL);
    const bool seen = co_await soon([&] { return log.count(Event::Kind::exited) == 1; });
    EXPECT_TRUE(seen);
    for (const Event& event : log.all())
      if (event.kind == Event::Kind::spawned && event.pid != before.front()) ::kill(event.pid, SIGKILL);
    const Failure failure = co_await reload.failure();
    EXPECT_EQ(failure, Errc::start_failed) << failure;
    const int nine = co_await pool.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    EXPECT_EQ(log.count(Event::Kind::spawned), 3u);
    EXPECT_EQ(pool.stats().crashes, 2u);
    co_await pool.stop();
  });
}

// A pool whose slots are all given up: calls fail until a reload brings a program that works.
TEST_F(WorkerReload, BringsBackAPoolThatHasGivenUp) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    const EventLog log;
    PoolOptions options = logged_pool(2, log, {"exit-if", folder.file("broken"), "9"});
    options.restart = {.max_restarts = 1, .backoff = 1ms, .max_backoff = 60s};
    WorkerPool pool = co_await WorkerPool::start(options);
    std::ofstream(folder.file("broken")).close();
    for (const pid_t pid : pids(pool)) ::kill(pid, SIGKILL);
    const bool gave_up = co_await soon([&] { return log.count(Event::Kind::gave_up) == 2; });
    EXPECT_TRUE(gave_up);
    const Failure refused = co_await failure_of(pool.call<int>("square", 3));
    EXPECT_EQ(refused, Errc::pool_failed) << refused;
    const Failure still_broken = co_await failure_of(pool.reload());
    EXPECT_TRUE(still_broken.exit && still_broken.exit->value == 9) << still_broken;
    Command command = options.worker.command;
    command.args.clear();
    const ReloadReport report = co_await pool.reload(command);
    EXPECT_EQ(report.replaced, 2u);
    EXPECT_TRUE(report.stopped.empty());
    const int nine = co_await pool.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    co_await pool.stop();
  });
}

// The pool's context is busy while a caller on another one gives up: the successor has not been started yet.
TEST_F(WorkerReload, CancelledBeforeASuccessorIsStartedStartsNone) {
  on_one_thread([]() -> asio::awaitable<void> {
    const EventLog log;
    WorkerPool pool = co_await WorkerPool::start(logged_pool(1, log));
    const auto before = pids(pool);
    std::thread([&pool] {
      asio::io_context other(1);
      asio::cancellation_signal cancel;
      Failure failure;
      asio::co_spawn(other, pool.reload(),
                     asio::bind_cancellation_slot(cancel.slot(), [&](std::exception_ptr thrown, const ReloadReport&) {
                       failure = describe(thrown);
                     }));
      other.poll();
      cancel.emit(asio::cancellation_type::terminal);
      other.run();
      EXPECT_TRUE(failure.aborted()) << failure;
    }).join();
    for (int i = 0; i < 20; ++i) co_await pool.call("nothing");
    EXPECT_EQ(pids(pool), before);
    EXPECT_EQ(log.count(Event::Kind::spawned), 1u);
    const ReloadReport report = co_await pool.reload();
    EXPECT_EQ(report.replaced, 1u);
    co_await pool.stop();
  });
}

// The successor has the slot already, so the slot keeps the new command.
TEST_F(WorkerReload, CancelledWhileTheOldWorkerDrainsKeepsTheNewCommand) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.restart.backoff = 1ms;
    const auto told = std::make_shared<ReadPipe>();
    options.worker.command.out = told->stdio();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto before = pids(pool);
    const auto here = co_await asio::this_coro::executor;
    const Task<std::string> nap(here, pool.call<std::string>("nap", 60000, 0));
    co_await said(told, "napping");
    Command command = options.worker.command;
    command.args = {"sleep", "1"};
    const Task<ReloadReport> reload(here, pool.reload(command));
    const bool replaced = co_await soon([&] { return pids(pool).size() == 1 && pids(pool) != before; });
    EXPECT_TRUE(replaced);
    reload.cancel();
    const Failure failure = co_await reload.failure();
    EXPECT_TRUE(failure.aborted()) << failure;
    const auto after = pids(pool);
    ::kill(after.front(), SIGKILL);
    const bool restarted = co_await soon([&] { return pids(pool).size() == 1 && pids(pool) != after; });
    EXPECT_TRUE(restarted);
    const std::string arguments = co_await arguments_of_a_worker(pool);
    EXPECT_NE(arguments.find("sleep 1"), std::string::npos) << arguments;
    nap.cancel();
    co_await pool.stop();
  });
}

// A worker that is killed by its last call has crashed, although it was asked to stop.
TEST_F(WorkerReload, CountsTheCrashOfAWorkerThatDrains) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    const auto told = std::make_shared<ReadPipe>();
    options.worker.command.out = told->stdio();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto before = pids(pool);
    const auto here = co_await asio::this_coro::executor;
    const Task<std::string> nap(here, pool.call<std::string>("nap", 60000, 0));
    co_await said(told, "napping");
    const Task<ReloadReport> reload(here, pool.reload());
    const bool replaced = co_await soon([&] { return pids(pool).size() == 1 && pids(pool) != before; });
    EXPECT_TRUE(replaced);
    ::kill(before.front(), SIGKILL);
    const ReloadReport report = co_await reload.result();
    EXPECT_EQ(report.replaced, 1u);
    const Failure failure = co_await nap.failure();
    EXPECT_EQ(failure, Errc::worker_exited) << failure;
    EXPECT_EQ(pool.stats().crashes, 1u);
    EXPECT_EQ(pool.stats().deaths.crashed, 1u);
    co_await pool.stop();
  });
}

}  // namespace
