// Values that hold each other's leases, in chains whose length is the program's data: they end without recursion.

#include <chrono>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>

#include <drover/resource_pool.hpp>

#include "support/resource_pool_run.hpp"
#include "support/sanitizers.hpp"

namespace {

using namespace std::chrono_literals;
using pool_test::Ending;
using pool_test::Gate;
using pool_test::make_gate;
using pool_test::pass;
using pool_test::run;

// A recursion overflows the stack with fewer, since a sanitizer's frames are larger.
constexpr int length = support::sanitized ? 20'000 : 200'000;

/// Holds the lease of the next value, which its own factory call has created.
struct Link;
using Pool = drover::ResourcePool<int, Link>;

struct Link {
  Link(int n, std::vector<int>& d) : number(n), destroyed(&d) {}
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  ~Link() { destroyed->push_back(number); }

  int number;
  std::vector<int>* destroyed;
  Pool::Lease next;
};

std::vector<int> numbers(int count) {
  std::vector<int> all;
  for (int i = 0; i < count; ++i) all.push_back(i);
  return all;
}

struct Chain {
  explicit Chain(Pool::Options options = {}) {
    pool.emplace(
        context->get_executor(), [this](int number) { return std::make_unique<Link>(number, destroyed); },
        std::move(options));
  }

  /// Returns the first lease of a chain in which every value holds the next one.
  asio::awaitable<Pool::Lease> build() {
    Pool::Lease first;
    for (int number = length - 1; number >= 0; --number) {
      Pool::Lease lease = co_await pool->acquire(number);
      lease->next = std::move(first);
      first = std::move(lease);
    }
    co_return first;
  }

  Pool::Lease build_now() {
    Pool::Lease first;
    run(*context, [&]() -> asio::awaitable<void> { first = co_await build(); });
    return first;
  }

  void expect_all_destroyed() {
    EXPECT_EQ(destroyed, numbers(length));
    if (pool) {
      EXPECT_EQ(pool->stats().total_entries, 0u);
    }
  }

