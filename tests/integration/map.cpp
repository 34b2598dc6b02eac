// WorkerPool::map(): each input once, in bounded memory, whatever range, reader and workers do.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <ranges>
#include <signal.h>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>

#include <drover/routine.hpp>

#include "support/calls.hpp"
#include "support/fleet.hpp"

namespace {

using namespace support;
using drover::Map;
using drover::MapOptions;

class Maps : public CallsAnywhere {};
class OneMap : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, Maps, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

PoolOptions quick_pool(std::size_t size) {
  PoolOptions options = call_pool(size);
  options.restart.backoff = 1ms;
  options.restart.max_restarts = 10'000;
  return options;
}

asio::awaitable<bool> until_idle(WorkerPool& pool) {
  co_return co_await soon([&] { return pool.stats().in_flight == 0 && pool.stats().queued == 0; });
}

/// Reads a map of squares to its end. Returns the order of the indices.
template <class Squares>
asio::awaitable<std::vector<std::size_t>> read_squares(Squares& map) {
  std::vector<std::size_t> order;
  for (;;) {
    auto done = co_await map.next();
    if (!done) break;
    EXPECT_EQ(done->value(), done->input * done->input);
    order.push_back(done->index);
  }
  co_return order;
}

TEST_P(Maps, GiveEachInputOnce) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(3));
    for (const bool ordered : {false, true}) {
      auto map = pool.map<int>({.ordered = ordered}, "square", std::views::iota(0, 2000));
      auto order = co_await read_squares(map);
      EXPECT_EQ(order.size(), 2000u);
      if (ordered) {
        EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
      }
      std::sort(order.begin(), order.end());
      for (std::size_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[i], i);
    }
    co_await pool.stop();
  });
}

inline constexpr drover::Routine<int(int)> square{"square"};
inline constexpr drover::Routine<std::string(std::string)> echo{"echo"};

TEST_F(OneMap, TakesAnyInputRangeAndDeclaredRoutines) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(2));
    auto declared = pool.map({}, square, std::views::iota(0, 50));
    auto order = co_await read_squares(declared);
    EXPECT_EQ(order.size(), 50u);
    std::istringstream words("one two three");
    auto single_pass = pool.map({.ordered = true}, echo, std::views::istream<std::string>(words));
    std::vector<std::string> read;
    for (;;) {
      auto done = co_await single_pass.next();
      if (!done) break;
      EXPECT_EQ(done->value(), done->input);
      read.push_back(done->input);
    }
    EXPECT_EQ(read, (std::vector<std::string>{"one", "two", "three"}));
    const std::vector<int> lent{1, 2, 3};
    auto of_lvalue = pool.map<int>({}, "square", lent);
    order = co_await read_squares(of_lvalue);
    EXPECT_EQ(order.size(), 3u);
    auto owned = pool.map<int>({}, "square", std::vector<int>{4, 5});
    order = co_await read_squares(owned);
    EXPECT_EQ(order.size(), 2u);
    auto empty = pool.map<int>({}, "square", std::vector<int>{});
    auto nothing = co_await empty.next();
    EXPECT_FALSE(nothing);
    nothing = co_await empty.next();
    EXPECT_FALSE(nothing);
    auto without_results =
        pool.map({.in_flight = 1}, "append", std::views::iota(0, 1) | std::views::transform([](int) { return 7; }));
    auto refused = co_await without_results.next();
    EXPECT_TRUE(refused && !refused->ok()) << "append takes two arguments";
    co_await pool.stop();
  });
}

TEST_F(OneMap, ReadsItsRangeNoFasterThanItsReader) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(2));
    for (const bool ordered : {false, true}) {
      std::size_t taken = 0, given = 0;
      auto counted = std::views::iota(0) | std::views::transform([&](int x) {
                       ++taken;
                       return x % 1000;
                     });
      auto map = pool.map<int>({.in_flight = 5, .ordered = ordered}, "square", counted);
      for (int i = 0; i < 500; ++i) {
        auto done = co_await map.next();
        EXPECT_TRUE(done);
        ++given;
        EXPECT_LE(taken, given + 5);
      }
      EXPECT_GE(taken, given);
    }
    const bool idle = co_await until_idle(pool);
    EXPECT_TRUE(idle) << "what was left was cancelled";
    co_await pool.stop();
  });
}

