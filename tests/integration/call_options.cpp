// CallOptions with real workers: run_for, retry, key, priority, when_full.
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <set>
#include <signal.h>
#include <string>
#include <vector>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>

#include "support/calls.hpp"
#include "support/fleet.hpp"

namespace {

using namespace support;
using drover::CallOptions;
using drover::WhenFull;

class OptionsOfCalls : public CallsAnywhere {};
class OptionsOfOneCall : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, OptionsOfCalls,
                         ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools), name_of);

PoolOptions quick_pool(std::size_t size) {
  PoolOptions options = call_pool(size);
  options.restart.backoff = 1ms;
  options.restart.max_restarts = 10'000;
  return options;
}

template <class R, class... A>
asio::awaitable<Failure> failure_of(WorkerPool& pool, CallOptions options, std::string routine, A... arguments) {
  try {
    co_await pool.call<R>(options, routine, arguments...);
  } catch (...) {
    co_return describe(std::current_exception());
  }
  co_return Failure{};
}

// ---- run_for --------------------------------------------------------------------------------------------------------

// A routine knows what is left of run_for. A coroutine or a plain function that takes longer fails its call.
TEST_P(OptionsOfCalls, RunForBoundsARoutineOfAnyKind) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(1));
    const auto left = co_await pool.call<std::chrono::milliseconds>({.run_for = 10s}, "left");
    EXPECT_GT(left, 5s);
    EXPECT_LE(left, 10s);
    const auto least = co_await pool.call<std::chrono::milliseconds>({.deadline = 5s, .run_for = 10s}, "left");
    EXPECT_LE(least, 5s);
    const std::string text = co_await pool.call<std::string>({.run_for = 10s}, "slow_echo", "hello", 1);
    EXPECT_EQ(text, "hello");
    const auto begin = Clock::now();
    const Failure coroutine = co_await failure_of<std::string>(pool, {.run_for = 30ms}, "slow_echo", "x", 60'000);
    EXPECT_TRUE(coroutine == Errc::deadline_exceeded) << coroutine.text;
    EXPECT_NE(coroutine.text.find("run_for"), std::string::npos) << coroutine.text;
    const Failure plain = co_await failure_of<void>(pool, {.run_for = 30ms, .kill_after = 10ms}, "nap_long");
    EXPECT_TRUE(plain == Errc::deadline_exceeded) << plain.text;
    EXPECT_LT(Clock::now() - begin, 20s);
    const int nine = co_await pool.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    co_await pool.stop();
  });
}

// In a worker with several calls the second routine waits for longer than it may run.
TEST_P(OptionsOfCalls, RunForBeginsBehindAPlainRoutine) {
  run_in_strand([]() -> asio::awaitable<void> {
    PoolOptions options = quick_pool(1);
    options.worker.max_in_flight = 4;
    WorkerPool pool = co_await WorkerPool::start(options);
    asio::awaitable<std::string> first = pool.call<std::string>("nap_once", 600);
    const std::string slept = co_await pool.call<std::string>({.run_for = 500ms}, "nap_once", 20);
    EXPECT_EQ(slept, "slept");
    const std::string before = co_await std::move(first);
    EXPECT_EQ(before, "slept");
    const Failure coroutine = co_await failure_of<std::string>(pool, {.run_for = 30ms}, "slow_echo", "x", 60'000);
    EXPECT_TRUE(coroutine == Errc::deadline_exceeded) << coroutine.text;
    // One that never lets the worker's loop go on, in either kind of routine.
    const Failure plain = co_await failure_of<void>(pool, {.run_for = 30ms, .kill_after = 10ms}, "nap_once", 60'000);
    EXPECT_TRUE(plain == Errc::deadline_exceeded) << plain.text;
    const bool replaced = co_await soon([&] { return pool.stats().restarts == 1 && pool.stats().ready == 1; });
    EXPECT_TRUE(replaced);
    const Failure busy = co_await failure_of<void>(pool, {.run_for = 30ms, .kill_after = 10ms}, "block_in_coroutine");
    EXPECT_TRUE(busy == Errc::deadline_exceeded) << busy.text;
    co_await pool.stop();
  });
}

// ---- retry ----------------------------------------------------------------------------------------------------------

// The call succeeds in whatever attempt its worker does not exit; the last attempt's failure is that of the call.
TEST_P(OptionsOfCalls, RetryOutlivesWorkersThatExit) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(2));
    for (const unsigned wanted : {1u, 2u, 4u}) {
      const unsigned attempt =
          co_await pool.call<unsigned>({.retry = {.attempts = 4, .backoff = 1ms}}, "exit_before_attempt", wanted);
      EXPECT_EQ(attempt, wanted);
    }
    const Failure failure = co_await failure_of<unsigned>(pool, {.retry = {.attempts = 3}}, "exit_before_attempt", 9u);
    EXPECT_TRUE(failure == Errc::worker_exited) << failure.text;
    EXPECT_NE(failure.text.find("code 9"), std::string::npos) << failure.text;
    const unsigned once = co_await pool.call<unsigned>("attempt");
    EXPECT_EQ(once, 1u);
    co_await pool.stop();
  });
}

