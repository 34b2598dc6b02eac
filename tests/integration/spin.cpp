// WorkerOptions::spin: both sides poll for a while, and then sleep.
#include <ctime>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <unistd.h>

#include <drover/detail/context/spin.hpp>

#include "support/calls.hpp"

namespace {

using namespace support;
using drover::detail::Spin;

constexpr Clock::time_point zero{};

TEST(SpinDecision, IsNeverWithoutALength) {
  Spin spin(0s);
  EXPECT_FALSE(spin.enabled());
  EXPECT_FALSE(spin.expect(zero));
}

TEST(SpinDecision, GoesOnUntilTheLengthHasPassed) {
  Spin spin(10ms);
  EXPECT_TRUE(spin.expect(zero));
  EXPECT_TRUE(spin.goes_on(zero + 9ms, true));
  EXPECT_FALSE(spin.goes_on(zero + 10ms, true));
  EXPECT_TRUE(spin.expect(zero + 11ms)) << "it begins anew";
}

TEST(SpinDecision, EndsWithTheMessage) {
  Spin spin(10ms);
  EXPECT_TRUE(spin.expect(zero));
  EXPECT_FALSE(spin.goes_on(zero + 1ms, false));
}

// A further call moves the end of the polling, and does not post the handler again.
TEST(SpinDecision, IsExtendedByAFurtherCall) {
  Spin spin(10ms);
  EXPECT_TRUE(spin.expect(zero));
  EXPECT_FALSE(spin.expect(zero + 5ms)) << "the handler is posted already";
  EXPECT_TRUE(spin.goes_on(zero + 12ms, true));
  spin.stop();
  EXPECT_TRUE(spin.expect(zero + 13ms));
}

TEST(SpinDecision, TakesTheLongestLength) {
  Spin spin(Duration::max());
  EXPECT_TRUE(spin.expect(Clock::now()));
  EXPECT_TRUE(spin.goes_on(Clock::now() + 1h, true));
}

/// CPU time of a process.
Duration cpu_time_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  text.erase(0, text.rfind(')') + 2);
  std::istringstream fields(text);
  std::string skipped;
  for (int i = 0; i < 11; ++i) fields >> skipped;
  long user = 0, system = 0;
  fields >> user >> system;
  return std::chrono::milliseconds((user + system) * 1000 / ::sysconf(_SC_CLK_TCK));
}
Duration cpu_time_of_this_thread() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

asio::awaitable<LocalWorker> started(WorkerOptions options) {
  LocalWorker worker(co_await asio::this_coro::executor, std::move(options));
  co_await worker.start(30s);
  co_return worker;
}

class SpinningWorker : public Calls {};

// A worker with a long spin polls after its first call, and one without never does.
TEST_F(SpinningWorker, PollsAfterACall) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerOptions options = call_worker();
    options.spin = 30s;
    LocalWorker spinning = co_await started(options);
    LocalWorker sleeping = co_await started(call_worker());
    const Duration before = cpu_time_of(spinning.pid()), before_sleeping = cpu_time_of(sleeping.pid());
    EXPECT_LT(before, 1s) << "it does not poll before its first call";
    co_await spinning.call<int>("square", 3);
    co_await sleeping.call<int>("square", 3);
    const bool polls = co_await soon([&] { return cpu_time_of(spinning.pid()) - before > 300ms; }, 30s);
    EXPECT_TRUE(polls);
    EXPECT_LT(cpu_time_of(sleeping.pid()) - before_sleeping, 150ms);
    const int nine = co_await spinning.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    co_await spinning.stop(5s);
    co_await sleeping.stop(5s);
  });
}

// After the time the worker sleeps: its CPU time stands still.
TEST_F(SpinningWorker, SleepsOnceTheTimeHasPassed) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerOptions options = call_worker();
    options.spin = 20ms;
    LocalWorker worker = co_await started(options);
    for (int i = 0; i < 100; ++i) co_await worker.call<int>("square", 3);
    const bool sleeps = co_await soon(
        [&, last = Duration(-1s), since_when = Clock::now()]() mutable {
          const Duration now = cpu_time_of(worker.pid());
          if (now != std::exchange(last, now)) since_when = Clock::now();
          return Clock::now() - since_when > 200ms;
        },
        30s);
    EXPECT_TRUE(sleeps);
    co_await worker.stop(5s);
  });
}

// The parent polls while a call is in flight, and runs its other handlers in between.
TEST_F(SpinningWorker, ParentPollsWhileACallIsInFlight) {
  on_one_thread([]() -> asio::awaitable<void> {
    for (const Duration spin : {Duration(0s), Duration(30s)}) {
      WorkerOptions options = call_worker();
      options.spin = spin;
      LocalWorker worker = co_await started(options);
      const Duration before = cpu_time_of_this_thread();
      auto slow = worker.call<std::string>("doze", 400);
      asio::steady_timer other(co_await asio::this_coro::executor, 100ms);
      const auto start = Clock::now();
      co_await other.async_wait(asio::use_awaitable);
      EXPECT_LT(since(start), 350ms) << "a timer was late";
      const std::string slept = co_await std::move(slow);
      EXPECT_EQ(slept, "slept");
      const Duration used = cpu_time_of_this_thread() - before;
      if (spin == Duration::zero())
        EXPECT_LT(used, 100ms);
      else
        EXPECT_GT(used, 50ms);
      const auto idle = cpu_time_of_this_thread();
      asio::steady_timer pause(co_await asio::this_coro::executor, 100ms);
      co_await pause.async_wait(asio::use_awaitable);
      EXPECT_LT(cpu_time_of_this_thread() - idle, 60ms) << "it polls without a call";
      co_await worker.stop(5s);
    }
  });
}

// Everything that ends a call ends it in a pool that polls, too.
TEST_F(SpinningWorker, PoolServesCancelsAndReplaces) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    options.spin = 1ms;
    options.restart.backoff = 1ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    for (int i = 0; i < 200; ++i) {
      const int square = co_await pool.call<int>("square", i);
      EXPECT_EQ(square, i * i);
    }
    const CallOptions bounded{.deadline = 50ms};
    const Failure late = co_await failure_of(pool.call<std::string>(bounded, "doze", 200));
    EXPECT_TRUE(late == Errc::deadline_exceeded) << late;
    const Failure crashed = co_await failure_of(pool.call("crash", SIGKILL));
    EXPECT_TRUE(crashed == Errc::worker_exited) << crashed;
    const int nine = co_await pool.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    co_await pool.stop();
  });
}

}  // namespace
