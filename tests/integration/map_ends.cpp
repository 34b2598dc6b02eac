// The ends of a map: an error, a cancellation, its destruction, the end of its pool and of its context.
#include <atomic>
#include <cstdint>
#include <fstream>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <ranges>
#include <stdexcept>
#include <string>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>

#include "support/calls.hpp"
#include "support/maps.hpp"

namespace {

using namespace support;
using drover::Map;
using drover::MapOptions;

class MapEnds : public CallsAnywhere {};
class OneMapEnds : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, MapEnds, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

TEST_F(OneMapEnds, StopsAtTheFirstErrorIfItIsToldTo) {
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
TEST_F(OneMapEnds, BeginsNothingAfterTheFirstError) {
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

// Not even while the reader takes the results before it.
TEST_F(OneMapEnds, ReadsNoFurtherBehindAnError) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = quick_pool(1);
    options.worker.max_message_size = 65'536;
    WorkerPool pool = co_await WorkerPool::start(options);
    int read = 0;
    auto texts = std::views::iota(0, 10) | std::views::transform([&read](int i) {
                   ++read;
                   return std::string(i == 1 ? 100'000 : 1, 'x');  // the second one is too large
                 });
    auto map = pool.map<std::string>({.in_flight = 2, .ordered = true, .stop_on_error = true}, "echo", texts);
    const bool ended = co_await until_idle(pool);
    EXPECT_TRUE(ended);
    auto first = co_await map.next();
    EXPECT_TRUE(first && first->ok());
    auto second = co_await map.next();
    EXPECT_TRUE(second && describe(second->error) == Errc::message_too_large);
    auto end = co_await map.next();
    EXPECT_FALSE(end);
    EXPECT_EQ(read, 2);
    co_await pool.stop();
  });
}

TEST_F(OneMapEnds, EndsItsReaderWhenItIsDestroyed) {
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
    std::optional<Failure> later;
    auto unread = std::make_optional(pool.map<int>({}, "square", std::vector<int>{1, 2}));
    auto next = unread->next();
    unread.reset();
    try {
      co_await std::move(next);
    } catch (...) {
      later = describe(std::current_exception());
    }
    EXPECT_TRUE(later && later->aborted()) << "it is not told that all have come";
    co_await pool.stop();
  });
}

TEST_F(OneMapEnds, ErrorOfItsRangeComesBehindTheResultsBefore) {
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

TEST_P(MapEnds, AreCancelledAtAnyMoment) {
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
TEST_F(OneMapEnds, CancelsItsOwnCallsOnly) {
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

TEST_F(OneMapEnds, EachItemFailsWithThePoolThatGivesUp) {
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

TEST_F(OneMapEnds, EndsWithItsPool) {
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
TEST_F(OneMapEnds, OutlivesItsContext) {
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
