// WorkerPool::map(): each input once, in bounded memory, whatever range, reader and workers do.
#include <algorithm>
#include <gtest/gtest.h>
#include <random>
#include <ranges>
#include <signal.h>
#include <sstream>
#include <string>
#include <vector>

#include <asio/co_spawn.hpp>

#include <drover/routine.hpp>

#include "support/calls.hpp"
#include "support/maps.hpp"

namespace {

using namespace support;
using drover::Map;
using drover::MapOptions;

class Maps : public CallsAnywhere {};
class OneMap : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, Maps, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

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

}  // namespace
