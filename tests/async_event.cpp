#include <atomic>
#include <gtest/gtest.h>
#include <string>
#include <thread>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/strand.hpp>
#include <asio/thread_pool.hpp>

#include <drover/detail/context/async_event.hpp>

#include "support/own_context.hpp"

namespace {

using drover::detail::AsyncEvent;

struct Counts {
  std::atomic<int> ended{0}, aborted{0};
  auto counter() {
    return [this](std::exception_ptr failure) { ++(failure ? aborted : ended); };
  }
};

TEST(AsyncEvent, AlreadySetDoesNotSuspend) {
  auto event = std::make_shared<AsyncEvent>();
  event->set();
  asio::io_context context;
  Counts counts;
  asio::co_spawn(context, AsyncEvent::wait(event), counts.counter());
  context.run();
  EXPECT_EQ(counts.ended, 1);
}

TEST(AsyncEvent, AlreadySetMayResumeAfterPostedHandlers) {
  auto event = std::make_shared<AsyncEvent>();
  asio::io_context context;
  std::string order;
  auto body = [&]() -> asio::awaitable<void> {
    asio::post(context, [&] { order += "posted "; });
    event->set();
    co_await AsyncEvent::wait(event, AsyncEvent::Resume::posted);
    order += "told";
  };
  Counts counts;
  asio::co_spawn(context, body(), counts.counter());
  context.run();
  EXPECT_EQ(order, "posted told");
  EXPECT_EQ(counts.ended, 1);
}

TEST(AsyncEvent, CancellationOfOneWaiterLeavesTheOthers) {
  auto event = std::make_shared<AsyncEvent>();
  asio::io_context context;
  Counts counts;
  asio::cancellation_signal signal;
  asio::co_spawn(context, AsyncEvent::wait(event), counts.counter());
  asio::co_spawn(context, AsyncEvent::wait(event), asio::bind_cancellation_slot(signal.slot(), counts.counter()));
  context.poll();
  signal.emit(asio::cancellation_type::terminal);
  context.restart();
  context.poll();
  EXPECT_EQ(counts.aborted, 1);
  EXPECT_EQ(counts.ended, 0);
  std::thread setter([&] { event->set(); });
  context.restart();
  context.run();
  setter.join();
  EXPECT_EQ(counts.ended, 1);
}

TEST(AsyncEvent, WaiterKeepsItsContextRunning) {
  auto event = std::make_shared<AsyncEvent>();
  asio::io_context context;
  Counts counts;
  asio::co_spawn(context, AsyncEvent::wait(event), counts.counter());
  std::thread setter([&] { event->set(); });
  context.run();
  setter.join();
  EXPECT_EQ(counts.ended, 1);
}

// A copy of a tracking executor on the thread that sets the event could be the last work of the waiter's context, and
// end after that has been stopped and restarted: it would stop it again.
TEST(AsyncEvent, TheThreadThatSetsItHasNoWorkOfTheWaitersContext) {
  auto event = std::make_shared<AsyncEvent>();
  support::OwnContext context;
  Counts counts;
  asio::co_spawn(asio::any_io_executor(context.get_executor()), AsyncEvent::wait(event), counts.counter());
  while (context.poll()) {
  }
  EXPECT_NE(context.work(), 0);
  std::thread([&] { event->set(); }).join();
  EXPECT_EQ(context.tracked_from_elsewhere(), 0);
  EXPECT_NE(context.work(), 0) << "the context runs until the waiter is resumed";
  while (context.poll()) {
  }
  EXPECT_EQ(counts.ended, 1);
  EXPECT_EQ(context.work(), 0);
}

TEST(AsyncEvent, SetAndCancelAtOnceResumeAWaiterOnce) {
  for (int round = 0; round < 500; ++round) {
    auto event = std::make_shared<AsyncEvent>();
    asio::io_context context;
    Counts counts;
    asio::cancellation_signal signal;
    asio::co_spawn(context, AsyncEvent::wait(event), asio::bind_cancellation_slot(signal.slot(), counts.counter()));
    context.poll();
    std::thread setter([&] { event->set(); });
    asio::post(context, [&] { signal.emit(asio::cancellation_type::terminal); });
    context.restart();
    context.run();
    setter.join();
    EXPECT_EQ(counts.ended + counts.aborted, 1);
  }
}

// The frame of a suspended coroutine is destroyed with its context, on every kind of executor, and set() has no effect
// afterwards.
template <class Context, class Executor>
void dies_with_context(Executor (*executor_of)(Context&)) {
  auto event = std::make_shared<AsyncEvent>();
  auto alive = std::make_shared<int>();
  {
    Context context;
    auto park = [](std::shared_ptr<AsyncEvent> e, std::shared_ptr<int>) -> asio::awaitable<void> {
      co_await AsyncEvent::wait(std::move(e));
    };
    asio::co_spawn(executor_of(context), park(event, alive), asio::detached);
    if constexpr (requires { context.poll(); }) context.poll();
  }
  EXPECT_EQ(alive.use_count(), 1);
  event->set();
}

TEST(AsyncEvent, WaiterIsDestroyedWithAnIoContext) {
  dies_with_context<asio::io_context>(+[](asio::io_context& c) { return c.get_executor(); });
}
TEST(AsyncEvent, WaiterIsDestroyedWithAStrandsContext) {
  dies_with_context<asio::io_context>(+[](asio::io_context& c) { return asio::make_strand(c); });
}
TEST(AsyncEvent, WaiterIsDestroyedWithAThreadPool) {
  dies_with_context<asio::thread_pool>(+[](asio::thread_pool& c) { return c.get_executor(); });
}

TEST(AsyncEvent, SetMayRaceWithTheContextsDestruction) {
  for (int round = 0; round < 300; ++round) {
    auto event = std::make_shared<AsyncEvent>();
    std::thread setter;
    {
      asio::io_context context;
      for (int i = 0; i < 8; ++i) asio::co_spawn(context, AsyncEvent::wait(event), asio::detached);
      context.poll();
      setter = std::thread([&] { event->set(); });
    }
    setter.join();
  }
}

}  // namespace
