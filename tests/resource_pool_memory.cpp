// Each single allocation of a scenario fails, and several in a row. The pool then still works, expires its values,
// delivers its events, and leaks nothing.

#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/system_error.hpp>

#include <drover/resource_pool.hpp>
#include <drover/timeout.hpp>

#include "support/failing_allocations.hpp"

namespace {

constinit thread_local bool counting = false;
constinit thread_local int spared = 0;         // this many allocations succeed first
constinit thread_local int failures_left = 0;  // then this many fail
constinit thread_local int failures = 0;

}  // namespace

bool support::allocation_fails() noexcept {
  if (!counting || failures_left == 0 || spared-- > 0) return false;
  --failures_left;
  ++failures;
  return true;
}

namespace {

using namespace std::chrono_literals;

/// Allocations on this thread may fail while it exists.
class Shortage {
 public:
  Shortage() { counting = true; }
  Shortage(const Shortage&) = delete;
  Shortage& operator=(const Shortage&) = delete;
  ~Shortage() { counting = false; }
};

int alive = 0;

struct Value {
  explicit Value(int) { ++alive; }
  Value(Value&&) noexcept { ++alive; }
  ~Value() { --alive; }
};

using Pool = drover::ResourcePool<int, Value>;
using Lease = Pool::Lease;
using Kind = Pool::Event::Kind;

asio::awaitable<Value> create(int key) { co_return Value(key); }
asio::awaitable<void> finalize(Value&) { co_return; }

/// Ends with the wait, or with the destruction of the coroutine if Asio has no memory for the wait.
template <class Result>
asio::awaitable<void> waiter(asio::awaitable<Result> awaitable, int* waiting, Lease* lease) {
  struct End {
    int* waiting;
    ~End() { --*waiting; }
  } end{waiting};
  try {
    if constexpr (std::is_void_v<Result>)
      co_await std::move(awaitable);
    else
      *lease = co_await std::move(awaitable);
  } catch (const std::bad_alloc&) {
  } catch (const asio::system_error&) {  // the pool was destroyed
  }
}

/// A pool, whose calls and handlers meet the shortage, and what the test sees of it.
class Scene {
 public:
  Scene()
      : pool_(context_.get_executor(), create,
              {.ttl = 1ms,
               .finalizer = finalize,
               .on_error = [this](const std::exception_ptr&) { ++errors_; },
               .on_event =
                   [this](const Pool::Event& event) {
                     const bool before = std::exchange(counting, false);
                     events_[event.key].push_back(event.kind);
                     counting = before;
                   }}),
        work_(context_.get_executor()) {}

  Pool& pool() { return pool_; }

  /// A call to the pool. An exception of the call is fine.
  template <class Call>
  auto call(Call function) {
    std::optional<decltype(function())> result;
    try {
      const Shortage shortage;
      result.emplace(function());
    } catch (const std::bad_alloc&) {
    }
    return result;
  }

  /// A coroutine that awaits what a call has returned.
  template <class Result>
  void await(std::optional<asio::awaitable<Result>> awaitable) {
    if (!awaitable) return;
    ++waiting_;
    asio::co_spawn(context_, waiter(std::move(*awaitable), &waiting_, &lease_), asio::detached);
  }

  Lease take(int key) {
    await(call([&] { return pool_.acquire(key); }));
    run();
    return std::move(lease_);
  }

  /// The handlers that are ready run.
  void run() {
    while (run([this] { context_.poll(); })) {
    }
  }

  void run_until(const std::function<bool()>& condition) {
    const auto begun = drover::Clock::now();
    while (!condition() && drover::Clock::now() - begun < 2s) run([this] { context_.run_for(1ms); });
  }

  /// The shortage is over: a last operation, then everything ends.
  void check() {
    failures_left = 0;
    await(call([&] { return pool_.acquire(100); }));
    run_until([&] {
      lease_ = Lease();
      return pool_.stats().total_entries == 0 && waiting_ == 0 && all_have_ended();
    });
    EXPECT_EQ(pool_.stats().total_entries, 0u) << "values do not expire";
    EXPECT_EQ(waiting_, 0) << "a coroutine waits for ever";
    EXPECT_TRUE(all_have_ended()) << "events are missing";
    EXPECT_EQ(alive, 0);
  }

 private:
  /// Returns true if an exception has left the context. Asio's own coroutines have no other way to report theirs.
  template <class Function>
  static bool run(Function function) {
    try {
      const Shortage shortage;
      function();
      return false;
    } catch (const std::bad_alloc&) {
      return true;
    }
  }

  bool all_have_ended() {
    if (events_[100].size() != 3) return false;
    for (const auto& [key, events] : events_)
      if (events.back() != Kind::finalized && events.back() != Kind::failed) return false;
    return true;
  }