  std::vector<int> destroyed;
  std::optional<asio::io_context> context{std::in_place};
  std::optional<Pool> pool;
};

TEST(ResourcePoolChain, ReleaseReturnsAfterAllValuesAreDestroyed) {
  Chain chain;
  run(*chain.context, [&]() -> asio::awaitable<void> {
    Pool::Lease first = co_await chain.build();
    EXPECT_EQ(chain.pool->stats().referenced_entries, static_cast<std::size_t>(length));
    co_await first.release();
    chain.expect_all_destroyed();
  });
}

TEST(ResourcePoolChain, DroppedLeaseDestroysAllValuesAtOnce) {
  Chain chain;
  Pool::Lease first = chain.build_now();
  first = Pool::Lease{};
  chain.expect_all_destroyed();
}

// Another thread sees the end of a value only after everything is destroyed that ends with it.
TEST(ResourcePoolChain, OtherThreadSeesTheEndAfterTheDestruction) {
  Chain chain;
  const Gate gate = make_gate();
  drover::ResourcePool<int, Pool::Lease> holders(chain.context->get_executor(), [](int) { return Pool::Lease{}; },
                                                 {.finalizer = [&](Pool::Lease&) { return pass(gate); }});
  run(*chain.context, [&]() -> asio::awaitable<void> {
    auto holder = co_await holders.acquire(1);
    *holder = co_await chain.build();
    asio::co_spawn(*chain.context, holder.release(), asio::detached);
    gate->set();  // the finalizer has still to be resumed after this
    asio::io_context other;
    std::size_t seen = 0;
    const auto clear = [&]() -> asio::awaitable<void> {
      co_await holders.clear(1);
      seen = chain.destroyed.size();
    };
    Ending cleared;
    asio::co_spawn(other, clear(), cleared.handler());
    other.poll();
    EXPECT_FALSE(cleared.ended);
    std::thread thread([&] { other.run(); });
    while (holders.stats().total_entries > 0) co_await pool_test::breathe();
    thread.join();
    EXPECT_TRUE(cleared.ended);
    EXPECT_EQ(seen, static_cast<std::size_t>(length));
  });
}

TEST(ResourcePoolChain, PlainFinalizerRunsForEachValue) {
  int finalized = 0;
  Chain chain({.finalizer = [&](Link& link) { EXPECT_EQ(link.number, finalized++); }});
  Pool::Lease first = chain.build_now();
  first = Pool::Lease{};
  chain.context->restart();
  chain.context->run();
  EXPECT_EQ(finalized, length);
  chain.expect_all_destroyed();
}

TEST(ResourcePoolChain, CoroutineFinalizerMayReleaseTheNextValue) {
  int finalized = 0;
  Chain chain({.finalizer = [&](Link& link) -> asio::awaitable<void> {
    if (link.next) co_await link.next.release();
    ++finalized;
  }});
  run(*chain.context, [&]() -> asio::awaitable<void> {
    Pool::Lease first = co_await chain.build();
    co_await first.release();
    EXPECT_EQ(finalized, length);
    EXPECT_EQ(chain.destroyed.size(), static_cast<std::size_t>(length));
    EXPECT_EQ(chain.pool->stats().total_entries, 0u);
  });
}

TEST(ResourcePoolChain, ExpiredValuesEndOneAfterAnother) {
  Chain chain({.ttl = 1h});
  run(*chain.context, [&]() -> asio::awaitable<void> {
    Pool::Lease first = co_await chain.build();
    for (const Pool::Lease* lease = &first; *lease; lease = &(*lease)->next) co_await chain.pool->expire(lease->key());
    co_await first.release();
    chain.expect_all_destroyed();
  });
}

TEST(ResourcePoolChain, ClearDestroysAllValues) {
  Chain chain({.ttl = 1h});
  run(*chain.context, [&]() -> asio::awaitable<void> {
    {
      const Pool::Lease first = co_await chain.build();
    }
    EXPECT_EQ(chain.pool->stats().pending_cleanup, 1u);
    co_await chain.pool->clear();
    EXPECT_EQ(chain.destroyed.size(), static_cast<std::size_t>(length));
    EXPECT_EQ(chain.pool->stats().total_entries, 0u);
  });
}

TEST(ResourcePoolChain, IdleChainIsDestroyedWithItsPool) {
  Chain chain({.ttl = 1h, .finalizer = [](Link&) { ADD_FAILURE() << "a pool that is gone finalizes nothing"; }});
  {
    const Pool::Lease first = chain.build_now();
  }
  chain.pool.reset();
  chain.expect_all_destroyed();
}

TEST(ResourcePoolChain, LeasedChainOutlivesItsPool) {
  Chain chain({.ttl = 1h, .finalizer = [](Link&) { ADD_FAILURE() << "a pool that is gone finalizes nothing"; }});
  Pool::Lease first = chain.build_now();
  chain.pool.reset();
  EXPECT_TRUE(chain.destroyed.empty());
  first = Pool::Lease{};
  chain.expect_all_destroyed();
}

TEST(ResourcePoolChain, LeasedChainOutlivesItsContext) {
  for (const bool coroutine : {false, true}) {
    Pool::Options options;
    if (coroutine)
      options.finalizer = [](Link& link) -> asio::awaitable<void> { co_await link.next.release(); };
    else
      options.finalizer = [](Link&) {};
    Chain chain(std::move(options));
    Pool::Lease first = chain.build_now();
    chain.context.reset();
    first = Pool::Lease{};
    chain.expect_all_destroyed();
  }
}

// The finalizers wait for each other, the last one for ever, when their context is destroyed.
TEST(ResourcePoolChain, ContextDestroysWaitingFinalizers) {
  const Gate never = make_gate();
  int finalized = 0;
  Chain chain({.finalizer = [&](Link& link) -> asio::awaitable<void> {
    ++finalized;
    if (link.next) co_await link.next.release();
    co_await pass(never);
  }});
  Pool::Lease first = chain.build_now();
  first = Pool::Lease{};
  chain.context->restart();
  chain.context->poll();
  EXPECT_EQ(finalized, length);
  chain.context.reset();
  EXPECT_EQ(chain.destroyed.size(), static_cast<std::size_t>(length));
  EXPECT_EQ(chain.pool->stats().total_entries, 0u);
}

TEST(ResourcePoolChain, EndsWithTheThreadThatHoldsIt) {
  Chain chain;
  Pool::Lease first = chain.build_now();
  std::thread([&] {
    thread_local Pool::Lease held;
    held = std::move(first);
  }).join();
  chain.expect_all_destroyed();
}

// ---- two pools whose values hold each other's leases in turn --------------------------------------------------------

struct Odd;
struct Even;
using Odds = drover::ResourcePool<int, Odd>;
using Evens = drover::ResourcePool<std::string, Even>;

struct Odd {
  Evens::Lease next;
  int* alive = nullptr;
  ~Odd() { --*alive; }
};
struct Even {
  Odds::Lease next;
  int* alive = nullptr;
  ~Even() { --*alive; }
};

enum class End { release, pools_first, context_first };

class ResourcePoolMutualChain : public testing::TestWithParam<std::tuple<End, bool>> {};

TEST_P(ResourcePoolMutualChain, EndsWithoutRecursion) {
  const auto [end, finalizer] = GetParam();
  int alive = 0, finalized = 0;
  std::optional<asio::io_context> context(std::in_place);
  const auto executor = context->get_executor();
  Odds::Options odd_options;
  if (finalizer) odd_options.finalizer = [&](Odd&) { ++finalized; };
  std::optional<Odds> odds;
  odds.emplace(
      executor,
      [&](int) {
        ++alive;
        return std::unique_ptr<Odd>(new Odd{{}, &alive});
      },
      std::move(odd_options));
  std::optional<Evens> evens;
  evens.emplace(executor, [&](const std::string&) {
    ++alive;
    return std::unique_ptr<Even>(new Even{{}, &alive});
  });
  Odds::Lease first;
  run(*context, [&]() -> asio::awaitable<void> {
    for (int number = 0; number < length; number += 2) {
      auto even = co_await evens->acquire(std::to_string(number));
      even->next = std::move(first);
      first = co_await odds->acquire(number + 1);
      first->next = std::move(even);
    }
  });
  EXPECT_EQ(alive, length);
  if (end == End::pools_first) odds.reset(), evens.reset();
  if (end == End::context_first) context.reset();
  first = Odds::Lease{};
  if (context) {
    context->restart();
    context->run();
  }
  EXPECT_EQ(alive, 0);
  EXPECT_EQ(finalized, end == End::release && finalizer ? length / 2 : 0);
}

INSTANTIATE_TEST_SUITE_P(End, ResourcePoolMutualChain,
                         testing::Combine(testing::Values(End::release, End::pools_first, End::context_first),
                                          testing::Bool()));

// ---- what a destructor that uses pools may rely on ------------------------------------------------------------------

/// A server with connections of its own, which refer to it until they are destroyed.
struct Server;
struct Connection {
  const Server* server;
  int* seen;
  ~Connection();
};
using Connections = drover::ResourcePool<int, std::unique_ptr<Connection>>;
struct Server {
  explicit Server(asio::io_context& context, int* seen)
      : connections(context.get_executor(),
                    [this, seen](int) { return std::unique_ptr<Connection>(new Connection{this, seen}); }, {.ttl = 1h}),
        passing(context.get_executor(),
                [this, seen](int) { return std::unique_ptr<Connection>(new Connection{this, seen}); }) {}

