// Calls from four threads while workers are killed at random: each completes exactly once, and the pool is complete at
// the end.
#include <gtest/gtest.h>
#include <random>
#include <set>

#include <asio/use_future.hpp>

#include "support/calls.hpp"
#include "support/storm.hpp"

namespace {

using namespace support;

class PoolStorm : public Calls {};

constexpr int callers = 32;
const int total = calls_of_a_storm(10'000);

struct Counts {
  std::atomic<int> begun{0}, answered{0}, exited{0}, wrong{0}, other{0};
  int ended() const { return answered + exited + wrong + other; }
};

/// Counts how calls complete. The sanitizers would find a caller that is resumed twice.
asio::awaitable<void> caller(WorkerPool& pool, Counts& counts, unsigned seed) {
  std::mt19937 random(seed);
  while (counts.begun < total) {
    std::vector<std::pair<long, asio::awaitable<long>>> several;
    for (int i = 0; i < 8 && counts.begun++ < total; ++i) {
      const int value = int(random() % 1000000);
      several.emplace_back(value + 1L, pool.call<long>("add", value, 1));
    }
    for (auto& [expected, call] : several) {
      try {
        ++(co_await std::move(call) == expected ? counts.answered : counts.wrong);
      } catch (const Error& error) {
        ++(error.code() == make_error_code(Errc::worker_exited) && error.exit_status() ? counts.exited : counts.other);
      } catch (...) {
        ++counts.other;
      }
    }
  }
}

std::set<pid_t> pids(const WorkerPool& pool) {
  std::set<pid_t> pids;
  for (const auto& worker : pool.workers()) pids.insert(worker.pid);
  return pids;
}

void storm(std::size_t max_in_flight) {
  Counts counts;
  std::size_t killed = 0;
  std::set<pid_t> dying;  // killed, but the pool has not noticed yet; process ids are reused
  asio::thread_pool callers_threads(4);
  on_four_threads(
      [&]() -> asio::awaitable<void> {
        PoolOptions options = call_pool(4);
        options.worker.max_in_flight = max_in_flight;
        options.max_queued = 10000;
        options.restart.max_restarts = 100000;
        options.restart.backoff = 1ms;
        options.restart.max_backoff = 10ms;
        WorkerPool pool = co_await WorkerPool::start(options);
        std::vector<std::future<void>> running;
        for (unsigned i = 0; i < callers; ++i)
          running.push_back(asio::co_spawn(asio::make_strand(callers_threads.get_executor()), caller(pool, counts, i),
                                           asio::use_future));
        std::mt19937 random(99);
        const auto until = Clock::now() + 240s;  // against hanging: under a sanitizer on a busy machine this takes long
        const auto over = [&] {
          return std::all_of(running.begin(), running.end(),
                             [](auto& each) { return each.wait_for(0s) == std::future_status::ready; });
        };
        while (!over() && Clock::now() < until) {
          co_await pause_for(50ms);
          const std::set<pid_t> there = pids(pool);
          std::erase_if(dying, [&](pid_t pid) { return !there.contains(pid); });
          if (there.empty()) continue;
          const pid_t pid = *std::next(there.begin(), static_cast<std::ptrdiff_t>(random() % there.size()));
          if (!dying.insert(pid).second) continue;
          ::kill(pid, SIGKILL);
          ++killed;
        }
        EXPECT_TRUE(over()) << counts.ended() << " of " << total << " calls have ended";
        const bool whole = co_await soon([&] {
          const std::set<pid_t> there = pids(pool);
          std::erase_if(dying, [&](pid_t pid) { return !there.contains(pid); });
          return there.size() == 4 && dying.empty();
        });
        EXPECT_TRUE(whole);
        const auto stats = pool.stats();
        EXPECT_EQ(stats.calls, std::uint64_t(total));
        EXPECT_EQ(stats.queued, 0u);
        EXPECT_EQ(stats.in_flight, 0u);
        EXPECT_EQ(stats.crashes, stats.restarts);
        EXPECT_EQ(stats.crashes, killed);
        for (int i = 0; i < 8; ++i) EXPECT_EQ(co_await pool.call<int>("square", i), i * i);
        co_await pool.stop();
      },
      270s);
  callers_threads.join();
  EXPECT_EQ(counts.ended(), total) << "each ends exactly once";
  EXPECT_EQ(counts.wrong, 0);
  EXPECT_EQ(counts.other, 0);
  EXPECT_GT(counts.answered, total / 2);
  std::printf("%d answered, %d with worker_exited, %d workers killed\n", int(counts.answered), int(counts.exited),
              int(killed));
}

// With one call in flight a worker, each call completes exactly once although workers are killed all the time.
TEST_F(PoolStorm, CompletesEachCallOnceWithOneInFlight) { storm(1); }
// With 16 calls in flight a worker, each call completes exactly once although workers are killed all the time.
TEST_F(PoolStorm, CompletesEachCallOnceWithManyInFlight) { storm(16); }

}  // namespace
