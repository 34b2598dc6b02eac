// The ends of streams with real workers: cancellation at every point, deadlines, deaths, stops, lost contexts.
#include <cstdint>
#include <gtest/gtest.h>
#include <list>
#include <optional>
#include <set>
#include <signal.h>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>

#include "support/streams.hpp"

namespace {

using namespace support;

class StreamEnds : public CallsAnywhere {};
class OneStreamEnds : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, StreamEnds, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

TEST_F(OneStreamEnds, FailureFollowsTheItems) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    auto stream = pool.stream<int, int>("fail_after", 10);
    int n = 0;
    std::string what;
    try {
      for (;; ++n) {
        const std::optional<int> item = co_await stream.next();
        EXPECT_EQ(item, n);
      }
    } catch (const RemoteError& e) {
      what = e.what();
    }
    EXPECT_EQ(n, 10);
    EXPECT_EQ(what, "enough");
    const std::string again = co_await text_thrown_by(stream.result());
    EXPECT_EQ(again, "enough");
    co_await pool.stop();
  });
}

// It need not wait for that: 512 KiB of small items may take it an hour.
TEST_F(OneStreamEnds, CancellationReachesARoutineThatHasRoomOrItems) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    auto writes = pool.stream<void, int>("count_slowly", 1'000'000);
    const std::optional<int> first = co_await writes.next();
    EXPECT_EQ(first, 0);
    writes.cancel();
    auto after_writes = pool.stream<long, int>({.deadline = 20s}, "count_plain", 3);
    const long three = co_await after_writes.result();
    EXPECT_EQ(three, 3);
    auto reads = pool.stream<void, void, int>("sum_slowly");
    for (int i = 0; i < 3000; ++i) {
      const bool sent = co_await reads.send(i);
      EXPECT_TRUE(sent);
    }
    reads.cancel();
    auto after_reads = pool.stream<long, int>({.deadline = 20s}, "count_plain", 3);
    const long again = co_await after_reads.result();
    EXPECT_EQ(again, 3);
    co_await pool.stop();
  });
}

TEST_F(OneStreamEnds, DeathOfTheWorkerFollowsTheItems) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    for (const int items : {0, 1, 100, 5000}) {
      auto stream = pool.stream<void, int>("die_after", items);
      int n = 0;
      std::error_code code;
      try {
        for (;; ++n) {
          const std::optional<int> item = co_await stream.next();
          EXPECT_EQ(item, n);
          if (!item) break;
        }
      } catch (const Error& e) {
        code = e.code();
      }
      // What it wrote in its last 100 us may not have left.
      EXPECT_LE(n, items);
      EXPECT_EQ(code, Errc::worker_exited);
    }
    co_await pool.stop();
  });
}

TEST_F(OneStreamEnds, IsRetriedOnlyIfNoItemHasCome) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    CallOptions options;
    options.retry.attempts = 3;
    auto with_item = pool.stream<void, int>(options, "die_after", 1);
    const std::optional<int> item = co_await with_item.next();
    EXPECT_EQ(item, 0);
    const std::error_code code = co_await code_thrown_by(with_item.next());
    EXPECT_EQ(code, Errc::worker_exited);
    const bool once = co_await soon([&] { return pool.stats().restarts == 1; });
    EXPECT_TRUE(once);
    auto without = pool.stream<void, int>(options, "die_after", 0);
    const std::error_code last = co_await code_thrown_by(without.next());
    EXPECT_EQ(last, Errc::worker_exited);
    const bool thrice = co_await soon([&] { return pool.stats().restarts == 4; });
    EXPECT_TRUE(thrice) << "it was made three times";
    co_await pool.stop();
  });
}

