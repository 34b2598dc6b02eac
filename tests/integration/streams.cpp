// Streams with real workers: every item once and in order, in bounded memory, whatever reader, routine and worker do.
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

#include "support/calls.hpp"
#include "support/fleet.hpp"

namespace {

using namespace support;
using drover::Stream;

class Streams : public CallsAnywhere {};
class OneStream : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, Streams, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

PoolOptions stream_pool(std::size_t size, std::size_t max_in_flight = 1) {
  PoolOptions options = call_pool(size);
  options.worker.command.program = DROVER_HELPER_STREAM_WORKER;
  options.worker.max_in_flight = max_in_flight;
  options.restart.backoff = options.restart.max_backoff = 1ms;
  options.restart.max_restarts = 10'000;
  return options;
}

asio::awaitable<bool> until_idle(WorkerPool& pool) {
  co_return co_await soon([&] { return pool.stats().in_flight == 0 && pool.stats().queued == 0; });
}

/// Reads to the end, and checks that the items are 0, 1, 2, ...
template <class R>
asio::awaitable<int> read_all(Stream<R, int>& stream) {
  int n = 0;
  for (;;) {
    const std::optional<int> item = co_await stream.next();
    if (!item) co_return n;
    EXPECT_EQ(*item, n++);
  }
}

/// What it throws.
template <class T>
asio::awaitable<std::string> failure_of(asio::awaitable<T> operation) {
  try {
    co_await std::move(operation);
  } catch (const std::exception& e) {
    co_return e.what();
  }
  co_return "";
}
template <class T>
asio::awaitable<std::error_code> code_of(asio::awaitable<T> operation) {
  try {
    co_await std::move(operation);
  } catch (const std::system_error& e) {
    co_return e.code();
  }
  co_return std::error_code();
}

TEST_P(Streams, GiveEachItemOnceAndInOrder) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(2));
    for (const char* const routine : {"count", "count_plain"})
      for (const int n : {0, 1, 2, 1000, 50'000}) {
        auto stream = pool.stream<long, int>(routine, n);
        const int read = co_await read_all(stream);
        EXPECT_EQ(read, n) << routine;
        const std::optional<int> none = co_await stream.next();
        EXPECT_FALSE(none);
        const long sum = co_await stream.result();
        EXPECT_EQ(sum, static_cast<long>(n) * (n - 1) / 2);
      }
    co_await pool.stop();
  });
}

TEST_P(Streams, SendEachItemOnceAndInOrder) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(2));
    for (const char* const routine : {"sum", "sum_plain"})
      for (const int n : {0, 1, 2, 1000, 50'000}) {
        auto stream = pool.stream<long, void, int>(routine);
        for (int i = 0; i < n; ++i) {
          const bool sent = co_await stream.send(i);
          EXPECT_TRUE(sent);
        }
        stream.finish();
        const long sum = co_await stream.result();
        EXPECT_EQ(sum, static_cast<long>(n) * (n - 1) / 2) << routine;
      }
    co_await pool.stop();
  });
}

TEST_P(Streams, GoInBothDirectionsAtOnce) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    for (const char* const routine : {"echo", "echo_plain"})
      for (const std::size_t size : {std::size_t{0}, std::size_t{10}, std::size_t{100'000}, std::size_t{1'000'000}}) {
        const int n = size > 1000 ? 20 : 2000;
        auto stream = pool.stream<int, std::string, std::string>(routine);
        for (int i = 0; i < n; ++i) {
          const std::string item(size, static_cast<char>('a' + i % 26));
          co_await stream.send(item);
          const std::optional<std::string> back = co_await stream.next();
          EXPECT_TRUE(back == item) << routine << size;
        }
        stream.finish();
        const std::optional<std::string> none = co_await stream.next();
        EXPECT_FALSE(none);
        const int items = co_await stream.result();
        EXPECT_EQ(items, n);
      }
    co_await pool.stop();
  });
}