TEST_F(OneMap, KeepsAllWorkersBusy) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(4));
    auto map = pool.map<int>({}, "pid", std::views::iota(0, 0));
    std::vector<int> naps(40, 20);
    auto napping = pool.map<std::string>({}, "nap_once", naps);
    auto first = co_await napping.next();
    EXPECT_TRUE(first);
    EXPECT_EQ(pool.stats().in_flight, 4u);
    co_await pool.stop();
  });
}

TEST_F(OneMap, FullQueueRefusesNone) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = quick_pool(1);
    options.max_queued = 1;
    WorkerPool pool = co_await WorkerPool::start(options);
    auto map = pool.map<int>({.in_flight = 50}, "square", std::views::iota(0, 300));
    const auto order = co_await read_squares(map);
    EXPECT_EQ(order.size(), 300u);
    co_await pool.stop();
  });
}

TEST_P(Maps, LoseNoInputWhileWorkersAreKilled) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(3));
    auto map =
        pool.map<int>({.ordered = true, .call = {.retry = {.attempts = 100}}}, "square", std::views::iota(0, 1500));
    std::mt19937 random(17);
    std::size_t next = 0;
    for (;;) {
      auto done = co_await map.next();
      if (!done) break;
      EXPECT_EQ(done->index, next++);
      EXPECT_EQ(done->value(), done->input * done->input);
      const auto workers = pool.workers();
      if (next % 40 == 0 && !workers.empty()) ::kill(workers[random() % workers.size()].pid, SIGKILL);
    }
    EXPECT_EQ(next, 1500u);
    co_await pool.stop();
  });
}

TEST_F(OneMap, ErrorOfAnItemIsItsOwn) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(2));
    const std::vector<std::string> texts{"a", "b", "c"};
    auto map = pool.map<void>({.ordered = true}, "throw", texts);
    for (const std::string& text : texts) {
      auto done = co_await map.next();
      EXPECT_TRUE(done && !done->ok());
      std::string what;
      try {
        done->value();
      } catch (const RemoteError& error) {
        what = error.what();
      }
      EXPECT_NE(what.find(text), std::string::npos) << what;
    }
    auto end = co_await map.next();
    EXPECT_FALSE(end);
    auto bad = pool.map<int>({.call = {.deadline = -1s}}, "square", std::views::iota(0, 3));
    for (int i = 0; i < 3; ++i) {
      auto done = co_await bad.next();
      EXPECT_TRUE(done);
      EXPECT_THROW((void)done->value(), std::invalid_argument);
    }
    co_await pool.stop();
  });
}

TEST_F(OneMap, StopsAtTheFirstErrorIfItIsToldTo) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(2));
    std::vector<std::string> texts(1000, "x");
    auto map = pool.map<void>({.in_flight = 4, .ordered = true, .stop_on_error = true}, "throw", texts);
    auto first = co_await map.next();
    EXPECT_TRUE(first && !first->ok());
    auto end = co_await map.next();
    EXPECT_FALSE(end);
    const bool idle = co_await until_idle(pool);
    EXPECT_TRUE(idle);
    co_await pool.stop();
  });
}

// Later items may build on the one that has failed.
TEST_F(OneMap, BeginsNothingAfterTheFirstError) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(1));
    for (const std::size_t in_flight : {1u, 2u}) {
      const std::uint64_t before = pool.stats().calls;
      const MapOptions options{.in_flight = in_flight, .stop_on_error = true};
      auto map = pool.map<void>(options, "throw", std::vector<std::string>(5, "x"));
      const bool ended = co_await until_idle(pool);  // the reader knows of no error yet
      EXPECT_TRUE(ended);
      auto first = co_await map.next();
      EXPECT_TRUE(first && !first->ok());
      auto end = co_await map.next();
      EXPECT_FALSE(end);
      const bool idle = co_await until_idle(pool);
      EXPECT_TRUE(idle);
      EXPECT_EQ(pool.stats().calls - before, in_flight);
    }
    co_await pool.stop();
  });
}