TEST_F(OneStreamEnds, IsCancelledAtEveryPoint) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(2));
    for (const char* const routine : {"count", "count_plain"})
      for (int point = 0; point < 40; ++point) {
        auto stream = pool.stream<long, int>(routine, 1'000'000'000);
        for (int i = 0; i < point * 700; ++i) {
          const std::optional<int> item = co_await stream.next();
          EXPECT_EQ(item, i);
        }
        switch (point % 3) {
          case 0: stream.cancel(); break;
          case 1: stream = {}; break;
          default: {
            const auto gone = std::move(stream);
          }
        }
        if (point % 3 == 0) {
          std::error_code code;
          try {
            for (;;) {
              const std::optional<int> item = co_await stream.next();
              if (!item) break;
            }
          } catch (const std::system_error& e) {
            code = e.code();
          }
          EXPECT_EQ(code, asio::error::operation_aborted);
        }
      }
    const bool idle = co_await until_idle(pool);
    EXPECT_TRUE(idle);
    EXPECT_EQ(pool.stats().restarts, 0u);
    co_await pool.stop();
  });
}

/// A wait that is cancelled loses nothing.
TEST_F(OneStreamEnds, CancelledWaitLosesNoItem) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    auto stream = pool.stream<int, std::string, std::string>("echo");
    const asio::any_io_executor executor = co_await asio::this_coro::executor;
    int received = 0;
    std::list<asio::cancellation_signal> signals;  // the end of a coroutine uses its slot
    for (int i = 0; i < 300; ++i) {
      asio::cancellation_signal& signal = signals.emplace_back();
      std::optional<std::string> got;
      bool over = false;
      const auto read = [&]() -> asio::awaitable<void> {
        try {
          got = co_await stream.next();
        } catch (const std::system_error& e) {
          EXPECT_EQ(e.code(), asio::error::operation_aborted);
        }
        over = true;
      };
      asio::co_spawn(executor, read(), asio::bind_cancellation_slot(signal.slot(), asio::detached));
      co_await stream.send(std::to_string(i));
      if (i % 3 == 0) co_await pause_for(std::chrono::microseconds(i * 3));
      signal.emit(asio::cancellation_type::terminal);
      while (!over) co_await pause_for(0ms);
      if (got) {
        EXPECT_EQ(*got, std::to_string(received++));
      }
    }
    stream.finish();
    for (;;) {
      const std::optional<std::string> item = co_await stream.next();
      if (!item) break;
      EXPECT_EQ(*item, std::to_string(received++));
    }
    EXPECT_EQ(received, 300);
    co_await pool.stop();
  });
}

TEST_F(OneStreamEnds, BlockedRoutineSeesWhyItIsCancelled) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    {
      auto stream = pool.stream<void, int>("reason");
      const std::optional<int> item = co_await stream.next();
      EXPECT_EQ(item, 1);
    }
    const bool idle = co_await until_idle(pool);
    EXPECT_TRUE(idle);
    EXPECT_EQ(pool.stats().restarts, 0u);
    co_await pool.stop();
  });
}

TEST_F(OneStreamEnds, DeadlineEndsIt) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    for (const char* const routine : {"count", "count_plain"}) {
      auto stream = pool.stream<long, int>({.deadline = 50ms}, routine, 1'000'000'000);
      co_await pause_for(80ms);
      std::error_code code;
      try {
        for (;;) (void)co_await stream.next();
      } catch (const std::system_error& e) {
        code = e.code();
      }
      EXPECT_EQ(code, Errc::deadline_exceeded);
    }
    const bool idle = co_await until_idle(pool);
    EXPECT_TRUE(idle);
    co_await pool.stop();
  });
}

TEST_P(StreamEnds, SurviveKillsAtAnyPoint) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(2));
    int broken = 0;
    for (int round = 0; round < 60; ++round) {
      auto stream = pool.stream<int, std::string, std::string>(round % 2 == 0 ? "echo" : "echo_plain");
      try {
        for (int i = 0; i < 100'000; ++i) {
          const std::string item(static_cast<std::size_t>(i % 50) * 37, 'x');
          co_await stream.send(item);
          const std::optional<std::string> back = co_await stream.next();
          EXPECT_EQ(back, item);
          if (i == round) {
            for (const auto& worker : pool.workers()) ::kill(worker.pid, SIGKILL);
          }
        }
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), Errc::worker_exited) << e.what();
        ++broken;
      }
    }
    EXPECT_EQ(broken, 60);
    co_await pool.stop();
  });
}