// Each attempt has the whole argument, moved in or borrowed.
TEST_F(OptionsOfOneCall, RetryKeepsWhatWasMovedInAndBorrowed) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(2));
    const std::string lent(3 << 20, 'l');
    // Both workers are killed while the call is sent or runs.
    for (int round = 0; round < 10; ++round) {
      for (const auto& worker : pool.workers()) ::kill(worker.pid, SIGKILL);
      std::string moved(1 << 20, 'm');
      const std::string reply =
          co_await pool.call<std::string>({.retry = {.attempts = 20, .backoff = 2ms}}, "echo", std::move(moved));
      EXPECT_EQ(reply.size(), 1u << 20);
      for (const auto& worker : pool.workers()) ::kill(worker.pid, SIGKILL);
      const std::string again =
          co_await pool.call<std::string>({.retry = {.attempts = 20, .backoff = 2ms}}, "echo", drover::borrow(lent));
      EXPECT_EQ(again.size(), lent.size());
    }
    co_await pool.stop();
  });
}

/// Counts the results of calls that are retried while workers are killed.
asio::awaitable<void> call_with_retry(WorkerPool* pool, int calls, int* good, int* left) {
  for (int i = 0; i < calls; ++i) {
    try {
      const int square = co_await pool->call<int>({.deadline = 60s, .retry = {.attempts = 50}}, "square", i);
      *good += square == i * i;
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
  }
  --*left;
}

TEST_P(OptionsOfCalls, RetryLosesNoCallWhileWorkersAreKilled) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(3));
    const auto executor = co_await asio::this_coro::executor;
    constexpr int callers = 8, calls = 150;
    int good = 0, left = callers;
    for (int i = 0; i < callers; ++i)
      asio::co_spawn(executor, call_with_retry(&pool, calls, &good, &left), asio::detached);
    std::mt19937 random(11);
    while (left != 0) {
      const auto workers = pool.workers();
      if (!workers.empty()) ::kill(workers[random() % workers.size()].pid, SIGKILL);
      // As fast as the machine starts workers: otherwise none would live long enough to answer.
      const int before = good;
      const bool goes_on = co_await soon([&] { return good >= before + 20 || left == 0; });
      EXPECT_TRUE(goes_on);
    }
    EXPECT_EQ(good, callers * calls);
    co_await pool.stop();
  });
}

// A call that waits 30 s for its next attempt ends with the stop of its pool.
TEST_F(OptionsOfOneCall, RetryEndsWithItsPool) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(1));
    const auto executor = co_await asio::this_coro::executor;
    std::optional<Failure> failure;
    asio::co_spawn(executor,
                   failure_of<unsigned>(pool, {.retry = {.attempts = 1000, .backoff = 30s}}, "exit_before_attempt", 9u),
                   [&](const std::exception_ptr&, Failure how) { failure = std::move(how); });
    const bool rests = co_await soon([&] { return pool.stats().crashes == 1 && pool.stats().queued == 1; });
    EXPECT_TRUE(rests);
    co_await pool.stop();
    const bool ended = co_await soon([&] { return failure.has_value(); });
    EXPECT_TRUE(ended && *failure == Errc::stopping) << failure->text;
  });
}

// ---- key ------------------------------------------------------------------------------------------------------------

TEST_P(OptionsOfCalls, KeyStaysWithItsWorkerWhileThatLives) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(3));
    std::map<std::string, int> homes;
    std::set<int> killed, used;  // used: before the first was killed
    std::mt19937 random(13);
    for (int round = 0; round < 300; ++round) {
      const std::string key = "key " + std::to_string(random() % 20);
      const int pid = co_await pool.call<int>({.retry = {.attempts = 50, .backoff = 1ms}, .key = key}, "pid");
      const auto home = homes.emplace(key, pid).first;
      EXPECT_TRUE(home->second == pid || killed.count(home->second) != 0) << "its worker still lives";
      home->second = pid;
      if (killed.empty()) used.insert(pid);
      if (round % 100 == 99 && killed.insert(pid).second) ::kill(pid, SIGKILL);
    }
    EXPECT_FALSE(killed.empty());
    EXPECT_EQ(used.size(), 3u) << "keys are shared out at first";
    co_await pool.stop();
  });
}

