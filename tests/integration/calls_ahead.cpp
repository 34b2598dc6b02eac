// Calls that are sent ahead to a worker that runs another one, with real workers: what users notice of them is speed
// alone.
#include <algorithm>
#include <gtest/gtest.h>
#include <random>
#include <signal.h>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>

#include "support/callers.hpp"
#include "support/calls.hpp"

namespace {

using namespace support;

class CallsAhead : public Calls {};

// The worker is killed again and again while 16 calls wait. The one that it runs fails, the one behind it does not.
asio::awaitable<void> killed_under_load(std::size_t size) {
  PoolOptions options = call_pool(size);
  options.restart.backoff = 1ms;
  WorkerPool pool = co_await WorkerPool::start(options);
  constexpr int callers = 16, calls = 600, kills = 25;
  const auto tally = spawn_callers(co_await asio::this_coro::executor, pool, callers, calls);
  std::mt19937 random(3);
  int killed = 0;
  for (int next = 100; tally->left != 0; co_await pause_for(1ms)) {
    if (tally->good < next || killed == kills) continue;
    next = tally->good + 300;
    const auto workers = pool.workers();
    if (workers.empty() || ::kill(workers[random() % workers.size()].pid, SIGKILL) != 0) continue;
    ++killed;
  }
  EXPECT_GE(killed, 5);
  EXPECT_LE(tally->exited, killed) << "a death takes one call with it";
  EXPECT_EQ(tally->other, 0) << tally->text;
  EXPECT_EQ(tally->good + tally->exited, callers * calls);
  co_await pool.stop();
}
TEST_F(CallsAhead, DeathTakesOneCallWithItInAPoolOfOne) {
  on_one_thread([]() -> asio::awaitable<void> { co_await killed_under_load(1); });
}
TEST_F(CallsAhead, DeathTakesOneCallWithItInAPoolOfThree) {
  on_one_thread([]() -> asio::awaitable<void> { co_await killed_under_load(3); });
}
TEST_F(CallsAhead, DeathTakesOneCallWithItOnFourThreads) {
  on_four_threads([]() -> asio::awaitable<void> { co_await in_strand([] { return killed_under_load(2); }); });
}

// Crashes inside a routine: the call behind it has not begun.
TEST_F(CallsAhead, CrashTakesOnlyItsOwnCallWithIt) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.restart.backoff = 1ms;
    options.restart.max_restarts = 1000;
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto executor = co_await asio::this_coro::executor;
    for (int round = 0; round < 20; ++round) {
      const auto tally = spawn_callers(executor, pool, 4, 25);
      int crashed = 0;
      try {
        co_await pool.call<void>("crash", SIGABRT);
      } catch (const Error& error) {
        crashed = error.code() == Errc::worker_exited;
      }
      EXPECT_EQ(crashed, 1);
      while (tally->left != 0) co_await pause_for(1ms);
      EXPECT_EQ(tally->good, 100) << tally->exited << " exited, " << tally->other
                                  << " others; the last: " << tally->text;
    }
    co_await pool.stop();
  });
}

// One of two workers becomes busy for long. It gives back the call that was sent ahead.
asio::awaitable<void> beside_a_long_call(std::string routine) {
  WorkerPool pool = co_await WorkerPool::start(call_pool(2));
  const auto executor = co_await asio::this_coro::executor;
  for (int round = 0; round < 5; ++round) {
    const auto tally = spawn_callers(executor, pool, 8, 100);
    while (tally->good < 50) co_await pause_for(1ms);
    asio::cancellation_signal cancel;
    bool ended = false;
    const auto note = [&ended](std::exception_ptr, std::string) { ended = true; };
    auto long_call = routine == "doze" ? pool.call<std::string>(routine, 30000) : pool.call<std::string>(routine);
    asio::co_spawn(executor, std::move(long_call), asio::bind_cancellation_slot(cancel.slot(), note));
    while (tally->left != 0) co_await pause_for(1ms);
    EXPECT_EQ(tally->good, 800) << tally->exited << " exited, " << tally->other << " others; the last: " << tally->text;
    EXPECT_FALSE(ended) << "the others did not wait for it";
    cancel.emit(asio::cancellation_type::terminal);
    while (!ended || pool.stats().in_flight != 0) co_await pause_for(1ms);
  }
  co_await pool.stop();
}
TEST_F(CallsAhead, NoneWaitsBehindALongCoroutine) {
  on_one_thread([] { return beside_a_long_call("doze"); });
}
TEST_F(CallsAhead, NoneWaitsBehindALongPlainRoutine) {
  on_one_thread([] { return beside_a_long_call("until_stopped"); });
}

// Coroutine routines would overlap if the worker began what it has received.
TEST_F(CallsAhead, NeverRunsBesideTheOneBefore) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(1));
    const auto executor = co_await asio::this_coro::executor;
    const auto tally = spawn_callers(executor, pool, 4, 200);
    int most = 0, left = 8;
    for (int i = 0; i < 8; ++i)
      asio::co_spawn(
          executor,
          [](WorkerPool& calls, int& seen, int& running) -> asio::awaitable<void> {
            for (int n = 0; n < 20; ++n) {
              const int at_once = co_await calls.call<int>("overlap");
              seen = std::max(seen, at_once);
            }
            --running;
          }(pool, most, left),
          asio::detached);
    while (tally->left != 0 || left != 0) co_await pause_for(1ms);
    EXPECT_EQ(most, 1) << "max_in_flight is 1";
    EXPECT_EQ(tally->good, 800);
    co_await pool.stop();
  });
}

// A stop under load: each worker finishes the calls that it has, and none is lost.
TEST_F(CallsAhead, StopUnderLoadLosesNone) {
  on_one_thread([]() -> asio::awaitable<void> {
    for (int round = 0; round < 20; ++round) {
      WorkerPool pool = co_await WorkerPool::start(call_pool(2));
      const auto tally = spawn_callers(co_await asio::this_coro::executor, pool, 12, 1000000);
      while (tally->good < 100 + 37 * round) co_await pause_for(1ms);
      // Each caller ends with the stop: its next calls are refused at once.
      co_await pool.stop();
      EXPECT_EQ(tally->exited + tally->other, 0) << tally->text;
      EXPECT_EQ(pool.stats().in_flight, 0u);
      EXPECT_EQ(pool.stats().queued, 0u);
      while (tally->left != 0) co_await pause_for(1ms);
    }
  });
}

}  // namespace