TEST_P(Streams, CanBeWrittenAndReadByTwoCoroutines) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    auto stream = pool.stream<int, std::string, std::string>("echo");
    const auto write = [&]() -> asio::awaitable<void> {
      for (int i = 0; i < 500; ++i) co_await stream.send(std::string(5000, 'x'));
      stream.finish();
    };
    asio::co_spawn(co_await asio::this_coro::executor, write(), asio::detached);
    int n = 0;
    for (;; ++n) {
      const std::optional<std::string> item = co_await stream.next();
      if (!item) break;
      EXPECT_EQ(item->size(), 5000u);
    }
    EXPECT_EQ(n, 500);
    co_await pool.stop();
  });
}

TEST_F(OneStream, ResultDropsWhatWasNotRead) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    for (const char* const routine : {"count", "count_plain"}) {
      auto stream = pool.stream<long, int>(routine, 100'000);
      const std::optional<int> first = co_await stream.next();
      EXPECT_EQ(first, 0);
      const long sum = co_await stream.result();
      EXPECT_EQ(sum, 100'000L * 99'999 / 2);
      const std::string again = co_await failure_of(stream.result());
      EXPECT_NE(again.find("taken already"), std::string::npos) << again;
    }
    co_await pool.stop();
  });
}

TEST_F(OneStream, ReaderThatStopsStopsTheRoutine) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1, 4));
    for (const char* const routine : {"blocks", "count"}) {
      const bool large = routine == std::string("blocks");
      auto blocks =
          pool.stream<void, std::string>("blocks", std::size_t{large ? 200'000u : 1'000u}, std::uint64_t{1} << 40);
      const std::optional<std::string> first = co_await blocks.next();
      EXPECT_TRUE(first);
      // The worker goes on with other calls; the stream's memory does not grow.
      const int square = co_await pool.call<int>("square", 3);
      EXPECT_EQ(square, 9);
      const long before = co_await pool.call<long>("resident_pages");
      for (int i = 0; i < 50; ++i) {
        const long now = co_await pool.call<long>("resident_pages");
        EXPECT_LT(now - before, 1000);
        co_await pause_for(1ms);
      }
      blocks.cancel();
      const bool idle = co_await until_idle(pool);
      EXPECT_TRUE(idle);
    }
    co_await pool.stop();
  });
}

TEST_F(OneStream, RoutineThatStopsStopsTheWriter) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    // Its only item is read, and the window is as large as ever.
    auto stream = pool.stream<int, void, int>("first");
    int sent = 0;
    for (;; ++sent) {
      const bool more = co_await stream.send(sent);
      if (!more) break;
    }
    EXPECT_LT(sent, 100'000);
    const int first = co_await stream.result();
    EXPECT_EQ(first, 0);
    co_await pool.stop();
  });
}

TEST_F(OneStream, LatestKeepsTheLastValueOnly) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    auto progress = pool.stream<void, int>("progress", 300'000);
    int last = 0, values = 0;
    for (;; ++values) {
      const std::optional<int> value = co_await progress.next();
      if (!value) break;
      EXPECT_GT(*value, last);
      last = *value;
    }
    EXPECT_EQ(last, 300'000);
    EXPECT_LT(values, 300'000);

    auto both = pool.stream<void, int>("items_and_progress");
    std::vector<int> items;
    int latest = 0;
    for (;;) {
      const std::optional<int> value = co_await both.next();
      if (!value) break;
      if (*value > 0)
        items.push_back(*value);
      else
        latest = *value;
    }
    EXPECT_EQ(items, (std::vector{1, 2}));
    EXPECT_EQ(latest, -3);
    co_await pool.stop();
  });
}

TEST_F(OneStream, FailureFollowsTheItems) {
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
    const std::string again = co_await failure_of(stream.result());
    EXPECT_EQ(again, "enough");
    co_await pool.stop();
  });
}

TEST_F(OneStream, DeathOfTheWorkerFollowsTheItems) {
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
      EXPECT_EQ(n, items);
      EXPECT_EQ(code, Errc::worker_exited);
    }
    co_await pool.stop();
  });
}