// After three deaths calls with the key are refused and others are not; after poison_for they succeed again.
TEST_P(OptionsOfCalls, KeyIsPoisonedByTheWorkersThatItKills) {
  run_in_strand([]() -> asio::awaitable<void> {
    PoolOptions options = quick_pool(2);
    options.poison_for = 100ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    for (int death = 0; death < 3; ++death) {
      const Failure failure = co_await failure_of<void>(pool, {.key = "bad"}, "exit", 3);
      EXPECT_TRUE(failure == Errc::worker_exited) << failure.text;
    }
    const Failure poisoned = co_await failure_of<int>(pool, {.key = "bad"}, "square", 2);
    EXPECT_TRUE(poisoned == Errc::poisoned) << poisoned.text;
    const int good = co_await pool.call<int>({.key = "good"}, "square", 2);
    EXPECT_EQ(good, 4);
    bool recovered = false;
    for (const auto until = Clock::now() + 10s; !recovered && Clock::now() < until; co_await pause_for(5ms)) {
      const Failure failure = co_await failure_of<int>(pool, {.key = "bad"}, "square", 2);
      recovered = !failure;
    }
    EXPECT_TRUE(recovered);
    co_await pool.stop();
  });
}

// A reload fails no call that has a key, and later calls with the key have another worker.
TEST_F(OptionsOfOneCall, KeysOfWorkersThatAreReplacedMove) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(2));
    const auto executor = co_await asio::this_coro::executor;
    const int before = co_await pool.call<int>({.key = "k"}, "pid");
    int waiting = 10;
    for (int i = 0; i < 10; ++i)
      asio::co_spawn(executor, pool.call<std::string>({.key = "k"}, "slow_echo", "x", 5),
                     [&](const std::exception_ptr& thrown, const std::string&) {
                       EXPECT_EQ(thrown, nullptr);
                       --waiting;
                     });
    co_await pool.reload();
    const bool all = co_await soon([&] { return waiting == 0; });
    EXPECT_TRUE(all);
    const int after = co_await pool.call<int>({.key = "k"}, "pid");
    EXPECT_NE(after, before);
    co_await pool.stop();
  });
}

// ---- priority and when_full -----------------------------------------------------------------------------------------

// Calls that wait for one worker run in the order of their priorities, and in turn where these are equal.
TEST_F(OptionsOfOneCall, UrgentCallOvertakesThoseThatWait) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    WorkerPool pool = co_await WorkerPool::start(quick_pool(1));
    const auto executor = co_await asio::this_coro::executor;
    int left = 0;
    const auto append = [&](unsigned priority, int number) {
      ++left;
      asio::co_spawn(executor, pool.call<void>({.priority = priority}, "append", folder.file("order"), number),
                     [&](const std::exception_ptr&) { --left; });
    };
    append(1, 0);
    for (int i = 10; i < 15; ++i) append(1, i);
    append(0, 20);
    append(3, 1);
    append(2, 2);
    const bool all = co_await soon([&] { return left == 0; });
    EXPECT_TRUE(all);
    EXPECT_EQ(folder.numbers("order"), (std::vector{0, 1, 2, 10, 11, 12, 13, 14, 20}));
    co_await pool.stop();
  });
}

// The queue has room for two. At least 20 calls of 40 succeed, because 20 wait for room.
TEST_P(OptionsOfCalls, WaitForRoomInAFullQueue) {
  run_in_strand([]() -> asio::awaitable<void> {
    PoolOptions options = quick_pool(1);
    options.max_queued = 2;
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto executor = co_await asio::this_coro::executor;
    int good = 0, overloaded = 0;
    for (int i = 0; i < 40; ++i)
      asio::co_spawn(executor,
                     pool.call<int>({.when_full = i % 2 == 0 ? WhenFull::wait : WhenFull::refuse}, "square", i),
                     [&](const std::exception_ptr& thrown, int) {
                       if (!thrown)
                         ++good;
                       else
                         overloaded += describe(thrown) == Errc::overloaded;
                     });
    const bool all = co_await soon([&] { return good + overloaded == 40; });
    EXPECT_TRUE(all);
    EXPECT_GE(good, 20);
    EXPECT_GE(overloaded, 1);
    co_await pool.stop();
  });
}

// ---- bad options ----------------------------------------------------------------------------------------------------

TEST_F(OptionsOfOneCall, OutOfRangeAreErrorsThatNameThem) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(1));
    const std::vector<std::pair<CallOptions, std::string>> bad{{{.run_for = -1ms}, "CallOptions::run_for"},
                                                               {{.retry = {.attempts = 0}}, "Retry::attempts"},
                                                               {{.retry = {.backoff = -1ms}}, "Retry::backoff"},
                                                               {{.key = std::string(1 << 20, 'k')}, "CallOptions::key"},
                                                               {{.priority = 4}, "CallOptions::priority"}};
    for (const auto& [options, name] : bad) {
      const Failure failure = co_await failure_of<int>(pool, options, "square", 2);
      EXPECT_NE(failure.text.find(name), std::string::npos) << failure.text;
    }
    const int four = co_await pool.call<int>("square", 2);
    EXPECT_EQ(four, 4);
    co_await pool.stop();
  });
}

}  // namespace
