// A clear() of many keys returns at once; its values end in pieces. Whatever happens to a key between is as if all
// values had begun to end at the call.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <gtest/gtest.h>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>

#include <drover/detail/resource_pool/ending_entries.hpp>
#include <drover/detail/resource_pool/event_chain.hpp>
#include <drover/resource_pool.hpp>

#include "support/resource_pool_fixture.hpp"
#include "support/resource_pool_run.hpp"

namespace {

using namespace std::chrono_literals;
using pool_test::acquire_into;
using pool_test::Ending;
using pool_test::Gate;
using pool_test::make_gate;
using pool_test::pass;
using pool_test::run;
using Value = std::shared_ptr<int>;
using Pool = drover::ResourcePool<int, Value>;

constexpr int keys = 5'000;  // far more than a piece

/// A pool with as many idle keys, except the last three: one is leased, one discarded, one being created.
struct Many {
  explicit Many(bool with_finalizer, bool with_events = false) {
    Pool::Options options;
    options.ttl = 1h;
    if (with_finalizer) options.finalizer = [this](Value&) { ++finalized; };
    if (with_events) options.on_event = [this](const Pool::Event& event) { events.push_back(event.kind); };
    pool.emplace(
        context->get_executor(),
        [this](int key) -> asio::awaitable<Value> {
          const Value value = alive;  // in the frame as well
          if (key == being_created) co_await pass(gate);
          co_return value;
        },
        std::move(options));
    run(*context, [&]() -> asio::awaitable<void> {
      for (int key = 0; key < leased_key; ++key) const auto lease = co_await pool->acquire(key);
      leased = co_await pool->acquire(leased_key);
      discarded = co_await pool->acquire(discarded_key);
      discarded.discard();
    });
    asio::co_spawn(*context, acquire_into(*pool, being_created, created), creation.handler());
    turn();
  }

  void turn() {
    context->restart();
    context->poll();
  }
  void clear() { asio::co_spawn(*context, pool->clear(), clearing.handler()); }
  long values() const { return alive.use_count() - 1; }

  static constexpr int leased_key = keys - 3, discarded_key = keys - 2, being_created = keys - 1;

