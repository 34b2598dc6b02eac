// resize(): slots are added and removed while calls go on.
#include <gtest/gtest.h>
#include <limits>
#include <random>
#include <signal.h>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/steady_timer.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_future.hpp>

#include "support/callers.hpp"
#include "support/fleet.hpp"

namespace {

using namespace support;

class Resize : public CallsAnywhere {};
class OneResize : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, Resize, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// resize() returns when the new workers are ready, or when those that it removes have exited.
TEST_P(Resize, AddsAndRemovesWorkers) {
  run_scenario([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(2));
    const auto first = pids(pool);
    co_await pool.resize(5);
    const auto five = pids(pool);
    EXPECT_EQ(five.size(), 5u);
    EXPECT_TRUE(std::includes(five.begin(), five.end(), first.begin(), first.end()));
    co_await pool.resize(5);
    EXPECT_EQ(pids(pool), five);
    co_await pool.resize(1);
    const auto one = pids(pool);
    EXPECT_EQ(one.size(), 1u);
    for (const pid_t pid : five) EXPECT_TRUE(pid == one.front() || gone(pid)) << "resize() returns when they have gone";
    EXPECT_EQ(pool.stats().crashes, 0u);
    EXPECT_EQ(pool.stats().restarts, 0u);
    const auto reports = co_await pool.stop();
    EXPECT_EQ(reports.size(), 1u);
  });
}

// All calls succeed while the pool has between one and five workers, in turn.
TEST_P(Resize, LosesNoCallUnderLoad) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(3));
    constexpr int callers = 16, calls = 400;
    const auto tally = spawn_callers(co_await asio::this_coro::executor, pool, callers, calls);
    for (std::size_t size = 1; tally->left != 0; size = size % 5 + 1) co_await pool.resize(size);
    EXPECT_EQ(tally->good, callers * calls) << tally->text;
    EXPECT_EQ(pool.stats().crashes, 0u);
    co_await pool.stop();
  });
}

// A worker of a removed slot finishes the call that it has begun.
TEST_F(OneResize, WaitsForCallsThatHaveBegun) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    const auto told = std::make_shared<ReadPipe>();
    options.worker.command.out = told->stdio();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    const Task<std::string> of_first(here, pool.call<std::string>("nap", 400, 0));
    co_await said(told, "napping");
    co_await pool.resize(2);
    const Task<std::string> of_second(here, pool.call<std::string>("nap", 400, 0));
    co_await said(told, "napping");
    co_await pool.resize(1);
    EXPECT_TRUE(of_second.done());
    const std::string slept = co_await of_second.result();
    EXPECT_EQ(slept, "slept");
    co_await of_first.result();
    co_await pool.stop();
  });
}

// If new workers exit before they are ready, resize() fails and the pool has the workers that it had.
TEST_F(OneResize, AddsAllOrNone) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    PoolOptions options = call_pool(2, {"exit-if", folder.file("broken"), "9"});
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto before = pids(pool);
    std::ofstream(folder.file("broken")).close();
    const Failure failure = co_await failure_of(pool.resize(6));
    EXPECT_EQ(failure, Errc::start_failed) << failure;
    EXPECT_TRUE(failure.exit && failure.exit->value == 9) << failure;
    EXPECT_EQ(pids(pool), before);
    std::filesystem::remove(folder.file("broken"));
    co_await pool.resize(4);
    EXPECT_EQ(pids(pool).size(), 4u);
    const auto reports = co_await pool.stop();
    EXPECT_EQ(reports.size(), 4u);
  });
}

// A size of zero, an exception of slot_env, a stopped pool and an empty one fail resize().
TEST_F(OneResize, RefusesNonsense) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    options.slot_env = [](std::size_t slot) -> std::map<std::string, std::string> {
      if (slot == 2) throw std::runtime_error("no port is left");
      return {};
    };
    WorkerPool pool = co_await WorkerPool::start(options);
    const Failure zero = co_await failure_of(pool.resize(0));
    EXPECT_TRUE(zero.argument) << zero;
    const Failure of_environment = co_await failure_of(pool.resize(3));
    EXPECT_EQ(of_environment.text, "no port is left");
    EXPECT_EQ(pids(pool).size(), 2u);
    co_await pool.stop();
    const Failure stopped = co_await failure_of(pool.resize(1));
    EXPECT_EQ(stopped, Errc::stopping) << stopped;
    WorkerPool none;
    const Failure of_none = co_await failure_of(none.resize(1));
    EXPECT_EQ(of_none, Errc::not_running) << of_none;
  });
}

