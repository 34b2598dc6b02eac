// The timer of the idle values does not count as work.

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <future>
#include <gtest/gtest.h>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/execution.hpp>
#include <asio/execution_context.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/system_executor.hpp>
#include <asio/thread_pool.hpp>

#include <drover/resource_pool.hpp>

#include "support/resource_pool_run.hpp"

namespace {

using namespace std::chrono_literals;
using pool_test::run;
using Value = std::shared_ptr<int>;
using Pool = drover::ResourcePool<std::string, Value>;

TEST(ResourcePoolTimer, RunReturnsAtOnceAndExpiresEntriesLater) {
  for (const bool on_strand : {false, true}) {
    asio::io_context context;
    asio::any_io_executor executor = context.get_executor();
    if (on_strand) executor = asio::make_strand(context);
    int finalized = 0;
    Pool pool(executor, [](const std::string&) { return Value(); },
              {.ttl = 200ms, .finalizer = [&](Value&) { ++finalized; }});
    const auto begun = drover::Clock::now();
    run(context, [&]() -> asio::awaitable<void> { auto lease = co_await pool.acquire("a"); });
    EXPECT_LT(drover::Clock::now() - begun, 200ms);
    EXPECT_EQ(finalized, 0);
    EXPECT_EQ(pool.stats().pending_cleanup, 1u);
    run(context, [&]() -> asio::awaitable<void> {
      asio::steady_timer timer(context, 400ms);
      co_await timer.async_wait(asio::use_awaitable);
    });
    EXPECT_EQ(finalized, 1);
  }
}

TEST(ResourcePoolTimer, ArmedOnAnotherThreadKeepsNothingRunning) {
  asio::io_context context;
  Pool pool(context.get_executor(), [](const std::string&) { return Value(); }, {.ttl = 60s});
  Pool::Lease lease;
  run(context, [&]() -> asio::awaitable<void> { lease = co_await pool.acquire("a"); });
  std::thread([&] { lease = Pool::Lease{}; }).join();
  const auto begun = drover::Clock::now();
  context.restart();
  context.run();
  EXPECT_LT(drover::Clock::now() - begun, 1500ms);
  // All values stay idle: there is no work, so run() does not even begin.
  context.restart();
  EXPECT_EQ(context.run(), 0u);
}

TEST(ResourcePoolTimer, JoinReturnsAtOnceWithIdleEntries) {
  for (const bool on_strand : {false, true}) {
    asio::thread_pool threads(2);
    asio::any_io_executor executor = threads.get_executor();
    if (on_strand) executor = asio::make_strand(threads);
    Pool pool(executor, [](const std::string&) { return Value(); }, {.ttl = 60s});
    asio::co_spawn(
        executor, [](Pool& p) -> asio::awaitable<void> { auto lease = co_await p.acquire("a"); }(pool), asio::detached);
    const auto begun = drover::Clock::now();
    threads.join();
    EXPECT_LT(drover::Clock::now() - begun, 1500ms);
    EXPECT_EQ(pool.stats().pending_cleanup, 1u);
  }
}

TEST(ResourcePoolTimer, ExpiresOnAThreadPoolWithoutOtherWork) {
  asio::thread_pool threads(2);
  std::promise<void> finalized;
  Pool pool(threads.get_executor(), [](const std::string&) { return Value(); },
            {.ttl = 20ms, .finalizer = [&](Value&) { finalized.set_value(); }});
  asio::co_spawn(
      threads, [](Pool& p) -> asio::awaitable<void> { auto lease = co_await p.acquire("a"); }(pool), asio::detached);
  EXPECT_EQ(finalized.get_future().wait_for(10s), std::future_status::ready);
  threads.join();
}

TEST(ResourcePoolTimer, ExpiresOnTheSystemContext) {
  std::promise<void> finalized;
  Pool pool(asio::system_executor(), [](const std::string&) { return Value(); },
            {.ttl = 20ms, .finalizer = [&](Value&) { finalized.set_value(); }});
  asio::co_spawn(
      asio::system_executor(), [](Pool& p) -> asio::awaitable<void> { auto lease = co_await p.acquire("a"); }(pool),
      asio::detached);
  EXPECT_EQ(finalized.get_future().wait_for(10s), std::future_status::ready);
}

/// A context that is not one of Asio's: poll() runs the functions that were executed before, and work() counts its
/// work.
class OwnContext : public asio::execution_context {
 public:
  class Executor {
   public:
    Executor(OwnContext* context, bool tracks) : context_(context), tracks_(tracks) { count(1); }
    Executor(const Executor& other) noexcept : Executor(other.context_, other.tracks_) {}
    Executor& operator=(const Executor&) = delete;
    ~Executor() { count(-1); }

