// Calls with keys, priorities, retries and bounds, and broadcasts, while everything happens to their pool.
#include <atomic>
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <signal.h>
#include <string>
#include <vector>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>

#include "support/elastic.hpp"

namespace {

using namespace support;
using drover::CallOptions;
using drover::WhenFull;

struct Counts {
  std::atomic<int> good{0}, failed{0}, wrong{0}, left{0};
};

CallOptions random_options(std::mt19937& random) {
  const auto one_in = [&](unsigned count) { return random() % count == 0; };
  CallOptions options{.priority = static_cast<unsigned>(random() % 4), .when_full = WhenFull::wait};
  if (!one_in(3)) options.key = "key " + std::to_string(random() % 5);
  if (one_in(2)) options.retry = {.attempts = 5, .backoff = std::chrono::milliseconds(random() % 3)};
  if (one_in(4)) options.run_for = 5ms;
  if (one_in(8)) options.deadline = 10ms;
  if (one_in(3)) options.kill_after = 5ms;
  return options;
}

asio::awaitable<void> call_anyhow(WorkerPool& pool, std::shared_ptr<Counts> counts, unsigned seed, int calls) {
  std::mt19937 random(seed);
  for (int i = 0; i < calls; ++i) {
    Failure failure;
    try {
      const CallOptions options = random_options(random);
      if (random() % 4 == 0) {
        const std::string reply =
            co_await pool.call<std::string>(options, "slow_echo", "x", static_cast<int>(random() % 8));
        counts->wrong += reply != "x";
      } else {
        const int square = co_await pool.call<int>(options, "square", i);
        counts->wrong += square != i * i;
      }
      ++counts->good;
      continue;
    } catch (...) {
      failure = describe(std::current_exception());
    }
    const bool expected =
        failure == Errc::worker_exited || failure == Errc::deadline_exceeded || failure == Errc::poisoned;
    if (!expected) ADD_FAILURE() << failure;
    ++counts->failed;
  }
  --counts->left;
}

asio::awaitable<void> disturb(WorkerPool& pool, unsigned seed) {
  std::mt19937 random(seed);
  const auto workers = pool.workers();
  switch (random() % 8) {
    case 0: co_await pool.reload(); break;
    case 1: co_await pool.resize(1 + random() % 3); break;
    case 2: {
      const auto results = co_await pool.broadcast<int>({.priority = static_cast<unsigned>(random() % 4)}, "pid");
      for (const auto& result : results) {
        const Failure failure = describe(result.error);  // not_running: it is being replaced
        EXPECT_TRUE(result.ok() || failure == Errc::worker_exited || failure == Errc::not_running) << failure;
      }
      break;
    }
    default:
      if (!workers.empty()) ::kill(workers[random() % workers.size()].pid, random() % 2 == 0 ? SIGKILL : SIGTERM);
  }
}

class KeyedCalls : public CallsAnywhere {};
INSTANTIATE_TEST_SUITE_P(On, KeyedCalls, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// Workers die, drain, are replaced, are let go and come back.
TEST_P(KeyedCalls, AllEndWhateverHappensToTheirPool) {
  run_where(GetParam(), []() -> asio::awaitable<void> {
    for (const std::size_t in_flight : {1u, 3u}) {
      PoolOptions options = elastic_pool(1, 4, 20ms);
      options.worker.max_in_flight = in_flight;
      options.restart.backoff = 1ms;
      options.restart.max_restarts = 10'000;
      options.spares = 1;
      options.poison_for = 2ms;
      WorkerPool pool = co_await WorkerPool::start(options);
      const auto executor = co_await asio::this_coro::executor;
      const auto counts = std::make_shared<Counts>();
      constexpr int callers = 10, calls = 60;
      counts->left = callers;
      for (unsigned i = 0; i < callers; ++i)
        asio::co_spawn(executor, call_anyhow(pool, counts, i, calls), asio::detached);
      for (unsigned seed = 0; counts->left != 0 && seed < 2000; ++seed) {
        Failure failure;
        try {
          co_await disturb(pool, seed);
        } catch (...) {
          failure = describe(std::current_exception());
        }
        const bool known = !failure || failure == Errc::no_such_worker || failure == Errc::start_failed;
        EXPECT_TRUE(known) << failure;
        co_await pause_for(3ms);
      }
      const bool all = co_await soon([&] { return counts->left == 0; });
      EXPECT_TRUE(all) << counts->left << " callers wait for ever";
      EXPECT_EQ(counts->wrong, 0);
      EXPECT_EQ(counts->good + counts->failed, callers * calls);
      const bool idle = co_await soon([&] { return pool.stats().in_flight == 0 && pool.stats().queued == 0; });
      EXPECT_TRUE(idle);
      co_await pool.stop();
    }
  });
}

}  // namespace