// A growth that is cancelled, or ended by another resize(), leaves the old workers; a stop ends it, too.
TEST_F(OneResize, CancelledGrowthLeavesThePoolAsItWas) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = call_pool(1, {"wait-if", folder.file("slow")});
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto before = pids(pool);
    std::ofstream(folder.file("slow")).close();
    const Task<void> resize(co_await asio::this_coro::executor, pool.resize(3));
    const bool begun = co_await soon([&] { return log.count(Event::Kind::spawned) == 3; });
    EXPECT_TRUE(begun);
    resize.cancel();
    const Failure failure = co_await resize.failure();
    EXPECT_TRUE(failure.aborted()) << failure;
    const bool dropped = co_await soon([&] { return log.count(Event::Kind::reaped) == 2; });
    EXPECT_TRUE(dropped);
    EXPECT_EQ(pids(pool), before);
    EXPECT_EQ(pool.stats().crashes, 0u);

    const Task<void> ended_by_another(co_await asio::this_coro::executor, pool.resize(2));
    const bool begun_again = co_await soon([&] { return log.count(Event::Kind::spawned) == 4; });
    EXPECT_TRUE(begun_again);
    co_await pool.resize(1);
    const Failure by_another = co_await ended_by_another.failure();
    EXPECT_TRUE(by_another.aborted()) << by_another;
    EXPECT_EQ(pids(pool), before);

    const Task<void> ended_by_stop(co_await asio::this_coro::executor, pool.resize(2));
    const bool begun_last = co_await soon([&] { return log.count(Event::Kind::spawned) == 5; });
    EXPECT_TRUE(begun_last);
    co_await pool.stop();
    const Failure by_stop = co_await ended_by_stop.failure();
    EXPECT_EQ(by_stop, Errc::stopping) << by_stop;
  });
}

// The first cancellation of the wait for removed workers terminates them.
TEST_F(OneResize, CancelledRemovalTerminatesTheWorkers) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    const auto told = std::make_shared<ReadPipe>();
    options.worker.command.out = told->stdio();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    const Task<std::string> one(here, pool.call<std::string>("nap", 60000, 0));
    const Task<std::string> two(here, pool.call<std::string>("nap", 60000, 0));
    co_await said(told, "napping");
    co_await said(told, "napping");
    const Task<void> resize(here, pool.resize(1));
    co_await pause_for(0ms);
    resize.cancel();
    const Failure failure = co_await resize.failure();
    EXPECT_TRUE(failure.aborted()) << failure;
    EXPECT_TRUE(one.done() != two.done()) << "the call of the removed worker has been cancelled";
    EXPECT_EQ(pids(pool).size(), 1u);
    one.cancel();
    two.cancel();
    co_await pool.stop();
  });
}

// A reload goes on while slots come and go.
TEST_F(OneResize, DuringAReload) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(4));
    const auto here = co_await asio::this_coro::executor;
    for (int round = 0; round < 5; ++round) {
      const auto before = pids(pool);
      const Task<drover::ReloadReport> reload(here, pool.reload());
      co_await pool.resize(2);
      co_await pool.resize(4);
      const drover::ReloadReport report = co_await reload.result();
      EXPECT_GE(report.replaced, 2u);
      EXPECT_FALSE(share_one(before, pids(pool)));
      EXPECT_EQ(pids(pool).size(), 4u);
    }
    EXPECT_EQ(pool.stats().crashes, 0u);
    co_await pool.stop();
  });
}

// A reload reaches a slot whose first worker is not ready yet, and its successor fails: the slot stays.
TEST_F(OneResize, OutlivesAReloadThatFailsInANewSlot) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = call_pool(1, {"wait-if", folder.file("slow")});
    options.worker.on_event = [handler = log.handler(), log, file = folder.file("broken")](const Event& event) {
      handler(event);
      // The first slot has its new worker: the next one does not start.
      if (event.kind == Event::Kind::ready && log.count(Event::Kind::ready) == 2) std::ofstream(file).close();
    };
    WorkerPool pool = co_await WorkerPool::start(options);
    std::ofstream(folder.file("slow")).close();
    const auto here = co_await asio::this_coro::executor;
    const Task<void> resize(here, pool.resize(2));
    const bool begun = co_await soon([&] { return log.count(Event::Kind::spawned) == 2; });
    EXPECT_TRUE(begun);
    Command command = options.worker.command;
    command.args = {"exit-if", folder.file("broken"), "9"};
    const Failure failure = co_await failure_of(pool.reload(command));
    EXPECT_TRUE(failure.exit && failure.exit->value == 9) << failure;
    EXPECT_EQ(log.count(Event::Kind::ready), 2u) << "it has failed in the new slot";
    std::filesystem::remove(folder.file("slow"));
    co_await resize.result();
    EXPECT_EQ(pids(pool).size(), 2u);
    co_await pool.stop();
  });
}