  asio::io_context context_;
  std::map<int, std::vector<Kind>> events_;
  int errors_ = 0, waiting_ = 0;
  Lease lease_;
  Pool pool_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
};

/// Performs `scenario` once for each of its allocations, which fails together with the next ones, `many` in all.
template <class Scenario>
void sweep(int many, Scenario scenario) {
  int first = 0;
  do {
    failures = 0;
    spared = first;
    failures_left = many;
    {
      Scene scene;
      scenario(scene);
      scene.check();
    }
    if (testing::Test::HasFailure()) FAIL() << "as allocation " << first << " failed, and " << many << " in all";
    EXPECT_EQ(alive, 0);
  } while (failures != 0 && ++first < 1000);
  EXPECT_GT(first, 5) << "hardly anything was allocated";
  EXPECT_LT(first, 1000);
}

TEST(ResourcePoolMemory, AcquireThatFailsLeavesThePoolUsable) {
  for (const int many : {1, 2, 10}) {
    sweep(many, [](Scene& scene) {
      scene.await(scene.call([&] { return scene.pool().acquire(1); }));
      scene.await(scene.call([&] { return scene.pool().acquire(1); }));
    });
  }
}

// The handlers of the pool meet the shortage: the factory, the timer, the expiry, the finalizer, the events.
TEST(ResourcePoolMemory, ValuesStillExpireAndEventsArrive) {
  sweep(1, [](Scene& scene) {
    {
      Lease lease = scene.take(1);
    }
    scene.run_until([&] { return scene.pool().stats().total_entries == 0; });
  });
}

// Reviving an idle value, whose timer is armed already or has failed to be.
TEST(ResourcePoolMemory, IdleValuesStayUsable) {
  for (const int many : {1, 2, 10}) {
    sweep(many, [](Scene& scene) {
      failures_left = 0;
      {
        Lease lease = scene.take(1);
      }
      failures_left = 10;
      for (int i = 0; i < 3; ++i) {
        auto lease = scene.call([&] { return scene.pool().try_acquire(1); });
        const Shortage shortage;
        lease.reset();
      }
      for (int i = 0; i < 3; ++i) scene.await(scene.call([&] { return scene.pool().acquire(1); }));
    });
  }
}

TEST(ResourcePoolMemory, EveryOperationMayFail) {
  for (const int many : {1, 3}) {
    sweep(many, [many](Scene& scene) {
      const int failing = std::exchange(failures_left, 0);
      std::vector<Lease> leases;
      for (int key = 1; key <= 5; ++key) leases.push_back(scene.take(key));
      failures_left = failing;
      scene.call([&] { return leases[0].discard(), 0; });
      scene.await(scene.call([&] { return leases[0].release(); }));
      scene.await(scene.call([&] { return leases[1].release(); }));
      scene.await(scene.call([&] { return scene.pool().expire(2); }));
      scene.await(scene.call([&] { return scene.pool().acquire(2); }));
      scene.await(scene.call([&] { return leases[2].release(); }));
      scene.await(scene.call([&] { return scene.pool().clear(4); }));
      scene.await(scene.call([&] { return scene.pool().acquire(4); }));
      scene.await(scene.call([&] { return scene.pool().clear(); }));
      if (many > 1) failures_left = 0;
      scene.run();
    });
  }
}

// The pool is destroyed while its values, its events and its coroutines wait for something.
TEST(ResourcePoolMemory, DestructionOfThePoolMayMeetTheShortage) {
  int first = 0;
  do {
    failures = 0;
    spared = first;
    failures_left = 1;
    asio::io_context context;
    int waiting = 2;
    Lease leases[2];
    std::optional<Pool> pool(std::in_place, context.get_executor(), create,
                             Pool::Options{.ttl = 1h, .finalizer = finalize, .on_event = [](const Pool::Event&) {}});
    asio::co_spawn(context, waiter(pool->acquire(1), &waiting, &leases[0]), asio::detached);
    context.poll();
    std::optional<asio::awaitable<Lease>> waits;
    try {
      const Shortage shortage;
      leases[0] = Lease();
      waits = pool->acquire(2);
    } catch (const std::bad_alloc&) {
      --waiting;
    }
    if (waits) asio::co_spawn(context, waiter(std::move(*waits), &waiting, &leases[1]), asio::detached);
    {
      const Shortage shortage;
      pool.reset();
    }
    context.restart();
    context.poll();
    EXPECT_EQ(waiting, 0) << first;
    EXPECT_EQ(alive, 0);
  } while (failures != 0 && ++first < 1000);
  EXPECT_GT(first, 5);
}

// An event is recorded, and there is no memory for its delivery, neither then nor when the pool is destroyed.
TEST(ResourcePoolMemory, DestructionOfThePoolDropsUndeliverableEvents) {
  int first = 0;
  do {
    failures = 0;
    asio::io_context context;
    int waiting = 1;
    Lease lease;
    std::optional<Pool> pool(std::in_place, context.get_executor(), create,
                             Pool::Options{.ttl = 1h, .on_event = [](const Pool::Event&) {}});
    asio::co_spawn(context, waiter(pool->acquire(1), &waiting, &lease), asio::detached);
    context.poll();
    EXPECT_EQ(waiting, 0);
    lease = Lease();
    spared = first;
    failures_left = 1000;
    {
      const Shortage shortage;
      try {
        lease = pool->try_acquire(1).value_or(Lease());
      } catch (const std::bad_alloc&) {
      }
      lease = Lease();
      pool.reset();
    }
    EXPECT_EQ(alive, 0) << first;
  } while (failures != 0 && ++first < 1000);
  EXPECT_GT(first, 1);
}

}  // namespace