  std::unique_ptr<int> port = std::make_unique<int>(8080);
  Connections connections, passing;
  Connections::Lease held;
};
Connection::~Connection() { *seen += *server->port; }

// A destroyed pool destroys its values immediately, even inside the destructor of another value.
TEST(ResourcePoolChain, PoolInAValueDestroysItsOwnValues) {
  asio::io_context context;
  int seen = 0;
  drover::ResourcePool<int, std::unique_ptr<Server>> servers(
      context.get_executor(), [&](int) { return std::make_unique<Server>(context, &seen); });
  run(context, [&]() -> asio::awaitable<void> {
    auto server = co_await servers.acquire(1);
    {
      auto idle = co_await (*server)->connections.acquire(1);
    }
    (*server)->held = co_await (*server)->passing.acquire(1);
    co_await server.release();
    EXPECT_EQ(seen, 2 * 8080);
  });
}

/// Waits for the end of the value that it holds, in a loop of its own.
struct Waits {
  drover::ResourcePool<int, std::unique_ptr<int>>::Lease inner;
  ~Waits() {
    asio::io_context own;
    Ending ending;
    asio::co_spawn(own, inner.release(), ending.handler());
    own.run();
    EXPECT_TRUE(ending.ended);
  }
};

TEST(ResourcePoolChain, DestructorMayWaitForARelease) {
  asio::io_context context;
  drover::ResourcePool<int, std::unique_ptr<int>> inner(context.get_executor(),
                                                        [](int key) { return std::make_unique<int>(key); });
  drover::ResourcePool<int, std::unique_ptr<Waits>> outer(context.get_executor(),
                                                          [](int) { return std::make_unique<Waits>(); });
  run(context, [&]() -> asio::awaitable<void> {
    auto lease = co_await outer.acquire(1);
    (*lease)->inner = co_await inner.acquire(1);
    co_await lease.release();
    EXPECT_EQ(inner.stats().total_entries, 0u);
    EXPECT_EQ(outer.stats().total_entries, 0u);
  });
}

}  // namespace