TEST_F(OneMap, EndsItsReaderWhenItIsDestroyed) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(1));
    const auto executor = co_await asio::this_coro::executor;
    std::optional<Failure> failure;
    auto map = std::make_optional(pool.map<std::string>({}, "doze", std::vector<int>{60'000}));
    asio::co_spawn(executor, map->next(),
                   [&](const std::exception_ptr& thrown, const auto&) { failure = describe(thrown); });
    const bool runs = co_await soon([&] { return pool.stats().in_flight == 1; });
    EXPECT_TRUE(runs);
    map.reset();
    const bool ended = co_await soon([&] { return failure.has_value(); });
    EXPECT_TRUE(ended && failure->aborted());
    co_await pool.stop();
  });
}

TEST_F(OneMap, ErrorOfItsRangeComesBehindTheResultsBefore) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(2));
    auto failing = std::views::iota(0) | std::views::transform([](int x) {
                     if (x == 7) throw std::range_error("no seventh");
                     return x;
                   });
    auto map = pool.map<int>({.in_flight = 3}, "square", failing);
    int results = 0;
    std::string text;
    try {
      for (;; ++results) {
        auto done = co_await map.next();
        if (!done) break;
      }
    } catch (const std::range_error& error) {
      text = error.what();
    }
    EXPECT_EQ(text, "no seventh");
    EXPECT_EQ(results, 7);
    auto end = co_await map.next();
    EXPECT_FALSE(end);
    co_await pool.stop();
  });
}

TEST_F(OneMap, HasOneReader) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(1));
    const auto executor = co_await asio::this_coro::executor;
    auto map = pool.map<std::string>({}, "nap_once", std::vector<int>{100});
    bool first = false;
    asio::co_spawn(executor, map.next(), [&](const std::exception_ptr& thrown, const auto& done) {
      EXPECT_EQ(thrown, nullptr);
      first = done.has_value();
    });
    co_await pause_for(1ms);
    Failure second;
    try {
      co_await map.next();
    } catch (...) {
      second = describe(std::current_exception());
    }
    EXPECT_TRUE(second.logic) << second;
    const bool read = co_await soon([&] { return first; });
    EXPECT_TRUE(read);
    co_await pool.stop();
  });
}

TEST_P(Maps, AreCancelledAtAnyMoment) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(2));
    const auto executor = co_await asio::this_coro::executor;
    for (int round = 0; round < 40; ++round) {
      asio::cancellation_signal signal;
      std::optional<Failure> failure;
      auto map = std::make_unique<Map<int, std::ranges::iota_view<int, std::unreachable_sentinel_t>>>(
          pool.map<int>({.in_flight = 6}, "square", std::views::iota(round)));
      const auto read = [](auto* of) -> asio::awaitable<void> {
        for (;;) {
          auto done = co_await of->next();
          if (!done) co_return;
        }
      };
      asio::co_spawn(executor, read(map.get()),
                     asio::bind_cancellation_slot(
                         signal.slot(), [&](const std::exception_ptr& thrown) { failure = describe(thrown); }));
      if (round % 4 != 0) co_await pause_for(std::chrono::microseconds(100 * round));
      signal.emit(asio::cancellation_type::terminal);
      const bool ended = co_await soon([&] { return failure.has_value(); });
      EXPECT_TRUE(ended && failure->aborted()) << *failure;
      if (round % 2 == 0) map.reset();
    }
    const bool idle = co_await until_idle(pool);
    EXPECT_TRUE(idle);
    co_await pool.stop();
  });
}

