// WorkerPool::broadcast() with real workers.
#include <algorithm>
#include <cstddef>
#include <exception>
#include <gtest/gtest.h>
#include <signal.h>
#include <string>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>

#include "support/calls.hpp"
#include "support/elastic.hpp"

namespace {

using namespace support;
using drover::SlotResult;

class Broadcasts : public CallsAnywhere {};
class OneBroadcast : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, Broadcasts, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

/// No worker is replaced while a test runs.
PoolOptions pool_without_replacements(std::size_t size) {
  PoolOptions options = call_pool(size);
  options.restart.backoff = 60s;
  options.restart.max_backoff = 60s;
  return options;
}

// Each slot has its result or its error, in the order of the slots, though the workers have other calls.
TEST_P(Broadcasts, ReachEachWorkerOnce) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(4));
    const auto executor = co_await asio::this_coro::executor;
    int busy = 0;
    for (int i = 0; i < 6; ++i)
      asio::co_spawn(executor, pool.call<std::string>("slow_echo", "x", 20),
                     [&](const std::exception_ptr&, const std::string&) { ++busy; });
    const std::vector<SlotResult<int>> results = co_await pool.broadcast<int>("pid");
    EXPECT_EQ(results.size(), 4u);
    std::vector<pid_t> found;
    for (std::size_t slot = 0; slot < results.size(); ++slot) {
      EXPECT_EQ(results[slot].slot, slot);
      EXPECT_TRUE(results[slot].ok());
      found.push_back(results[slot].value());
    }
    std::sort(found.begin(), found.end());
    EXPECT_EQ(found, pids(pool));
    const std::vector<SlotResult<>> nothing = co_await pool.broadcast("nothing");
    EXPECT_EQ(nothing.size(), 4u);
    const std::vector<SlotResult<int>> errors = co_await pool.broadcast<int>({.deadline = 30s}, "throw_unusual", "no");
    EXPECT_EQ(errors.size(), 4u);
    for (const auto& result : errors) {
      EXPECT_FALSE(result.ok());
      EXPECT_THROW((void)result.value(), RemoteError);
    }
    const bool others = co_await soon([&] { return busy == 6; });
    EXPECT_TRUE(others);
    co_await pool.stop();
  });
}

// Each slot whose worker exits has that error; without any worker, or after a stop, broadcast() itself fails.
TEST_F(OneBroadcast, NamesTheSlotsWhoseWorkersDied) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(pool_without_replacements(3));
    const auto results = co_await pool.broadcast<unsigned>("exit_before_attempt", 2u);
    EXPECT_EQ(results.size(), 3u);
    for (const auto& result : results) EXPECT_TRUE(describe(result.error) == Errc::worker_exited);
    std::string text;
    try {
      co_await pool.broadcast("nothing");
    } catch (const Error& error) {
      text = error.what();
      EXPECT_EQ(error.code(), Errc::no_such_worker);
    }
    EXPECT_NE(text.find("no worker of the pool takes calls"), std::string::npos) << text;
    co_await pool.stop();
    Failure stopped;
    try {
      co_await pool.broadcast("nothing");
    } catch (...) {
      stopped = describe(std::current_exception());
    }
    EXPECT_TRUE(stopped == Errc::stopping) << stopped;
  });
}

// A slot whose worker has not been replaced yet has an error in the results.
TEST_F(OneBroadcast, NamesTheSlotsWithoutAWorker) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(pool_without_replacements(3));
    const auto workers = pool.workers();
    ::kill(workers[1].pid, SIGKILL);
    const bool dead = co_await soon([&] { return pool.workers().size() == 2; });
    EXPECT_TRUE(dead);
    const auto results = co_await pool.broadcast<int>("pid");
    EXPECT_EQ(results.size(), 3u);
    if (results.size() != 3) co_return;
    for (std::size_t slot = 0; slot < results.size(); ++slot) EXPECT_EQ(results[slot].slot, slot);
    EXPECT_TRUE(results[0].ok() && results[2].ok());
    const Failure failure = describe(results[1].error);
    EXPECT_TRUE(failure == Errc::not_running) << failure;
    EXPECT_NE(failure.text.find("slot 1 of the pool has no worker that takes calls"), std::string::npos)
        << failure.text;
    co_await pool.stop();
  });
}

// Some have begun, and some wait behind a call of their worker.
TEST_F(OneBroadcast, IsCancelledAsOne) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(3));
    const auto executor = co_await asio::this_coro::executor;
    for (int round = 0; round < 20; ++round) {
      asio::co_spawn(executor, pool.call<std::string>("slow_echo", "x", 5), asio::detached);
      asio::cancellation_signal signal;
      bool ended = false;
      asio::co_spawn(executor, pool.broadcast<std::string>("slow_echo", "y", 60'000),
                     asio::bind_cancellation_slot(signal.slot(), [&](const std::exception_ptr& thrown,
                                                                     const std::vector<SlotResult<std::string>>&) {
                       EXPECT_NE(thrown, nullptr);
                       ended = true;
                     }));
      co_await pause_for(std::chrono::milliseconds(round % 7));
      signal.emit(asio::cancellation_type::terminal);
      const bool over = co_await soon([&] { return ended; });
      EXPECT_TRUE(over);
    }
    const bool idle = co_await soon([&] { return pool.stats().in_flight == 0 && pool.stats().queued == 0; });
    EXPECT_TRUE(idle);
    co_await pool.stop();
  });
}

// A broadcast leaves out the slots of an elastic pool that need no worker at that moment.
TEST_F(OneBroadcast, ReachesTheWorkersThatAnElasticPoolNeeds) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(elastic_pool(1, 3, 60s));
    auto results = co_await pool.broadcast<int>("pid");
    EXPECT_EQ(results.size(), 1u);
    const auto here = co_await asio::this_coro::executor;
    Blockers blockers(here, pool, 2);
    co_await until_ready(pool, 2);
    co_await blockers.release_all();
    results = co_await pool.broadcast<int>("pid");
    EXPECT_EQ(results.size(), 2u);
    for (const auto& result : results) EXPECT_TRUE(result.ok()) << describe(result.error);
    co_await pool.stop();
  });
}

}  // namespace
