// The ends of elastic pools and of their workers, and what they leave behind.
#include <algorithm>
#include <atomic>
#include <future>
#include <gtest/gtest.h>
#include <malloc.h>
#include <memory>
#include <random>
#include <signal.h>
#include <utility>
#include <vector>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/strand.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_future.hpp>

#include "support/elastic.hpp"

namespace {

using namespace support;

class ElasticEnd : public CallsAnywhere {};
class OneElasticEnd : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, ElasticEnd, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// A dead worker beyond the size is replaced as any other.
TEST_F(OneElasticEnd, ReplacesADeadWorker) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = elastic_pool(1, 2, 60s);
    options.restart.backoff = 1ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    Blockers two(here, pool, 2);
    co_await until_ready(pool, 2);
    co_await two.release_all();
    for (int round = 0; round < 2; ++round) {
      const auto before = pids(pool);
      for (const pid_t pid : before) ::kill(pid, SIGKILL);
      const bool replaced = co_await soon([&] { return pool.stats().ready == 2 && !share_one(before, pids(pool)); });
      EXPECT_TRUE(replaced);
    }
    EXPECT_EQ(pool.stats().crashes, 4u);
    EXPECT_EQ(pool.stats().restarts, 4u);
    co_await pool.stop();
  });
}

// A stop also ends the workers that are not ready. Each call has its result or Errc::stopping.
TEST_P(ElasticEnd, StopsWhileItGrows) {
  run_in_strand([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = elastic_pool(1, 4, 60s, {"wait-if", folder.file("slow")});
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    std::ofstream(folder.file("slow")).close();
    const auto here = co_await asio::this_coro::executor;
    std::vector<Task<std::string>> calls;
    for (int i = 0; i < 4; ++i) calls.emplace_back(here, pool.call<std::string>("doze", 20));
    const bool grows = co_await soon([&] { return log.count(Event::Kind::spawned) == 4; });
    EXPECT_TRUE(grows);
    const auto reports = co_await pool.stop();
    EXPECT_EQ(reports.size(), 4u);
    for (const auto& call : calls) {
      const Failure failure = co_await call.failure();
      EXPECT_TRUE(!failure || failure == Errc::stopping) << failure;
    }
  });
}

// A drained stop runs the calls that wait, also in workers that were being started.
TEST_P(ElasticEnd, DrainsItsQueueWhileItGrows) {
  run_in_strand([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = elastic_pool(1, 4, 60s, {"wait-if", folder.file("slow")});
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    std::ofstream(folder.file("slow")).close();
    const auto here = co_await asio::this_coro::executor;
    std::vector<Task<std::string>> calls;
    for (int i = 0; i < 3; ++i) calls.emplace_back(here, pool.call<std::string>("doze", 20));
    const bool grows = co_await soon([&] { return log.count(Event::Kind::spawned) == 3; });
    EXPECT_TRUE(grows);
    const auto reports = co_await pool.stop({.drain_queue = true, .grace = 30s});
    EXPECT_EQ(reports.size(), 3u);
    for (const auto& call : calls) {
      const Failure failure = co_await call.failure();
      EXPECT_FALSE(failure) << failure;
    }
  });
}

// The context runs out of work after the stop, although idle_after is an hour.
TEST_F(OneElasticEnd, StoppedPoolKeepsNoContextBusy) {
  std::shared_ptr<WorkerPool> pool;  // it outlives the context
  on_one_thread(
      [&pool]() -> asio::awaitable<void> {
        pool = std::make_shared<WorkerPool>(co_await WorkerPool::start(elastic_pool(1, 2, 1h)));
        Blockers two(co_await asio::this_coro::executor, *pool, 2);
        co_await until_ready(*pool, 2);
        co_await two.release_all();
        co_await pool->stop();
      },
      20s);
}

// The pool would have grown with the next handler.
TEST_F(OneElasticEnd, DoesNotGrowOnceItIsDrained) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = elastic_pool(1, 4, 60s);
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    std::vector<Task<std::string>> calls;
    for (int i = 0; i < 4; ++i) calls.emplace_back(here, pool.call<std::string>("doze", 20));
    const auto reports = co_await pool.stop({.drain_queue = true, .grace = 30s});
    EXPECT_EQ(reports.size(), 1u);
    for (const auto& call : calls) {
      const Failure failure = co_await call.failure();
      EXPECT_FALSE(failure) << failure;
    }
    EXPECT_EQ(log.count(Event::Kind::spawned), 1u);
  });
}

asio::awaitable<void> grow_and_shrink(std::shared_ptr<WorkerPool>& owner) {
  owner = std::make_shared<WorkerPool>(co_await WorkerPool::start(elastic_pool(1, 4, 4ms)));
  const auto pool = owner;
  const auto tally = std::make_shared<Tally>();
  for (;;) {
    co_await burst(*pool, tally, 4);
    co_await pause_for(10ms);
  }
}

