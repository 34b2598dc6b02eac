// Calls of routines that caller and worker have declared together.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <asio/use_awaitable.hpp>

#include <drover/pool/local_worker.hpp>
#include <drover/pool/worker_pool.hpp>
#include <drover/wire/borrow.hpp>

#include "support/streams.hpp"
#include "support/typed_routines.hpp"

namespace {

using namespace support;
using drover::borrow;

class TypedCall : public Calls {
 protected:
  /// Runs it with a worker.
  static void with_worker(std::function<asio::awaitable<void>(LocalWorker&)> body) {
    on_one_thread([&]() -> asio::awaitable<void> {
      LocalWorker worker(co_await asio::this_coro::executor, call_worker());
      co_await worker.start();
      co_await body(worker);
      co_await worker.stop();
    });
  }

  /// The text of an Errc::bad_arguments.
  template <class T>
  static asio::awaitable<std::string> mismatch(asio::awaitable<T> call) {
    try {
      co_await std::move(call);
    } catch (const drover::Error& error) {
      EXPECT_EQ(error.code(), Errc::bad_arguments);
      co_return error.what();
    }
    co_return "it succeeded";
  }
};

// call() of a declared routine has the type of result that the routine declares.
TEST_F(TypedCall, HasTheResultOfItsRoutine) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    const std::string text = "one two  three ";
    const auto words = co_await worker.call(word_count, text);
    static_assert(std::is_same_v<decltype(words), const int>);
    EXPECT_EQ(words, 3);
    co_await worker.call(do_nothing);
    const std::vector<std::string> links{"a", "b"};
    const Page sent{"title", links, 0.5}, expected{"title", links, 2.5};
    const Page page = co_await worker.call(rank, sent, 2);
    EXPECT_EQ(page, expected);
    const auto six = co_await worker.call(increment, std::make_unique<int>(5));
    EXPECT_EQ(*six, 6);
    const std::string same = co_await worker.call(later, "echo");
    EXPECT_EQ(same, "echo");
    const long four = co_await worker.call(twice, 2);
    EXPECT_EQ(four, 4);
    const int explicitly = co_await worker.call<int>(word_count, text);
    EXPECT_EQ(explicitly, 3);
  });
}

// CallOptions come before a declared routine as before a name, and have their effect.
TEST_F(TypedCall, HasOptions) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(1));
    const drover::CallOptions options{.deadline = 20s};
    const int words = co_await pool.call(options, word_count, "a b");
    EXPECT_EQ(words, 2);
    const int more = co_await pool.call(word_count, "a b c");
    EXPECT_EQ(more, 3);
    const drover::CallOptions tagged{.tags = {"none"}};
    EXPECT_TRUE(co_await failure_of(pool.call(tagged, word_count, "a b")) == Errc::no_such_worker);
    co_await pool.stop();
  });
}

TEST_F(TypedCall, TakesAnyToken) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(1));
    const int words = co_await pool.async_call(word_count, "a b", asio::use_awaitable);
    EXPECT_EQ(words, 2);
    const drover::CallOptions options{.deadline = 20s};
    const std::string text = "a b c";
    const int more = co_await pool.async_call(options, word_count, text, asio::use_awaitable);
    EXPECT_EQ(more, 3);
    std::optional<long> four;
    bool nothing = false;
    pool.async_call(twice, 2, [&](const std::exception_ptr& failure, long result) {
      EXPECT_EQ(failure, nullptr);
      four = result;
    });
    pool.async_call(options, do_nothing, [&](const std::exception_ptr& failure) {
      EXPECT_EQ(failure, nullptr);
      nothing = true;
    });
    EXPECT_FALSE(four || nothing) << "not by async_call()";
    const bool came = co_await soon([&] { return four && nothing; });
    EXPECT_TRUE(came);
    EXPECT_EQ(four, 4);
    const std::string wrong = co_await mismatch(pool.async_call(other::word_count, 1, text, asio::use_awaitable));
    EXPECT_NE(wrong.find("the caller declares the routine as int(int, std::string_view)"), std::string::npos) << wrong;
    co_await pool.stop();
  });
}

