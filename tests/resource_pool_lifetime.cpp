// The pool, its leases and its context are destroyed in any order and in any state.

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/error.hpp>
#include <asio/execution_context.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/system_error.hpp>
#include <asio/thread_pool.hpp>

#include <drover/resource_pool.hpp>

#include "support/resource_pool_fixture.hpp"
#include "support/resource_pool_run.hpp"

namespace {

using namespace std::chrono_literals;
using pool_test::acquire_into;
using pool_test::breathe;
using pool_test::Ending;
using pool_test::Gate;
using pool_test::make_gate;
using pool_test::pass;
using pool_test::run;
using Value = std::shared_ptr<int>;
using Pool = drover::ResourcePool<std::string, Value>;

/// One key in each state, on a kind of context that the test chooses.
struct Scene {
  template <class Context, class Executor>
  void play(Context& context, const Executor& executor) {
    pool.emplace(
        executor,
        [this](const std::string& key) -> asio::awaitable<Value> {
          Value value = alive;  // in the frame as well
          if (key == "being made") {
            reached.fetch_add(1);
            asio::steady_timer timer(co_await asio::this_coro::executor, 1h);
            co_await timer.async_wait(asio::use_awaitable);
          }
          co_return value;
        },
        Pool::Options{.ttl = 1h, .finalizer = [this](Value& value) -> asio::awaitable<void> {
                        if (armed) ++finalizers;
                        const Value copy = value;
                        reached.fetch_add(1);
                        co_await pass(never);
                      }});
    auto body = [](Scene* self, Gate set) -> asio::awaitable<void> {
      {
        auto idle = co_await self->pool->acquire("idle");
      }
      self->lease = co_await self->pool->acquire("leased");
      {
        auto leaving = co_await self->pool->acquire("being finalized");
      }
      asio::co_spawn(co_await asio::this_coro::executor, self->pool->expire("being finalized"), asio::detached);
      asio::co_spawn(co_await asio::this_coro::executor, acquire_into(*self->pool, "being made", self->made),
                     asio::detached);
      asio::co_spawn(co_await asio::this_coro::executor, acquire_into(*self->pool, "being finalized", self->next),
                     asio::detached);
      set->set();
    };
    const Gate set = make_gate();
    asio::co_spawn(executor, body(this, set), asio::detached);
    if constexpr (requires { context.poll(); }) {
      context.poll();
    } else {
      while (reached.load() < 2 || !set->is_set()) std::this_thread::yield();
    }
    EXPECT_EQ(pool->stats().total_entries, 4u);
    EXPECT_EQ(pool->stats().referenced_entries, 1u);
    EXPECT_EQ(pool->stats().pending_cleanup, 2u);
    armed = true;
  }

  std::shared_ptr<int> alive = std::make_shared<int>(1);
  std::atomic<int> finalizers{0}, reached{0};
  std::atomic<bool> armed{false};  // from then on no finalizer may be called
  Gate never = make_gate();
  std::optional<Pool> pool;
  Pool::Lease lease, made, next;