// After each number of handlers the pool is destroyed before its context, or after it.
TEST_F(OneElasticEnd, MayBeDestroyedAtAnyMoment) {
  for (int handlers = 5; handlers < 400; handlers += slowed_down ? 45 : 9) {
    for (const bool pool_first : {true, false}) {
      std::shared_ptr<WorkerPool> pool;
      {
        asio::io_context context(1);
        asio::co_spawn(context, grow_and_shrink(pool), asio::detached);
        for (int i = 0; i < handlers; ++i) context.run_one_for(5s);
        if (pool_first) pool.reset();
      }
    }
  }
}

// Many rounds of growing and shrinking leave no descriptor and no memory behind.
TEST_F(OneElasticEnd, LeaksNothingInManyRounds) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(elastic_pool(1, 4, 5ms));
    const auto here = co_await asio::this_coro::executor;
    const auto round = [&]() -> asio::awaitable<void> {
      Blockers four(here, pool, 4);
      co_await until_ready(pool, 4);
      co_await four.release_all();
      const bool back = co_await soon([&] { return pool.stats().workers == 1; });
      EXPECT_TRUE(back);
    };
    for (int i = 0; i < 10; ++i) co_await round();
    const auto descriptors = open_descriptors();
    const std::size_t bytes = ::mallinfo2().uordblks;
    const int rounds = slowed_down ? 5 : 40;
    for (int i = 0; i < rounds; ++i) co_await round();
    EXPECT_EQ(open_descriptors(), descriptors);
    if (!slowed_down) {  // sanitizers keep freed memory
      EXPECT_LT(::mallinfo2().uordblks, bytes + 64 * 1024) << "a worker may not keep 512 bytes";
    }
    co_await pool.stop();
  });
}

// ---- a storm --------------------------------------------------------------------------------------------------------

struct Counts {
  std::atomic<int> begun{0}, answered{0}, exited{0}, wrong{0}, other{0};
};

asio::awaitable<void> storm_caller(WorkerPool& pool, Counts& counts, unsigned seed, int rounds) {
  std::minstd_rand random(seed);
  for (int round = 0; round < rounds; ++round) {
    std::vector<std::pair<long, asio::awaitable<long>>> several;
    for (auto i = random() % 12; i != 0; --i) {
      const int value = static_cast<int>(random() % 1000000);
      ++counts.begun;
      several.emplace_back(value + 1L, pool.call<long>("add", value, 1));
    }
    for (auto& [expected, call] : several) {
      try {
        ++(co_await std::move(call) == expected ? counts.answered : counts.wrong);
      } catch (const Error& error) {
        ++(error.code() == make_error_code(Errc::worker_exited) ? counts.exited : counts.other);
      } catch (...) {
        ++counts.other;
      }
    }
    if (random() % 3 == 0) co_await pause_for(std::chrono::milliseconds(random() % 20));
  }
}

// Bursts from four threads while workers are killed and the pool grows and shrinks: each call ends once.
TEST_F(OneElasticEnd, CompletesEachCallOnceInAStorm) {
  for (const std::size_t max_in_flight : {std::size_t{1}, std::size_t{8}}) {
    Counts counts;
    asio::thread_pool callers(4);
    std::size_t spawned = 0;
    on_four_threads(
        [&]() -> asio::awaitable<void> {
          EventLog log;
          PoolOptions options = elastic_pool(1, 6, 4ms);
          options.worker.max_in_flight = max_in_flight;
          options.worker.on_event = log.handler();
          options.restart = {.max_restarts = 100000, .within = 10s, .backoff = 1ms, .max_backoff = 10ms};
          WorkerPool pool = co_await WorkerPool::start(options);
          std::vector<std::future<void>> running;
          for (unsigned i = 0; i < 8; ++i)
            running.push_back(asio::co_spawn(asio::make_strand(callers.get_executor()),
                                             storm_caller(pool, counts, i, slowed_down ? 60 : 200), asio::use_future));
          std::minstd_rand random(7);
          const auto over = [&] {
            return std::all_of(running.begin(), running.end(),
                               [](auto& each) { return each.wait_for(0s) == std::future_status::ready; });
          };
          for (const auto until = Clock::now() + 50s; !over() && Clock::now() < until; co_await pause_for(10ms)) {
            const auto there = pids(pool);
            if (!there.empty() && random() % 3 == 0) ::kill(there[random() % there.size()], SIGKILL);
          }
          EXPECT_TRUE(over());
          co_await until_ready(pool, 1);
          EXPECT_EQ(pool.stats().queued, 0u);
          EXPECT_EQ(pool.stats().in_flight, 0u);
          const CallOptions again{.retry = {.attempts = 3}};  // the last one killed may not be known to be dead yet
          const int nine = co_await pool.call<int>(again, "square", 3);
          EXPECT_EQ(nine, 9);
          co_await pool.stop();
          spawned = log.count(Event::Kind::spawned);
          EXPECT_EQ(log.count(Event::Kind::reaped), spawned);
        },
        90s);
    callers.join();
    EXPECT_EQ(counts.begun, counts.answered + counts.exited);
    EXPECT_EQ(counts.wrong, 0);
    EXPECT_EQ(counts.other, 0);
    EXPECT_GT(spawned, 6u) << "it has grown and shrunk";
  }
}

}  // namespace