// Arguments are converted to the declared parameters: views, literals, durations, spans and numbers.
TEST_F(TypedCall, ConvertsItsArguments) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    using namespace std::literals;
    const int view = co_await worker.call(word_count, "a b"sv);
    EXPECT_EQ(view, 2);
    const std::string one = co_await worker.call(describe_both, 7, 8);
    EXPECT_EQ(one, "7,8");
    const std::string two = co_await worker.call(describe_both, "text", std::nullopt);
    EXPECT_EQ(two, "text,none");
    const bool is = co_await worker.call(is_long, 2s);
    EXPECT_TRUE(is);
    const std::vector<std::byte> bytes(10, std::byte{2});
    const std::uint64_t sum = co_await worker.call(typed_sum, std::span(bytes));
    EXPECT_EQ(sum, 20u);
    const int x = 200;
    const std::uint8_t all = co_await worker.call(numbers, x, 3, 0.1);  // the last one is rounded to a float
    EXPECT_EQ(all, 203);
  });
}

// A number that does not fit its declared parameter is an error that names the number.
TEST_F(TypedCall, CutsNoNumber) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    const std::string large = co_await mismatch(worker.call(numbers, 256, 0, 0.0));
    EXPECT_NE(large.find("the number 256 does not fit into an unsigned integer of 1 bytes"), std::string::npos)
        << large;
    const std::string negative = co_await mismatch(worker.call(numbers, -1, 0, 0.0));
    EXPECT_NE(negative.find("the number -1 does not fit"), std::string::npos) << negative;
  });
}

// borrow() lends text and bytes to a declared routine; lent bytes are no text.
TEST_F(TypedCall, LendsText) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    for (const std::size_t size : {10u, 1000000u}) {
      std::string text(size, 'x');
      const std::size_t found = co_await worker.call(length, borrow(text));
      EXPECT_EQ(found, size);
      const std::vector<std::byte> bytes(size, std::byte{1});
      const std::uint64_t sum = co_await worker.call(typed_sum, borrow(bytes));
      EXPECT_EQ(sum, size);
      const std::size_t moved = co_await worker.call(length, std::move(text));
      EXPECT_EQ(moved, size);
    }
    const std::vector<std::byte> bytes(10);
    const std::string wrong = co_await mismatch(worker.call(length, borrow(bytes)));
    EXPECT_NE(wrong.find("expected a string, found bytes"), std::string::npos) << wrong;
  });
}

// The error of a call that does not fit has the worker's type, and the caller's if it has declared one.
TEST_F(TypedCall, OfAnotherTypeNamesBothTypes) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    for (int round = 0; round < 2; ++round) {  // a call that is reused has forgotten the declaration
      EXPECT_EQ(co_await mismatch(worker.call(other::word_count, 1, "a b")),
                "word_count(std::string) was given other arguments: expected a string, found an integer; the caller "
                "declares the routine as int(int, std::string_view): The arguments do not fit the routine.");
      EXPECT_EQ(co_await mismatch(worker.call<int>("word_count", 1)),
                "word_count(std::string) was given other arguments: expected a string, found an integer: The arguments "
                "do not fit the routine.");
      EXPECT_EQ(
          co_await mismatch(worker.call(other::length, "text")),
          "the result is not of the type that call() asked for: expected a string, found an unsigned integer; the "
          "caller declares the routine as std::string(std::string): The arguments do not fit the routine.");
      EXPECT_EQ(
          co_await mismatch(worker.call<std::string>("length", "text")),
          "the result is not of the type that call() asked for: expected a string, found an unsigned integer: The "
          "arguments do not fit the routine.");
    }
  });
}

// ---- with items -----------------------------------------------------------------------------------------------------