// A second resize() waits for the new workers of the first one that it keeps.
TEST_F(OneResize, LaterOneWaitsForWhatIsLeftOfTheFirst) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = call_pool(1, {"wait-if", folder.file("slow")});
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    std::ofstream(folder.file("slow")).close();
    const auto here = co_await asio::this_coro::executor;
    const Task<void> first(here, pool.resize(4));
    const bool begun = co_await soon([&] { return log.count(Event::Kind::spawned) == 4; });
    EXPECT_TRUE(begun);
    const Task<void> second(here, pool.resize(3));
    const Failure ended = co_await first.failure();
    EXPECT_TRUE(ended.aborted()) << ended;
    co_await pause_for(50ms);
    EXPECT_FALSE(second.done());
    std::filesystem::remove(folder.file("slow"));
    co_await second.result();
    EXPECT_EQ(pids(pool).size(), 3u);
    EXPECT_EQ(pool.stats().restarts, 0u);
    co_await pool.stop();
  });
}

// The slot that is removed has a predecessor that still drains: it has shutdown_grace as well.
TEST_F(OneResize, EndsThePredecessorsOfARemovedSlot) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    options.shutdown_grace = 100ms;
    const auto told = std::make_shared<ReadPipe>();
    options.worker.command.out = told->stdio();
    WorkerPool pool = co_await WorkerPool::start(options);
    std::vector<pid_t> by_slot(2);
    for (const auto& worker : pool.workers()) by_slot[worker.slot] = worker.pid;
    const auto here = co_await asio::this_coro::executor;
    const Task<std::string> one(here, pool.call<std::string>("nap", 60000, 0));
    const Task<std::string> two(here, pool.call<std::string>("nap", 60000, 0));
    co_await said(told, "napping");
    co_await said(told, "napping");
    const Task<drover::ReloadReport> reload(here, pool.reload());
    const bool first_replaced = co_await soon([&] { return pool.stats().restarts == 1; });
    EXPECT_TRUE(first_replaced);
    ::kill(by_slot[0], SIGKILL);  // or the reload would wait for its call
    const bool second_replaced = co_await soon([&] { return pool.stats().restarts == 2; });
    EXPECT_TRUE(second_replaced);
    co_await pool.resize(1);
    EXPECT_TRUE(gone(by_slot[1])) << "resize() returns when it has gone, too";
    const drover::ReloadReport report = co_await reload.result();
    EXPECT_GE(report.replaced, 1u);
    co_await pool.stop();
  });
}

// More than 1,048,576 workers are refused by resize() and by start().
TEST_F(OneResize, RefusesMoreThanAnyMachineHas) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(1));
    for (const std::size_t size : {std::size_t{1} << 21, std::numeric_limits<std::size_t>::max()}) {
      const Failure failure = co_await failure_of(pool.resize(size));
      EXPECT_TRUE(failure.argument && failure.text.find("1048576") != std::string::npos) << failure;
    }
    PoolOptions options = call_pool(std::size_t{1} << 21);
    const Failure at_start = co_await failure_of(WorkerPool::start(options));
    EXPECT_TRUE(at_start.argument && at_start.text.find("PoolOptions::size") != std::string::npos) << at_start;
    co_await pool.stop();
  });
}

// Workers get ready at any moment of a stop, on several threads: nothing keeps the context busy afterwards.
TEST_F(OneResize, RacesWithTheStop) {
  std::minstd_rand random(5);
  for (int round = 0; round < 30; ++round) {
    asio::thread_pool threads(3);
    PoolOptions options = call_pool(1);
    options.recycle.age = 1h;
    options.shutdown_grace = 0s;
    WorkerPool pool = asio::co_spawn(threads, WorkerPool::start(options), asio::use_future).get();
    asio::co_spawn(threads, pool.resize(6), asio::detached);
    asio::steady_timer pause(threads, std::chrono::microseconds(2000 + random() % 40000));
    pause.wait();
    asio::co_spawn(threads, pool.stop(), asio::use_future).get();
    threads.join();  // returns at once if no timer is left
  }
}

}  // namespace