// A call that has ended is used again for others. The end of a map must not reach those.
TEST_F(OneMap, CancelsItsOwnCallsOnly) {
  on_four_threads([]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    PoolOptions options = quick_pool(2);
    options.worker.max_in_flight = 8;
    WorkerPool pool = co_await WorkerPool::start(options);
    std::atomic<int> left = 4, wrong = 0;
    const auto call = [](WorkerPool* of, std::atomic<int>* running, std::atomic<int>* bad) -> asio::awaitable<void> {
      for (int i = 0; i < 3000; ++i) {
        try {
          const int result = co_await of->call<int>("square", i % 100);
          *bad += result != (i % 100) * (i % 100);
        } catch (const std::exception&) {
          ++*bad;
        }
      }
      --*running;
    };
    for (int i = 0; i < 4; ++i) asio::co_spawn(executor, call(&pool, &left, &wrong), asio::detached);
    while (left != 0) {
      auto map = pool.map<int>({.in_flight = 4}, "square", std::views::iota(0));
      auto done = co_await map.next();
      EXPECT_TRUE(done);
    }
    EXPECT_EQ(wrong, 0);
    co_await pool.stop();
  });
}

TEST_F(OneMap, EachItemFailsWithThePoolThatGivesUp) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    const std::string broken = folder.file("broken");
    PoolOptions options = call_pool(2, {"exit-if", broken, "23"});
    options.restart.backoff = 1ms;
    options.restart.max_restarts = 3;
    WorkerPool pool = co_await WorkerPool::start(options);
    std::ofstream(broken).put('!');
    auto map = pool.map<void>({.in_flight = 4}, "exit", std::vector<int>(50, 1));
    int died = 0, refused = 0;
    for (;;) {
      auto done = co_await map.next();
      if (!done) break;
      const Failure failure = describe(done->error);
      died += failure == Errc::worker_exited;
      refused += failure == Errc::pool_failed;
      EXPECT_TRUE(failure.exit && (failure.exit->value == 23 || failure.exit->value == 1)) << failure;
    }
    EXPECT_GE(died, 1);
    EXPECT_EQ(died + refused, 50);
    EXPECT_GE(refused, 40) << "the pool has given up";
    co_await pool.stop();
  });
}

TEST_F(OneMap, EndsWithItsPool) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(quick_pool(2));
    auto map = pool.map<int>({.in_flight = 4}, "square", std::views::iota(0, 100));
    auto first = co_await map.next();
    EXPECT_TRUE(first && first->ok());
    co_await pool.stop();
    int failed = 0;
    for (;;) {
      auto done = co_await map.next();
      if (!done) break;
      failed += !done->ok();
    }
    EXPECT_GE(failed, 90) << "each input has its error";
  });
}

// Its calls end with the context of the pool, and nobody waits for them.
TEST_F(OneMap, OutlivesItsContext) {
  using Naps = Map<std::string, std::ranges::owning_view<std::vector<int>>>;
  std::optional<Naps> map;
  {
    asio::io_context context(1);
    asio::co_spawn(
        context,
        [](std::optional<Naps>* made, asio::io_context* of) -> asio::awaitable<void> {
          auto pool = std::make_shared<WorkerPool>(co_await WorkerPool::start(quick_pool(1)));
          made->emplace(pool->map<std::string>({}, "nap_once", std::vector<int>{30'000, 1, 2}));
          co_await pause_for(5ms);
          of->stop();
        }(&map, &context),
        asio::detached);
    context.run();
  }
  ASSERT_TRUE(map);
  asio::io_context other(1);
  int failed = 0;
  asio::co_spawn(
      other,
      [](Naps* of, int* count) -> asio::awaitable<void> {
        for (;;) {
          auto done = co_await of->next();
          if (!done) co_return;
          *count += !done->ok();
        }
      }(&*map, &failed),
      asio::detached);
  other.run_for(10s);
  EXPECT_EQ(failed, 3);
}

}  // namespace