TEST_F(OneStream, IsRetriedOnlyIfNoItemHasCome) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    CallOptions options;
    options.retry.attempts = 3;
    auto with_item = pool.stream<void, int>(options, "die_after", 1);
    const std::optional<int> item = co_await with_item.next();
    EXPECT_EQ(item, 0);
    const std::error_code code = co_await code_of(with_item.next());
    EXPECT_EQ(code, Errc::worker_exited);
    const bool once = co_await soon([&] { return pool.stats().restarts == 1; });
    EXPECT_TRUE(once);
    auto without = pool.stream<void, int>(options, "die_after", 0);
    const std::error_code last = co_await code_of(without.next());
    EXPECT_EQ(last, Errc::worker_exited);
    const bool thrice = co_await soon([&] { return pool.stats().restarts == 4; });
    EXPECT_TRUE(thrice) << "it was made three times";
    co_await pool.stop();
  });
}

TEST_F(OneStream, MismatchIsAnErrorThatSaysSo) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    const std::string no_stream = co_await failure_of(pool.call<long>("count", 3));
    EXPECT_NE(no_stream.find("Sink<int>) has items from the routine, its caller has no items"), std::string::npos)
        << no_stream;
    auto none = pool.stream<int, int>("square", 3);
    const std::string no_sink = co_await failure_of(none.next());
    EXPECT_NE(no_sink.find("square(int) has no items, its caller has items from the routine"), std::string::npos)
        << no_sink;
    auto other = pool.stream<long, void, int>("count", 3);
    const std::string direction = co_await failure_of(other.send(1));
    EXPECT_NE(direction.find("its caller has items from the caller"), std::string::npos) << direction;
    auto text = pool.stream<void, int>("text");
    const std::string type = co_await failure_of(text.next());
    EXPECT_NE(type.find("an item is not of the type that stream() asked for"), std::string::npos) << type;
    auto sum = pool.stream<std::string, void, int>("sum");
    sum.finish();
    const std::string result = co_await failure_of(sum.result());
    EXPECT_NE(result.find("the result is not of the type that stream() asked for"), std::string::npos) << result;
    auto numbers = pool.stream<long, void, std::string>("sum");
    co_await numbers.send("no number");
    const std::string argument = co_await failure_of(numbers.result());
    EXPECT_NE(argument.find("Source<int>) was given other arguments: an item: "), std::string::npos) << argument;
    auto unknown = pool.stream<void, int>("nothing");
    const std::error_code code = co_await code_of(unknown.next());
    EXPECT_EQ(code, Errc::unknown_routine);
    co_await pool.stop();
  });
}

TEST_F(OneStream, MisuseIsALogicError) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1, 2));
    auto sum = pool.stream<long, void, int>("sum");
    co_await sum.send(1);
    sum.finish();
    sum.finish();
    EXPECT_THROW((void)sum.send(2), std::logic_error);
    const long one = co_await sum.result();
    EXPECT_EQ(one, 1);

    auto echo = pool.stream<int, std::string, std::string>("echo");
    asio::awaitable<std::optional<std::string>> first = echo.next();
    EXPECT_THROW((void)echo.next(), std::logic_error);
    EXPECT_THROW((void)echo.result(), std::logic_error);
    co_await echo.send("x");
    const std::optional<std::string> x = co_await std::move(first);
    EXPECT_EQ(x, "x");
    echo.cancel();

    auto kept = pool.stream<void, int, int>("keep");
    co_await kept.result();
    const std::string texts = co_await pool.call<std::string>("use_kept");
    std::string five;
    for (int i = 0; i < 5; ++i) five += "the call that this Sink or Source belongs to has ended;";
    EXPECT_EQ(texts, five);

    auto two = pool.stream<std::string, void, int>("two_readers");
    const std::string text = co_await two.result();
    EXPECT_EQ(text, "a Source has one reader: another next() is waiting");

    Stream<int, int> empty;
    EXPECT_THROW((void)empty.next(), std::logic_error);
    empty.cancel();
    Stream<int, int> from = pool.stream<int, int>("count", 1);
    empty = std::move(from);
    EXPECT_THROW((void)from.result(), std::logic_error);
    const std::optional<int> item = co_await empty.next();
    EXPECT_EQ(item, 0);
    co_await pool.stop();
  });
}