TEST_F(OneStreamEnds, StopDrainsIt) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    auto stream = pool.stream<long, int>("count", 100'000);
    const std::optional<int> first = co_await stream.next();
    EXPECT_EQ(first, 0);
    auto stop = pool.stop({.grace = 30s});
    int n = 1;
    for (;; ++n) {
      const std::optional<int> item = co_await stream.next();
      if (!item) break;
    }
    EXPECT_EQ(n, 100'000);
    const auto reports = co_await std::move(stop);
    EXPECT_EQ(reports.at(0).cancelled, 0u);
  });
}

TEST_F(OneStreamEnds, StopCancelsItAfterTheGrace) {
  on_one_thread([]() -> asio::awaitable<void> {
    for (const char* const routine : {"count", "count_plain"}) {
      WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
      auto stream = pool.stream<long, int>(routine, 1'000'000'000);
      const std::optional<int> first = co_await stream.next();
      EXPECT_EQ(first, 0);
      const auto reports = co_await pool.stop({.grace = 50ms});
      EXPECT_EQ(reports.at(0).cancelled, 1u);
      std::error_code code;
      try {
        for (;;) (void)co_await stream.next();
      } catch (const std::system_error& e) {
        code = e.code();
      }
      EXPECT_EQ(code, Errc::stopping);
    }
  });
}

TEST_F(OneStreamEnds, WorkerThatIsToldToEndFinishesIt) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = stream_pool(1, 2);
    options.worker.shutdown_grace = 20s;
    options.worker.on_terminate = drover::OnTerminate::drain;
    WorkerPool pool = co_await WorkerPool::start(options);
    for (const char* const routine : {"count", "count_plain"}) {
      auto stream = pool.stream<long, int>(routine, 200'000);
      std::optional<int> item = co_await stream.next();
      EXPECT_EQ(item, 0);
      const auto workers = pool.workers();
      EXPECT_EQ(workers.size(), 1u);
      for (const auto& worker : workers) ::kill(worker.pid, SIGTERM);
      int n = 1;
      for (;; ++n) {
        item = co_await stream.next();
        if (!item) break;
      }
      EXPECT_EQ(n, 200'000) << routine;
      const int square = co_await pool.call<int>("square", 3);
      EXPECT_EQ(square, 9);
    }
    co_await pool.stop();
  });
}

TEST_F(OneStreamEnds, EndsWithItsPoolAndWithItsContext) {
  on_one_thread([]() -> asio::awaitable<void> {
    std::optional<WorkerPool> pool = co_await WorkerPool::start(stream_pool(1));
    auto stream = pool->stream<long, int>("count", 1'000'000'000);
    const std::optional<int> item = co_await stream.next();
    EXPECT_EQ(item, 0);
    pool.reset();
    std::error_code code;
    try {
      for (;;) (void)co_await stream.next();
    } catch (const std::system_error& e) {
      code = e.code();
    }
    EXPECT_EQ(code, asio::error::operation_aborted);
  });
  // The pool's context is destroyed, the reader's lives on.
  std::optional<asio::io_context> lost(std::in_place, 1);
  std::optional<WorkerPool> pool;
  const auto start = [&]() -> asio::awaitable<void> { pool.emplace(co_await WorkerPool::start(stream_pool(1))); };
  asio::co_spawn(*lost, start(), asio::detached);
  while (!pool) lost->run_one();
  auto stream = pool->stream<long, int>("count", 1'000'000'000);
  on_one_thread([&]() -> asio::awaitable<void> {
    const asio::any_io_executor executor = co_await asio::this_coro::executor;
    std::error_code code;
    bool over = false;
    const auto read = [&]() -> asio::awaitable<void> {
      code = co_await code_thrown_by(stream.result());
      over = true;
    };
    asio::co_spawn(executor, read(), asio::detached);
    co_await pause_for(1ms);
    EXPECT_FALSE(over);
    lost.reset();
    while (!over) co_await pause_for(1ms);
    EXPECT_EQ(code, Errc::connection_lost);
    auto late = pool->stream<long, int>("count", 3);
    const std::error_code at_once = co_await code_thrown_by(late.next());
    EXPECT_EQ(at_once, Errc::connection_lost);
  });
}

}  // namespace
