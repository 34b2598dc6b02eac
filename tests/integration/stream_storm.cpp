// 100,000 calls from four threads, streams and maps among them, while workers are killed at random: each ends exactly
// once, with what it is to give or with worker_exited, and the pool is complete at the end.
#include <gtest/gtest.h>
#include <optional>
#include <random>
#include <ranges>
#include <set>
#include <string>

#include <asio/use_future.hpp>

#include "support/calls.hpp"
#include "support/storm.hpp"

namespace {

using namespace support;

class StreamStorm : public Calls {};

constexpr int callers = 32;
const int total = calls_of_a_storm(5'000);

struct Counts {
  std::atomic<int> begun{0}, answered{0}, exited{0}, wrong{0}, other{0}, streams{0}, items{0}, mapped{0};
  int ended() const { return answered + exited + wrong + other; }

  void end(bool right) { ++(right ? answered : wrong); }
  /// In a handler.
  void fail() {
    try {
      throw;
    } catch (const Error& error) {
      ++(error.code() == make_error_code(Errc::worker_exited) && error.exit_status() ? exited : other);
    } catch (...) {
      ++other;
    }
  }
};

asio::awaitable<void> plain_call(WorkerPool& pool, Counts& counts, int value) {
  try {
    const int square = co_await pool.call<int>("square", value);
    counts.end(square == value * value);
  } catch (...) {
    counts.fail();
  }
}

asio::awaitable<void> stream_out(WorkerPool& pool, Counts& counts, int n) {
  ++counts.streams;
  try {
    auto stream = pool.stream<long, int>(n % 2 == 0 ? "count" : "count_plain", n);
    bool right = true;
    for (int i = 0; i < n; ++i) {
      const std::optional<int> item = co_await stream.next();
      right = right && item == i;
      ++counts.items;
    }
    const long sum = co_await stream.result();
    counts.end(right && sum == static_cast<long>(n) * (n - 1) / 2);
  } catch (...) {
    counts.fail();
  }
}

asio::awaitable<void> stream_both_ways(WorkerPool& pool, Counts& counts, int n) {
  ++counts.streams;
  try {
    auto stream = pool.stream<int, std::string, std::string>(n % 2 == 0 ? "echo" : "echo_plain");
    bool right = true;
    for (int i = 0; i < n; ++i) {
      const std::string item(static_cast<std::size_t>(i * 37 % 5000), 'x');
      co_await stream.send(item);
      const std::optional<std::string> back = co_await stream.next();
      right = right && back == item;
      ++counts.items;
    }
    stream.finish();
    const int items = co_await stream.result();
    counts.end(right && items == n);
  } catch (...) {
    counts.fail();
  }
}

/// Dropped in the middle.
asio::awaitable<void> stream_dropped(WorkerPool& pool, Counts& counts, int n) {
  ++counts.streams;
  try {
    auto stream = pool.stream<long, int>(n % 2 == 0 ? "count" : "count_plain", 1'000'000);
    bool right = true;
    for (int i = 0; i < n; ++i) {
      const std::optional<int> item = co_await stream.next();
      right = right && item == i;
      ++counts.items;
    }
    counts.end(right);
  } catch (...) {
    counts.fail();
  }
}

asio::awaitable<void> map_of(WorkerPool& pool, Counts& counts, int n) {
  auto map = pool.map<int>({.in_flight = 4}, "square", std::views::iota(0, n));
  for (;;) {
    auto done = co_await map.next();
    if (!done) co_return;
    ++counts.mapped;
    try {
      counts.end(done->value() == done->input * done->input);
    } catch (...) {
      counts.fail();
    }
  }
}

asio::awaitable<void> caller(WorkerPool& pool, Counts& counts, unsigned seed) {
  std::mt19937 random(seed);
  while (counts.begun < total) {
    const int kind = static_cast<int>(random() % 100), n = static_cast<int>(random() % 40);
    const int calls = kind < 10 ? std::max(n, 1) : 1;
    if (counts.begun.fetch_add(calls) + calls > total) {
      counts.begun -= calls;
      if (counts.begun + 1 > total) co_return;
      continue;
    }
    if (kind < 10)
      co_await map_of(pool, counts, calls);
    else if (kind < 15)
      co_await stream_out(pool, counts, n * 10);
    else if (kind < 18)
      co_await stream_both_ways(pool, counts, n);
    else if (kind < 19)
      co_await stream_dropped(pool, counts, n);
    else
      co_await plain_call(pool, counts, n);
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
  asio::thread_pool callers_threads(4);
  on_four_threads(
      [&]() -> asio::awaitable<void> {
        PoolOptions options = call_pool(4);
        options.worker.command.program = DROVER_HELPER_STREAM_WORKER;
        options.worker.max_in_flight = max_in_flight;
        options.restart.max_restarts = 100'000;
        options.restart.backoff = 1ms;
        options.restart.max_backoff = 10ms;
        WorkerPool pool = co_await WorkerPool::start(options);
        std::vector<std::future<void>> running;
        for (unsigned i = 0; i < callers; ++i)
          running.push_back(asio::co_spawn(asio::make_strand(callers_threads.get_executor()), caller(pool, counts, i),
                                           asio::use_future));
        std::mt19937 random(99);
        pid_t last = 0;  // that was killed
        const auto until = Clock::now() + 240s;
        const auto over = [&] {
          return std::all_of(running.begin(), running.end(),
                             [](auto& each) { return each.wait_for(0s) == std::future_status::ready; });
        };
        while (!over() && Clock::now() < until) {
          co_await pause_for(50ms);
          // As fast as the machine starts workers: otherwise none would live long enough to answer.
          const std::set<pid_t> there = pids(pool);
          if (there.empty() || pool.stats().ready < 3) continue;
          last = *std::next(there.begin(), static_cast<std::ptrdiff_t>(random() % there.size()));
          ::kill(last, SIGKILL);
          ++killed;
        }
        EXPECT_TRUE(over()) << counts.ended() << " of " << total << " calls have ended";
        counts.begun = total;  // nobody uses the pool when it is destroyed
        while (!over()) co_await pause_for(50ms);
        const bool whole = co_await soon([&] {
          const auto stats = pool.stats();
          return stats.ready == 4 && stats.queued == 0 && stats.in_flight == 0 && !pids(pool).contains(last);
        });
        EXPECT_TRUE(whole);
        for (int i = 0; i < 8; ++i) {
          const int square = co_await pool.call<int>("square", i);
          EXPECT_EQ(square, i * i);
        }
        co_await pool.stop();
      },
      270s);
  callers_threads.join();
  EXPECT_EQ(counts.ended(), total) << "each ends exactly once";
  EXPECT_EQ(counts.wrong, 0);
  EXPECT_EQ(counts.other, 0);
  EXPECT_GT(counts.answered, total / 2);
  std::printf("%d answered, %d with worker_exited; %d streams with %d items, %d mapped; %d workers killed\n",
              int(counts.answered), int(counts.exited), int(counts.streams), int(counts.items), int(counts.mapped),
              int(killed));
}

// With one call in flight a worker, each call and each stream ends exactly once although workers are killed.
TEST_F(StreamStorm, EndsEachCallOnceWithOneInFlight) { storm(1); }
// With 16 in flight a worker, the same.
TEST_F(StreamStorm, EndsEachCallOnceWithManyInFlight) { storm(16); }

}  // namespace