    asio::execution_context& query(asio::execution::context_t) const noexcept { return *context_; }
    static constexpr asio::execution::blocking_t query(asio::execution::blocking_t) noexcept {
      return asio::execution::blocking.never;
    }
    Executor require(asio::execution::blocking_t::never_t) const noexcept { return *this; }
    Executor require(asio::execution::outstanding_work_t::tracked_t) const noexcept { return {context_, true}; }
    Executor require(asio::execution::outstanding_work_t::untracked_t) const noexcept { return {context_, false}; }
    asio::execution::outstanding_work_t query(asio::execution::outstanding_work_t) const noexcept {
      if (tracks_) return asio::execution::outstanding_work.tracked;
      return asio::execution::outstanding_work.untracked;
    }
    template <class F>
    void execute(F function) const {
      auto shared = std::make_shared<F>(std::move(function));
      const std::lock_guard held(context_->mutex_);
      context_->queue_.push_back([shared] { std::move (*shared)(); });
    }
    bool operator==(const Executor& other) const noexcept = default;

   private:
    void count(int by) const noexcept {
      if (tracks_) context_->work_ += by;
    }
    OwnContext* context_;
    bool tracks_;
  };

  OwnContext() = default;
  ~OwnContext() {
    shutdown();
    queue_.clear();
    destroy();
  }

  Executor get_executor() { return {this, false}; }
  int work() const { return work_; }
  /// Runs the functions that are queued by now.
  bool poll() {
    std::deque<std::function<void()>> ready;
    {
      const std::lock_guard held(mutex_);
      ready.swap(queue_);
    }
    for (auto& function : ready) function();
    return !ready.empty();
  }

 private:
  std::mutex mutex_;
  std::deque<std::function<void()>> queue_;
  std::atomic<int> work_ = 0;
};

TEST(ResourcePoolTimer, ExpiresOnACustomContextWithoutWork) {
  OwnContext context;
  int finalized = 0;
  const auto main_thread = std::this_thread::get_id();
  Pool pool(context.get_executor(), [](const std::string&) { return Value(); }, {.ttl = 50ms, .finalizer = [&](Value&) {
                                                                                   EXPECT_EQ(std::this_thread::get_id(),
                                                                                             main_thread);
                                                                                   ++finalized;
                                                                                 }});
  asio::co_spawn(
      asio::any_io_executor(context.get_executor()),
      [](Pool& p) -> asio::awaitable<void> { auto lease = co_await p.acquire("a"); }(pool), asio::detached);
  while (context.poll()) {
  }
  EXPECT_EQ(pool.stats().pending_cleanup, 1u);
  EXPECT_EQ(context.work(), 0);
  const auto begun = drover::Clock::now();
  while (finalized == 0 && drover::Clock::now() - begun < 10s) context.poll();
  EXPECT_EQ(finalized, 1);
}

// Pools that are created and destroyed, with timers armed from inside and outside, must not change the count of work.
TEST(ResourcePoolTimer, ManyPoolsDoNotChangeTheCountOfWork) {
  for (int round = 0; round < 30; ++round) {
    asio::io_context context(3);
    std::atomic<int> done = 0;
    {
      std::vector<std::unique_ptr<Pool>> pools;
      for (int i = 0; i < 12; ++i)
        pools.push_back(std::make_unique<Pool>(
            context.get_executor(), [](const std::string&) { return Value(); },
            Pool::Options{.ttl = (i % 3) * 1ms + 1us}));
      for (auto& pool : pools)
        asio::co_spawn(
            context,
            [](Pool& p, std::atomic<int>& d) -> asio::awaitable<void> {
              for (int i = 0; i < 5; ++i) {
                auto lease = co_await p.acquire("a");
                co_await lease.release();
                asio::steady_timer timer(co_await asio::this_coro::executor, 500us);
                co_await timer.async_wait(asio::use_awaitable);
              }
              ++d;
            }(*pool, done),
            asio::detached);
      std::vector<std::thread> threads;
      for (int i = 0; i < 3; ++i) threads.emplace_back([&] { context.run(); });
      for (auto& thread : threads) thread.join();
      EXPECT_EQ(done, 12);  // run() did not return too early
    }
  }
}

}  // namespace