// stream() of a declared routine has the types of items and result that the routine declares.
TEST_F(TypedCall, StreamHasTheItemsOfItsRoutine) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    auto counted = pool.stream(count_items, 100);
    static_assert(std::is_same_v<decltype(counted), Stream<long, int>>);
    const int read = co_await read_all(counted);
    EXPECT_EQ(read, 100);
    const long of_all = co_await counted.result();
    EXPECT_EQ(of_all, 4950);

    const drover::CallOptions options{.deadline = 20s};
    auto summed = pool.stream(options, sum_items);
    static_assert(std::is_same_v<decltype(summed), Stream<long, void, int>>);
    for (int i = 0; i < 5; ++i) co_await summed.send(i);
    summed.finish();
    const long ten = co_await summed.result();
    EXPECT_EQ(ten, 10);

    auto echoed = pool.stream(echo_items);
    static_assert(std::is_same_v<decltype(echoed), Stream<int, std::string, std::string>>);
    co_await echoed.send("text");
    const std::optional<std::string> back = co_await echoed.next();
    EXPECT_EQ(back, "text");
    echoed.finish();
    const int one = co_await echoed.result();
    EXPECT_EQ(one, 1);
    co_await pool.stop();
  });
}

// LocalWorker::stream() takes a declared routine, with CallOptions and without.
TEST_F(TypedCall, StreamOfAWorker) {
  on_one_thread([]() -> asio::awaitable<void> {
    LocalWorker worker(co_await asio::this_coro::executor, stream_pool(1).worker);
    co_await worker.start();
    auto counted = worker.stream(count_items, 3);
    const int read = co_await read_all(counted);
    EXPECT_EQ(read, 3);
    auto bounded = worker.stream(drover::CallOptions{.deadline = 20s}, count_items, 4);
    const long six = co_await bounded.result();
    EXPECT_EQ(six, 6);
    co_await worker.stop();
  });
}

// The error of a stream that does not fit has the caller's type: arguments, direction, items and result.
TEST_F(TypedCall, StreamOfAnotherTypeNamesBothTypes) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(stream_pool(1));
    auto arguments = pool.stream(other::count_items, "text");
    const std::string of_arguments = co_await mismatch(arguments.result());
    EXPECT_EQ(of_arguments,
              "count(int, drover::Sink<int>) was given other arguments: expected an integer, found a string; the "
              "caller declares the routine as long(std::string, drover::Sink<int>&): The arguments do not fit the "
              "routine.");
    auto direction = pool.stream(other::sum_items);
    const std::string of_direction = co_await mismatch(direction.result());
    EXPECT_EQ(of_direction,
              "sum(drover::Source<int>) has items from the caller, its caller has items from the routine; call it by "
              "stream<Result, Out, In>(); the caller declares the routine as long(drover::Sink<int>&): The arguments "
              "do not fit the routine.");
    auto items = pool.stream(other::count_texts, 3);
    const std::string of_items = co_await mismatch(items.next());
    EXPECT_EQ(of_items,
              "an item is not of the type that stream() asked for: expected a string, found an integer; the caller "
              "declares the routine as std::string(int, drover::Sink<std::string>&): The arguments do not fit the "
              "routine.");
    const std::string of_result = co_await mismatch(items.result());
    EXPECT_EQ(of_result,
              "the result is not of the type that stream() asked for: expected a string, found an integer; the caller "
              "declares the routine as std::string(int, drover::Sink<std::string>&): The arguments do not fit the "
              "routine.");
    co_await pool.stop();
  });
}

// An unknown routine, an empty worker and an exception fail a typed call like any other one.
TEST_F(TypedCall, FailsAsOthersDo) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    constexpr drover::Routine<int()> unknown{"unknown"};
    EXPECT_TRUE(co_await failure_of(worker.call(unknown)) == Errc::unknown_routine);
    LocalWorker empty;
    EXPECT_TRUE(co_await failure_of(empty.call(word_count, "a")) == Errc::not_running);
    constexpr drover::Routine<int(std::string)> throwing{"throw_unusual"};
    try {
      co_await worker.call(throwing, "a text");
      ADD_FAILURE() << "nothing was thrown";
    } catch (const RemoteError& error) {
      EXPECT_STREQ(error.what(), "a text");
    }
  });
}

}  // namespace