TEST_F(OneStream, ItemsOverTheLimitAreRefused) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = stream_pool(1);
    options.worker.max_message_size = 100'000;
    WorkerPool pool = co_await WorkerPool::start(options);
    auto in = pool.stream<int, std::string, std::string>("echo");
    std::error_code code;
    try {
      co_await in.send(std::string(200'000, 'x'));
    } catch (const std::system_error& e) {
      code = e.code();
    }
    EXPECT_EQ(code, Errc::message_too_large);
    co_await in.send("small");
    const std::optional<std::string> small = co_await in.next();
    EXPECT_EQ(small, "small");
    in.cancel();
    auto out = pool.stream<void, std::string>("blocks", std::size_t{200'000}, std::uint64_t{1});
    const std::string text = co_await failure_of(out.next());
    EXPECT_NE(text.find("max_message_size allows 100000"), std::string::npos) << text;
    co_await pool.stop();
  });
}

TEST_F(OneStream, IsCancelledAtEveryPoint) {
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
TEST_F(OneStream, CancelledWaitLosesNoItem) {
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

TEST_F(OneStream, BlockedRoutineSeesWhyItIsCancelled) {
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

TEST_F(OneStream, DeadlineEndsIt) {
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

TEST_P(Streams, SurviveKillsAtAnyPoint) {
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

TEST_F(OneStream, ThousandOverOneWorker) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1, 1000));
    const asio::any_io_executor executor = co_await asio::this_coro::executor;
    int done = 0;
    const auto one = [&](int n) -> asio::awaitable<void> {
      auto stream = pool.stream<long, int>("count", n);
      const int read = co_await read_all(stream);
      EXPECT_EQ(read, n);
      ++done;
    };
    for (int i = 0; i < 1000; ++i) asio::co_spawn(executor, one(100 + i % 7), asio::detached);
    const bool all = co_await soon([&] { return done == 1000; }, 50s);
    EXPECT_TRUE(all);
    co_await pool.stop();
  });
}

TEST_F(OneStream, StopDrainsIt) {
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

TEST_F(OneStream, StopCancelsItAfterTheGrace) {
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

TEST_F(OneStream, WorkerThatIsToldToEndFinishesIt) {
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

TEST_F(OneStream, OtherCallsOfItsWorkerAreKeptMeanwhile) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1, 8));
    auto blocked = pool.stream<int, std::string, std::string>("echo_plain");
    co_await blocked.send("a");
    const std::optional<std::string> a = co_await blocked.next();
    EXPECT_EQ(a, "a");
    // The routine blocks the worker's main thread, and takes its items all the same.
    std::vector<asio::awaitable<int>> calls;
    for (int i = 0; i < 5; ++i) calls.push_back(pool.call<int>("square", i));
    for (int i = 0; i < 100; ++i) {
      co_await blocked.send(std::string(10'000, 'b'));
      const std::optional<std::string> b = co_await blocked.next();
      EXPECT_EQ(b->size(), 10'000u);
    }
    blocked.finish();
    for (int i = 0; i < 5; ++i) {
      const int square = co_await std::move(calls[static_cast<std::size_t>(i)]);
      EXPECT_EQ(square, i * i);
    }
    const int items = co_await blocked.result();
    EXPECT_EQ(items, 101);
    co_await pool.stop();
  });
}

TEST_F(OneStream, EndsWithItsPoolAndWithItsContext) {
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
  asio::co_spawn(
      *lost, [&]() -> asio::awaitable<void> { pool.emplace(co_await WorkerPool::start(stream_pool(1))); }(),
      asio::detached);
  while (!pool) lost->run_one();
  auto stream = pool->stream<long, int>("count", 1'000'000'000);
  on_one_thread([&]() -> asio::awaitable<void> {
    const asio::any_io_executor executor = co_await asio::this_coro::executor;
    std::error_code code;
    bool over = false;
    const auto read = [&]() -> asio::awaitable<void> {
      code = co_await code_of(stream.result());
      over = true;
    };
    asio::co_spawn(executor, read(), asio::detached);
    co_await pause_for(1ms);
    EXPECT_FALSE(over);
    lost.reset();
    while (!over) co_await pause_for(1ms);
    EXPECT_EQ(code, Errc::connection_lost);
    auto late = pool->stream<long, int>("count", 3);
    const std::error_code at_once = co_await code_of(late.next());
    EXPECT_EQ(at_once, Errc::connection_lost);
  });
}

}  // namespace
