#include <atomic>
#include <chrono>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/strand.hpp>
#include <asio/thread_pool.hpp>

#include <drover/resource_pool.hpp>

#include "support/resource_pool_run.hpp"

namespace {

using namespace std::chrono_literals;
using pool_test::breathe;
using pool_test::Gate;
using pool_test::make_gate;
using pool_test::pass;
using pool_test::run;

TEST(ResourcePoolOptions, MaxIdleEvictsTheLeastRecentlyUsed) {
  asio::io_context context;
  std::vector<int> finalized;
  drover::ResourcePool<int, int> pool(context.get_executor(), [](int key) { return key; },
                                      {.ttl = 1h, .finalizer = [&](int& v) { finalized.push_back(v); }, .max_idle = 2});
  run(context, [&]() -> asio::awaitable<void> {
    for (int key : {1, 2, 3, 2}) auto lease = co_await pool.acquire(key);
    co_await breathe();
    EXPECT_EQ(finalized, std::vector{1});
    {
      auto lease = co_await pool.acquire(4);
    }
    co_await breathe();
    EXPECT_EQ(finalized, (std::vector{1, 3}));
    EXPECT_EQ(pool.pending_cleanup(), (std::vector{2, 4}));
  });
}

TEST(ResourcePoolOptions, MaxIdleOfZeroKeepsNothing) {
  asio::io_context context;
  int finalized = 0;
  drover::ResourcePool<int, int> pool(context.get_executor(), [](int key) { return key; },
                                      {.ttl = 1h, .finalizer = [&](int&) { ++finalized; }, .max_idle = 0});
  run(context, [&]() -> asio::awaitable<void> {
    auto lease = co_await pool.acquire(1);
    co_await lease.release();
    EXPECT_EQ(finalized, 1);
    EXPECT_EQ(pool.stats().total_entries, 0u);
  });
}

TEST(ResourcePoolOptions, EventsArriveInOrder) {
  using Pool = drover::ResourcePool<std::string, int>;
  using Kind = Pool::Event::Kind;
  asio::io_context context;
  std::vector<std::pair<Kind, std::string>> events;
  Pool pool(context.get_executor(),
            [](const std::string& key) -> int {
              if (key == "bad") throw std::runtime_error("no");
              return 1;
            },
            {.ttl = 1h, .max_idle = 1, .on_event = [&](const Pool::Event& event) {
               EXPECT_EQ(event.kind == Kind::failed, event.error != nullptr);
               events.emplace_back(event.kind, event.key);
               throw 1;  // is ignored
             }});
  run(context, [&]() -> asio::awaitable<void> {
    {
      auto lease = co_await pool.acquire("a");
    }
    {
      auto lease = co_await pool.acquire("a");
    }
    {
      auto lease = co_await pool.acquire("b");
    }
    co_await pool.expire("b");
    auto bad = pool.acquire("bad");
    EXPECT_THROW(co_await std::move(bad), std::runtime_error);
    co_await breathe();
  });
  const std::vector<std::pair<Kind, std::string>> expected{
      {Kind::made, "a"},      {Kind::revived, "a"}, {Kind::made, "b"},      {Kind::evicted, "a"},
      {Kind::finalized, "a"}, {Kind::expired, "b"}, {Kind::finalized, "b"}, {Kind::failed, "bad"}};
  EXPECT_EQ(events, expected);
}

TEST(ResourcePoolOptions, EventsOfAKeyArriveInOrderOnThreads) {
  using Pool = drover::ResourcePool<int, int>;
  using Kind = Pool::Event::Kind;
  std::vector<std::pair<Kind, int>> events;  // without a lock: events come one at a time
  asio::thread_pool threads(4);
  {
    Pool pool(
        threads.get_executor(), [](int key) { return key; },
        {.finalizer = [](int&) {}, .on_event = [&](const Pool::Event& e) { events.emplace_back(e.kind, e.key); }});
    std::atomic<int> left = 400;
    const Gate done = make_gate();
    for (int i = 0; i < 400; ++i)
      asio::co_spawn(
          threads,
          [](Pool& p, int key, std::atomic<int>& l, Gate d) -> asio::awaitable<void> {
            {
              auto lease = co_await p.acquire(key);
              co_await lease.release();
            }
            if (--l == 0) d->set();
          }(pool, i % 4, left, done),
          asio::detached);
    asio::io_context context;
    run(context, [&]() -> asio::awaitable<void> {
      co_await pass(done);
      co_await pool.clear();
    });
    threads.join();
  }
  for (int key = 0; key < 4; ++key) {
    Kind last = Kind::finalized;
    for (const auto& [kind, of] : events) {
      if (of != key) continue;
      EXPECT_NE(kind, last);  // made, finalized, made, ...
      last = kind;
    }
    EXPECT_EQ(last, Kind::finalized);
  }
}

// A key is created from a view only if it is missing.
TEST(ResourcePoolLookup, FindsStringKeysByAnyView) {
  asio::io_context context;
  drover::ResourcePool<std::string, int> pool(
      context.get_executor(), [](const std::string& key) { return static_cast<int>(key.size()); }, {.ttl = 1h});
  run(context, [&]() -> asio::awaitable<void> {
    constexpr std::string_view view = "a rather long key, too long for small strings";
    {
      auto lease = co_await pool.acquire(view);
    }
    {
      auto lease = co_await pool.acquire(std::string(view));
    }
    EXPECT_EQ(pool.stats().total_entries, 1u);
    EXPECT_TRUE(pool.try_acquire(view));
    EXPECT_TRUE(pool.try_acquire(std::string(view).c_str()));
    EXPECT_FALSE(pool.try_acquire("another"));
    co_await pool.expire(view);
    EXPECT_EQ(pool.stats().total_entries, 0u);
    {
      auto lease = co_await pool.acquire("literal");
    }
    co_await pool.clear("literal");
    EXPECT_THROW((void)pool.clear(view), std::out_of_range);
  });
}

struct Point {
  int x, y;
};
struct PointHash {
  using is_transparent = void;
  std::size_t operator()(const Point& p) const {
    if (p.x == 13) throw std::domain_error("unlucky");
    return static_cast<std::size_t>(p.x * 31 + p.y);
  }
  std::size_t operator()(const std::pair<int, int>& p) const { return (*this)(Point{p.first, p.second}); }
};
struct PointEqual {
  using is_transparent = void;
  bool operator()(const Point& a, const Point& b) const { return a.x == b.x && a.y == b.y; }
};

TEST(ResourcePoolLookup, HashThatThrowsLeavesThePoolUnchanged) {
  asio::io_context context;
  drover::ResourcePool<Point, int, PointHash, PointEqual> pool(context.get_executor(),
                                                               [](const Point& p) { return p.x + p.y; }, {.ttl = 1h});
  run(context, [&]() -> asio::awaitable<void> {
    auto lease = co_await pool.acquire(Point{1, 2});
    EXPECT_THROW((void)pool.acquire(Point{13, 2}), std::domain_error);
    EXPECT_THROW((void)pool.try_acquire(Point{13, 2}), std::domain_error);
    EXPECT_THROW((void)pool.expire(Point{13, 2}), std::domain_error);
    EXPECT_THROW((void)pool.clear(Point{13, 2}), std::domain_error);
    EXPECT_EQ(pool.stats().total_entries, 1u);
    auto again = co_await pool.acquire(Point{1, 2});
    EXPECT_EQ(&*lease, &*again);
  });
}

struct Immovable {
  explicit Immovable(int n) : number(n) {}
  Immovable(const Immovable&) = delete;
  Immovable& operator=(const Immovable&) = delete;
  int number;
};

TEST(ResourcePoolValue, MayBeMoveOnly) {
  asio::io_context context;
  using Pool = drover::ResourcePool<int, std::unique_ptr<int>>;
  Pool plain(context.get_executor(), [](int key) { return std::make_unique<int>(key); });
  Pool coroutine(context.get_executor(),
                 [owned = std::make_unique<int>(1)](int key) -> asio::awaitable<std::unique_ptr<int>> {
                   co_return std::make_unique<int>(key + *owned);
                 });
  run(context, [&]() -> asio::awaitable<void> {
    auto a = co_await plain.acquire(1);
    auto b = co_await coroutine.acquire(1);
    EXPECT_EQ(**a, 1);
    EXPECT_EQ(**b, 2);
  });
}

TEST(ResourcePoolValue, MayBeImmovable) {
  asio::io_context context;
  using Pool = drover::ResourcePool<int, Immovable>;
  int finalized = 0;
  Pool in_place(context.get_executor(), [](int key) { return Immovable(key); },
                {.finalizer = [&](Immovable& value) { finalized += value.number; }});
  Pool on_heap(context.get_executor(), [](int key) -> asio::awaitable<std::unique_ptr<Immovable>> {
    if (key < 0) co_return nullptr;
    co_return std::make_unique<Immovable>(key);
  });
  run(context, [&]() -> asio::awaitable<void> {
    auto a = co_await in_place.acquire(1);
    auto b = co_await on_heap.acquire(2);
    EXPECT_EQ(a->number + b->number, 3);
    auto null = on_heap.acquire(-1);
    EXPECT_THROW(co_await std::move(null), std::logic_error);
    EXPECT_EQ(on_heap.stats().total_entries, 1u);
    co_await a.release();
  });
  EXPECT_EQ(finalized, 1);
}

TEST(ResourcePoolValue, WithoutAFinalizerIsDestroyedAtOnce) {
  asio::io_context context;
  auto shared = std::make_shared<int>(1);
  drover::ResourcePool<int, std::shared_ptr<int>> pool(context.get_executor(), [&](int) { return shared; });
  run(context, [&]() -> asio::awaitable<void> {
    {
      auto lease = co_await pool.acquire(1);
    }
    EXPECT_EQ(pool.stats().total_entries, 0u);
    EXPECT_EQ(shared.use_count(), 1);
  });
}

TEST(ResourcePoolExecutor, RunsFactoriesFinalizersAndHandlers) {
  asio::io_context context;
  const auto strand = asio::make_strand(context);
  int calls = 0;
  const auto check = [&] {
    EXPECT_TRUE(strand.running_in_this_thread());
    ++calls;
  };
  using Pool = drover::ResourcePool<int, int>;
  Pool pool(strand,
            [&](int key) {
              check();
              return key;
            },
            {.ttl = 1ms,
             .finalizer =
                 [&](int&) {
                   check();
                   throw 1;
                 },
             .on_error = [&](std::exception_ptr) { check(); },
             .on_event =
                 [&](const Pool::Event& event) {
                   check();
                   EXPECT_EQ(event.kind == Pool::Event::Kind::failed, event.error != nullptr);
                 }});
  run(context, [&]() -> asio::awaitable<void> {
    EXPECT_FALSE(strand.running_in_this_thread());
    {
      auto lease = co_await pool.acquire(1);
    }
    EXPECT_FALSE(strand.running_in_this_thread());
    co_await pool.expire(1);
    EXPECT_FALSE(strand.running_in_this_thread());
  });
  EXPECT_EQ(calls, 6);  // factory, finalizer, on_error; made, expired, failed
}

}  // namespace