  std::shared_ptr<int> alive = std::make_shared<int>(1);
  int finalized = 0;
  std::vector<Pool::Event::Kind> events;
  Gate gate = make_gate();
  Ending clearing, creation;
  std::optional<asio::io_context> context{std::in_place};
  std::optional<Pool> pool;
  Pool::Lease leased, discarded, created;
};

class ResourcePoolClearMany : public testing::TestWithParam<bool> {};

TEST_P(ResourcePoolClearMany, CountsAllKeysAtTheCall) {
  Many many(GetParam());
  const auto before = many.pool->stats();
  EXPECT_EQ(before.total_entries, static_cast<std::size_t>(keys));
  EXPECT_EQ(before.referenced_entries, 2u);
  auto clearing = many.pool->clear();
  const auto stats = many.pool->stats();
  EXPECT_EQ(stats.referenced_entries, 0u);
  EXPECT_EQ(stats.pending_cleanup, stats.total_entries - 1) << "all but the one being created";
  EXPECT_EQ(many.pool->pending_cleanup().size(), stats.pending_cleanup);
}

TEST_P(ResourcePoolClearMany, WaitsForEveryValue) {
  Many many(GetParam());
  many.clear();
  many.turn();
  EXPECT_FALSE(many.clearing.ended) << "a value is still being created";
  EXPECT_EQ(many.pool->stats().total_entries, 1u);
  many.gate->set();
  many.turn();
  EXPECT_TRUE(many.clearing.ended);
  EXPECT_TRUE(many.creation.ended) << "the value was created again";
  EXPECT_TRUE(many.created);
  EXPECT_EQ(many.values(), 3) << "the leased ones";
  EXPECT_EQ(many.pool->stats().total_entries, 1u);
  if (GetParam()) {
    EXPECT_EQ(many.finalized, keys);
  }
}

TEST_P(ResourcePoolClearMany, KeysAreNewAfterTheCall) {
  Many many(GetParam());
  auto clearing = many.pool->clear();
  for (int key = 0; key < Many::leased_key; ++key) EXPECT_FALSE(many.pool->try_acquire(key));
  std::vector<Pool::Lease> leases(static_cast<std::size_t>(keys));
  std::vector<Ending> acquired(static_cast<std::size_t>(keys));
  for (int key = 0; key < Many::leased_key; key += 7)
    asio::co_spawn(*many.context, acquire_into(*many.pool, key, leases[static_cast<std::size_t>(key)]),
                   acquired[static_cast<std::size_t>(key)].handler());
  many.turn();
  for (int key = 0; key < Many::leased_key; key += 7) EXPECT_TRUE(leases[static_cast<std::size_t>(key)]);
  EXPECT_EQ(many.pool->stats().referenced_entries, static_cast<std::size_t>((Many::leased_key + 6) / 7));
  for (auto& lease : leases) lease = Pool::Lease{};
  EXPECT_TRUE(many.pool->try_acquire(7));
}

TEST_P(ResourcePoolClearMany, IsNotUndoneByOtherOperations) {
  Many many(GetParam());
  auto first = many.pool->clear();
  auto second = many.pool->clear();
  many.leased.discard();  // does nothing: it is cleared
  many.leased = Pool::Lease{};
  auto released = many.discarded.release();
  auto expired = many.pool->expire(5);
  auto cleared = many.pool->clear(Many::leased_key - 1);
  EXPECT_EQ(many.pool->stats().referenced_entries, 0u);
  many.gate->set();
  run(*many.context, [&]() -> asio::awaitable<void> {
    co_await std::move(cleared);
    co_await std::move(expired);
    co_await std::move(released);
    co_await std::move(second);
    co_await std::move(first);
  });
  EXPECT_EQ(many.values(), 1);
  if (GetParam()) {
    EXPECT_EQ(many.finalized, keys);
  }
}

// The second clear() waits for the values of the first one, too.
TEST_P(ResourcePoolClearMany, TwiceWaitsForBoth) {
  Many many(GetParam());
  many.gate->set();
  auto first = many.pool->clear();
  bool ended = false;
  run(*many.context, [&]() -> asio::awaitable<void> {
    co_await many.pool->clear();
    EXPECT_LE(many.values(), 3);
    ended = true;
  });
  EXPECT_TRUE(ended);
}

// A finalizer may wait for a clear() that was called before its own value began to end.
TEST(ResourcePoolClearMany, IsNotWaitedForByLaterEnds) {
  asio::io_context context;
  std::optional<asio::awaitable<void>> clearing;
  bool ended = false;
  Pool pool(context.get_executor(), [](int key) { return std::make_shared<int>(key); },
            {.ttl = 1h, .finalizer = [&](Value& value) -> asio::awaitable<void> {
               if (*value == keys) co_await std::move(*clearing), ended = true;
             }});
  run(context, [&]() -> asio::awaitable<void> {
    for (int key = 0; key < keys; ++key) const auto lease = co_await pool.acquire(key);
    clearing.emplace(pool.clear());
    {
      const auto later = co_await pool.acquire(keys);
    }
    co_await pool.expire(keys);
  });
  EXPECT_TRUE(ended);
}

TEST_P(ResourcePoolClearMany, EndsWithThePool) {
  Many many(GetParam());
  many.clear();
  many.turn();
  many.clearing = {};
  many.clear();
  many.pool.reset();
  many.leased = Pool::Lease{};
  many.discarded = Pool::Lease{};
  many.gate->set();
  many.turn();
  many.created = Pool::Lease{};
  EXPECT_EQ(many.values(), 0);
}

// What has not begun to be finalized when the pool is destroyed is destroyed with it.
TEST_P(ResourcePoolClearMany, LeavesNothingForLaterIfThePoolIsDestroyed) {
  Many many(GetParam());
  auto clearing = many.pool->clear();
  const int finalized = many.finalized;
  many.pool.reset();
  EXPECT_LE(many.values(), 64 + 3) << "those that have begun, the leased ones, and the one being created";
  if (!GetParam()) {
    EXPECT_EQ(many.values(), 3);
  }
  EXPECT_EQ(many.finalized, finalized);
}

TEST_P(ResourcePoolClearMany, EndsWithTheContext) {
  Many many(GetParam());
  auto clearing = many.pool->clear();
  many.context.reset();
  EXPECT_EQ(many.values(), 2) << "the leased ones";
  EXPECT_EQ(many.pool->stats().total_entries, 0u);
}

TEST_P(ResourcePoolClearMany, ReportsEveryEnd) {
  Many many(GetParam(), true);
  many.gate->set();
  many.turn();
  many.created = Pool::Lease{};
  many.events.clear();
  many.clear();
  many.turn();
  EXPECT_EQ(many.events.size(), static_cast<std::size_t>(keys));
}

INSTANTIATE_TEST_SUITE_P(Finalizer, ResourcePoolClearMany, testing::Bool());

// ---- rounds ---------------------------------------------------------------------------------------------------------

struct EndingItem {
  EndingItem *previous = nullptr, *next = nullptr;
  std::uint32_t round = 0;
};

// Many clears overlap. Each ends once all entries of its round and of those before have ended.
TEST(EndingEntries, RandomRoundsMatchAModel) {
  using drover::detail::resource_pool::ChainedEvent;
  using Event = std::shared_ptr<ChainedEvent>;
  std::mt19937 random(17);
  drover::detail::resource_pool::EndingEntries<EndingItem> ending;
  std::vector<std::unique_ptr<EndingItem>> alive;
  std::map<std::uint32_t, Event> waiting;  // by their rounds
  std::size_t most_waiting = 0;
  for (int step = 0; step < 20'000; ++step) {
    const bool grows = step / 200 % 2 == 0;
    const auto what = random() % 8;
    if (what < (grows ? 4U : 2U)) {
      alive.push_back(std::make_unique<EndingItem>());
      alive.back()->round = ending.round();
      ending.add(*alive.back());
    } else if (alive.empty()) {
      continue;
    } else if (what == 7) {
      const std::uint32_t round = ending.round();
      const std::size_t to_add = random() % 3;
      const Event& event = waiting.emplace(round, std::make_shared<ChainedEvent>()).first->second;
      ending.reserve_round();
      ending.end_round(to_add, event);
      for (std::size_t added = 0; added < to_add; ++added) {
        alive.push_back(std::make_unique<EndingItem>());
        alive.back()->round = round;
        ending.add_counted(*alive.back());
      }
    } else {
      std::swap(alive[random() % alive.size()], alive.back());
      const auto ended = std::move(alive.back());
      alive.pop_back();
      std::vector<Event> woken, expected;
      ending.remove(*ended, [&](Event& event) { woken.push_back(event); });
      std::uint32_t oldest = std::numeric_limits<std::uint32_t>::max();
      for (const auto& item : alive) oldest = std::min(oldest, item->round);
      while (!waiting.empty() && waiting.begin()->first < oldest) {
        expected.push_back(waiting.begin()->second);
        waiting.erase(waiting.begin());
      }
      // The entry of a round that goes on leaves the others as they are.
      if (ended->round == ending.round()) {
        EXPECT_TRUE(woken.empty());
      }
      ASSERT_EQ(woken, expected) << "step " << step;
    }
    most_waiting = std::max(most_waiting, waiting.size());
  }
  EXPECT_GT(most_waiting, 20u);
}

}  // namespace