  void expect_nothing_left() {
    for (Pool::Lease* held : {&lease, &made, &next}) *held = Pool::Lease{};
    pool.reset();
    EXPECT_EQ(finalizers, 0);
    EXPECT_EQ(alive.use_count(), 1) << "a value, or a frame, is left";
  }
};

template <class Context>
asio::any_io_executor strand_of(Context& context) {
  return asio::make_strand(context.get_executor());
}
template <class Context>
asio::any_io_executor plain_executor_of(Context& context) {
  return context.get_executor();
}

enum class First { context, pool, lease };

template <class Context>
void goes_first(First first, asio::any_io_executor (*executor_of)(Context&)) {
  Scene scene;
  {
    Context context;
    scene.play(context, executor_of(context));
    if (first == First::lease) scene.lease = Pool::Lease{};
    if (first != First::context) scene.pool.reset();
  }
  if (first == First::context) {
    EXPECT_EQ(scene.pool->stats().referenced_entries, 1u);
    EXPECT_TRUE(scene.pool->try_acquire("idle"));
    EXPECT_EQ(**scene.lease, 1);
  }
  if (first == First::pool) {
    EXPECT_EQ(**scene.lease, 1);  // still valid
  }
  scene.expect_nothing_left();
}

class ResourcePoolLifetime : public testing::TestWithParam<First> {};

TEST_P(ResourcePoolLifetime, EndsInAnyOrderOnAnIoContext) {
  goes_first<asio::io_context>(GetParam(), plain_executor_of);
}
TEST_P(ResourcePoolLifetime, EndsInAnyOrderOnAStrand) { goes_first<asio::io_context>(GetParam(), strand_of); }
TEST_P(ResourcePoolLifetime, EndsInAnyOrderOnAThreadPool) {
  goes_first<asio::thread_pool>(GetParam(), plain_executor_of);
}
TEST_P(ResourcePoolLifetime, EndsInAnyOrderOnAStrandOfAThreadPool) {
  goes_first<asio::thread_pool>(GetParam(), strand_of);
}

INSTANTIATE_TEST_SUITE_P(First, ResourcePoolLifetime, testing::Values(First::context, First::pool, First::lease));

TEST(ResourcePoolDestruction, ContextDropsPostedFactoryCalls) {
  int calls = 0;
  for (const bool on_strand : {false, true}) {
    Pool::Lease kept;
    std::optional<Pool> pool;
    {
      asio::io_context context;
      asio::io_context other;
      Pool before(context.get_executor(),
                  [](const std::string&) { return Value(); });  // its registry is older than the strand
      asio::any_io_executor executor = context.get_executor();
      if (on_strand) executor = asio::make_strand(context);
      pool.emplace(
          executor,
          [&](const std::string&) {
            ++calls;
            return Value();
          },
          Pool::Options{.ttl = 1h, .on_event = [](const Pool::Event&) {}});
      Ending here, there;
      asio::co_spawn(executor, acquire_into(*pool, "a", kept), here.handler());
      context.poll_one();
      asio::co_spawn(other, acquire_into(*pool, "b", kept), there.handler());
      other.poll();
      // Neither factory call has begun: the context is destroyed with both in its queue.
    }
    EXPECT_EQ(calls, 0);
    EXPECT_FALSE(kept);
    EXPECT_EQ(pool->stats().total_entries, 0u);
  }
}

// A strand is destroyed before drover's registry in its context. A coroutine that waits on the strand is destroyed when
// its wait ends, and its leases are released there.
TEST(ResourcePoolDestruction, ReleasesLeasesOfCoroutinesOnAStrand) {
  int finalized = 0;
  std::optional<Pool> pool;
  {
    asio::io_context context;
    Pool before(context.get_executor(), [](const std::string&) { return Value(); });
    const asio::any_io_executor strand = asio::make_strand(context);
    pool.emplace(
        strand, [](const std::string&) { return Value(); }, Pool::Options{.finalizer = [&](Value&) { ++finalized; }});
    bool waits = false;
    const auto hold_and_wait = [](Pool& from, bool& about_to) -> asio::awaitable<void> {
      const Pool::Lease held = co_await from.acquire("held");
      auto never_made = from.acquire("never made");
      about_to = true;
      const Pool::Lease none = co_await std::move(never_made);
    };
    asio::co_spawn(strand, hold_and_wait(*pool, waits), asio::detached);
    while (!waits) ASSERT_NE(context.poll_one(), 0u);
  }
  EXPECT_EQ(finalized, 0);
  EXPECT_EQ(pool->stats().total_entries, 0u);
}

TEST(ResourcePoolDestruction, ContextCompletesWaitersOnOtherContexts) {
  asio::io_context other;
  Ending acquiring, releasing;
  Pool::Lease lease, never_made;
  std::optional<Pool> pool;
  {
    asio::io_context context;
    const Gate gate = make_gate();
    pool.emplace(
        context.get_executor(),
        [&](const std::string& key) -> asio::awaitable<Value> {
          if (key == "b") co_await pass(gate);
          co_return std::make_shared<int>(1);
        },
        Pool::Options{.finalizer = [&](Value&) { return pass(gate); }});
    run(context, [&]() -> asio::awaitable<void> { lease = co_await pool->acquire("a"); });
    asio::co_spawn(other, lease.release(), releasing.handler());
    asio::co_spawn(other, acquire_into(*pool, "b", never_made), acquiring.handler());
    other.poll();
    context.restart();
    context.poll();
    EXPECT_FALSE(acquiring.ended || releasing.ended);
  }
  other.restart();
  other.run();  // would not return while one of them waits
  EXPECT_TRUE(releasing.ended);
  EXPECT_TRUE(acquiring.failed_with<asio::system_error>());
  EXPECT_EQ(pool->stats().total_entries, 0u);
  Ending late;
  asio::co_spawn(other, acquire_into(*pool, "c", never_made), late.handler());
  other.restart();
  other.run();
  EXPECT_TRUE(late.failed_with<asio::system_error>());
}

TEST(ResourcePoolDestruction, LeaseOutlivesThePoolUnfinalized) {
  asio::io_context context;
  int finalized = 0;
  auto value = std::make_shared<int>(1);
  Pool::Lease lease;
  {
    Pool pool(context.get_executor(), [&](const std::string&) { return value; },
              {.ttl = 1h, .finalizer = [&](Value&) { ++finalized; }});
    run(context, [&]() -> asio::awaitable<void> { lease = co_await pool.acquire("a"); });
  }
  EXPECT_EQ(**lease, 1);
  run(context, [&]() -> asio::awaitable<void> { co_await lease.release(); });
  EXPECT_EQ(finalized, 0);
  EXPECT_EQ(value.use_count(), 1);
}

TEST(ResourcePoolDestruction, DestroysValuesWithUndeliveredEvents) {
  asio::io_context context;
  const auto value = std::make_shared<int>(1);
  int events = 0;
  std::optional<Pool> pool;
  pool.emplace(
      context.get_executor(), [&](const std::string&) { return value; },
      Pool::Options{.ttl = 1h, .on_event = [&](const Pool::Event&) { ++events; }});
  run(context, [&]() -> asio::awaitable<void> { const auto lease = co_await pool->acquire("a"); });
  EXPECT_TRUE(pool->try_acquire("a"));  // "revived", which is not delivered yet
  pool.reset();
  EXPECT_EQ(value.use_count(), 1);
  context.restart();
  context.run();
  EXPECT_EQ(events, 1) << "a destroyed pool reports no event";
}

TEST(ResourcePoolDestruction, OfTheLastLeaseInsideOnEvent) {
  asio::io_context context;
  const auto value = std::make_shared<int>(1);
  Pool::Lease lease;
  bool dropped = false;
  Pool pool(context.get_executor(), [&](const std::string&) { return value; },
            {.ttl = 1h, .on_event = [&](const Pool::Event& event) {
               if (event.kind != Pool::Event::Kind::finalized) return;
               lease = Pool::Lease{};
               dropped = true;
               EXPECT_EQ(value.use_count(), 1) << "the value waits for the end of the delivery";
               EXPECT_EQ(event.key, "a");
             }});
  run(context, [&]() -> asio::awaitable<void> {
    lease = co_await pool.acquire("a");
    co_await pool.clear("a");
  });
  EXPECT_TRUE(dropped);
}

TEST(ResourcePoolDestruction, RunningFactoryStillServesItsWaiters) {
  asio::io_context context;
  const Gate gate = make_gate();
  std::optional<Pool> pool;
  pool.emplace(context.get_executor(), [&](const std::string&) -> asio::awaitable<Value> {
    co_await pass(gate);
    co_return std::make_shared<int>(5);
  });
  Pool::Lease lease;
  Ending ending;
  asio::co_spawn(context, acquire_into(*pool, "a", lease), ending.handler());
  context.poll();
  pool.reset();
  gate->set();
  context.restart();
  context.run();
  EXPECT_TRUE(ending.ended);
  EXPECT_EQ(**lease, 5);
}

}  // namespace
