// Streams with real workers: every item once and in order, in bounded memory, whatever reader and routine do.
#include "support/streams.hpp"

#include <cstdint>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <list>
#include <optional>
#include <set>
#include <signal.h>
#include <stdexcept>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>

namespace {

using namespace support;

class Streams : public CallsAnywhere {};
class OneStream : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, Streams, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// Up to 50,000 items of a coroutine or of a plain function arrive in order; then comes the end, then the result.
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

// The routine's sum shows that each of up to 50,000 items of the caller has arrived once.
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

// Each item, of 0 bytes to 1 MB, returns from a routine before the next one is sent.
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

// One coroutine sends all items while another one reads what the routine sends back.
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

// result() after one of 100,000 items still has the routine's result, and can be taken once.
TEST_F(OneStream, ResultDropsWhatWasNotRead) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    for (const char* const routine : {"count", "count_plain"}) {
      auto stream = pool.stream<long, int>(routine, 100'000);
      const std::optional<int> first = co_await stream.next();
      EXPECT_EQ(first, 0);
      const long sum = co_await stream.result();
      EXPECT_EQ(sum, 100'000L * 99'999 / 2);
      const std::string again = co_await text_thrown_by(stream.result());
      EXPECT_NE(again.find("taken already"), std::string::npos) << again;
    }
    co_await pool.stop();
  });
}

// While nobody reads, the worker answers other calls and its memory does not grow; cancel() ends the routine.
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

// send() returns false soon after the routine has returned, though the caller would send for ever.
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

// A reader of latest() misses values, but the last one always arrives. Items among them are never missed.
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

// The last value arrives while the plain routine blocks, until the test has seen the value.
TEST_F(OneStream, LatestArrivesWhileAPlainRoutineGoesOn) {
  const std::string fifo = ::testing::TempDir() + "drover_progress." + std::to_string(::getpid());
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  on_one_thread([&]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    auto progress = pool.stream<void, int>({.deadline = 20s, .kill_after = 0ms}, "progress_and_wait", fifo);
    int last = 0;
    while (last != 5) {
      const std::optional<int> value = co_await progress.next();
      last = value.value();
    }
    ::close(::open(fifo.c_str(), O_WRONLY | O_CLOEXEC));
    co_await progress.result();
    co_await pool.stop();
  });
  ::unlink(fifo.c_str());
}

// The error of a wrong direction, item or result names what the routine has and what its caller asks for.
TEST_F(OneStream, MismatchIsAnErrorThatSaysSo) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    const std::string no_stream = co_await text_thrown_by(pool.call<long>("count", 3));
    EXPECT_NE(no_stream.find("Sink<int>) has items from the routine, its caller has no items"), std::string::npos)
        << no_stream;
    auto none = pool.stream<int, int>("square", 3);
    const std::string no_sink = co_await text_thrown_by(none.next());
    EXPECT_NE(no_sink.find("square(int) has no items, its caller has items from the routine"), std::string::npos)
        << no_sink;
    auto other = pool.stream<long, void, int>("count", 3);
    const std::string direction = co_await text_thrown_by(other.send(1));
    EXPECT_NE(direction.find("its caller has items from the caller"), std::string::npos) << direction;
    auto text = pool.stream<void, int>("text");
    const std::string type = co_await text_thrown_by(text.next());
    EXPECT_NE(type.find("an item is not of the type that stream() asked for"), std::string::npos) << type;
    auto sum = pool.stream<std::string, void, int>("sum");
    sum.finish();
    const std::string result = co_await text_thrown_by(sum.result());
    EXPECT_NE(result.find("the result is not of the type that stream() asked for"), std::string::npos) << result;
    auto numbers = pool.stream<long, void, std::string>("sum");
    co_await numbers.send("no number");
    const std::string argument = co_await text_thrown_by(numbers.result());
    EXPECT_NE(argument.find("Source<int>) was given other arguments: an item: "), std::string::npos) << argument;
    auto unknown = pool.stream<void, int>("nothing");
    const std::error_code code = co_await code_thrown_by(unknown.next());
    EXPECT_EQ(code, Errc::unknown_routine);
    co_await pool.stop();
  });
}

// Misuse throws std::logic_error: a send after finish(), a second reader, the Sink of a call that has ended.
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

// An item above max_message_size fails the caller's send(), not the stream; in the routine it fails the call.
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
    const std::string text = co_await text_thrown_by(out.next());
    EXPECT_NE(text.find("max_message_size allows 100000"), std::string::npos) << text;
    co_await pool.stop();
  });
}

// A thousand streams share one worker at once, and each has all of its items.
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

// Calls that arrive while a plain routine reads and writes its stream all have their results in the end.
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

}  // namespace
