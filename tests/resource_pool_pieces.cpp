// Many values that end at once do not block the loop: other handlers run after a bounded number of them.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <gtest/gtest.h>
#include <memory>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/io_context.hpp>

#include <drover/resource_pool.hpp>

#include "support/resource_pool_run.hpp"

namespace {

using namespace std::chrono_literals;
using pool_test::run;

constexpr int keys = 20'000;

/// Counts what happens between two turns of the loop.
struct Turns {
  int now = 0, most = 0;
  void end() { most = std::max(most, std::exchange(now, 0)); }
};

struct Value {
  explicit Value(Turns* t) : turns(t) {}
  ~Value() {
    if (turns != nullptr) ++turns->now;
  }
  Turns* turns;
};

using Pool = drover::ResourcePool<int, std::unique_ptr<Value>>;

Pool::Options pieces_options() {
  Pool::Options options;
  options.ttl = 200ms;
  return options;
}

asio::awaitable<void> make_idle(Pool& pool) {
  std::vector<Pool::Lease> leases;
  for (int key = 0; key < keys; ++key) leases.push_back(co_await pool.acquire(key));
}

/// Runs turns of the loop until the pool is empty.
asio::awaitable<void> watch(Pool& pool, Turns& turns) {
  while (pool.stats().total_entries > 0) {
    turns.end();
    co_await pool_test::breathe(1);
  }
  turns.end();
}

TEST(ResourcePoolPieces, ValuesThatExpireTogetherLeaveTurnsToOthers) {
  asio::io_context context;
  Turns turns;
  Pool pool(context.get_executor(), [&](int) { return std::make_unique<Value>(&turns); }, pieces_options());
  run(context, [&] { return make_idle(pool); });
  EXPECT_EQ(pool.stats().pending_cleanup, static_cast<std::size_t>(keys));
  run(context, [&] { return watch(pool, turns); });
  EXPECT_LE(turns.most, 300) << "values destroyed in a row";
}

TEST(ResourcePoolPieces, ClearedValuesLeaveTurnsToOthers) {
  asio::io_context context;
  Turns turns;
  Pool pool(context.get_executor(), [&](int) { return std::make_unique<Value>(&turns); }, pieces_options());
  run(context, [&] { return make_idle(pool); });
  bool cleared = false;
  run(context, [&]() -> asio::awaitable<void> {
    auto clearing = pool.clear();
    EXPECT_EQ(pool.stats().referenced_entries, 0u);
    co_await watch(pool, turns);
    co_await std::move(clearing);
    cleared = true;
  });
  EXPECT_TRUE(cleared);
  EXPECT_LE(turns.most, 300) << "values destroyed in a row";
}

TEST(ResourcePoolPieces, EventsLeaveTurnsToOthers) {
  asio::io_context context;
  Turns turns;
  int events = 0;
  Pool::Options options = pieces_options();
  options.on_event = [&](const Pool::Event&) { ++events, ++turns.now; };
  Pool pool(context.get_executor(), [](int) { return std::make_unique<Value>(nullptr); }, options);
  run(context, [&] { return make_idle(pool); });
  turns = {};
  run(context, [&]() -> asio::awaitable<void> {
    (void)pool.clear();
    co_await watch(pool, turns);
    while (events < 2 * keys) {
      turns.end();
      co_await pool_test::breathe(1);
    }
    turns.end();
  });
  EXPECT_EQ(events, 2 * keys);
  EXPECT_LE(turns.most, 300) << "events in a row";
}

// The context is destroyed between two pieces: nothing leaks, which the sanitizers see.
TEST(ResourcePoolPieces, EndWithTheContext) {
  Turns turns;
  {
    auto context = std::make_unique<asio::io_context>();
    Pool::Options options = pieces_options();
    options.on_event = [&](const Pool::Event&) {};
    Pool pool(context->get_executor(), [&](int) { return std::make_unique<Value>(&turns); }, options);
    run(*context, [&] { return make_idle(pool); });
    (void)pool.clear();
    for (int i = 0; i < 50; ++i) {
      context->restart();
      context->poll_one();
    }
    context.reset();
    turns = {};
  }
}

// The entries whose events are being delivered while others expire are deleted as well, and the pool with them.
TEST(ResourcePoolPieces, ValuesThatExpireTogetherWithEventsLeaveNothing) {
  asio::io_context context;
  std::weak_ptr<int> captured;
  int expired = 0, finalized = 0;
  {
    const auto token = std::make_shared<int>();
    captured = token;
    Pool::Options options = pieces_options();
    options.on_event = [token, &expired, &finalized](const Pool::Event& event) {
      expired += event.kind == Pool::Event::Kind::expired;
      finalized += event.kind == Pool::Event::Kind::finalized;
    };
    Pool pool(context.get_executor(), [](int) { return std::make_unique<Value>(nullptr); }, std::move(options));
    run(context, [&] { return make_idle(pool); });
    run(context, [&]() -> asio::awaitable<void> {
      while (finalized < keys) co_await pool_test::breathe(1);
    });
    EXPECT_EQ(expired, keys);
    EXPECT_EQ(pool.stats().total_entries, 0u);
  }
  context.restart();
  context.run();
  EXPECT_TRUE(captured.expired()) << "an entry was left, which keeps the pool's engine";
}

}  // namespace
