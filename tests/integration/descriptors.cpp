// Descriptors as arguments and results of calls: the same files arrive, and none is left open, however a call ends.
#include "support/descriptors.hpp"

#include <array>
#include <cerrno>
#include <cstddef>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <optional>
#include <string>
#include <sys/resource.h>
#include <tuple>
#include <unistd.h>
#include <utility>
#include <variant>
#include <vector>

#include <drover/pool/local_worker.hpp>
#include <drover/pool/worker_pool.hpp>

#include "support/descriptor_calls.hpp"

namespace {

using namespace support;

class Descriptors : public Calls {
 protected:
  /// Runs it with a worker, in which as many descriptors are open afterwards as before.
  static void with_worker(std::function<asio::awaitable<void>(LocalWorker&)> body, std::size_t max_in_flight = 1) {
    on_one_thread([&]() -> asio::awaitable<void> {
      LocalWorker worker(co_await asio::this_coro::executor, descriptor_worker(max_in_flight));
      co_await worker.start();
      const auto before = co_await worker.call<std::size_t>("open_descriptors");
      co_await body(worker);
      auto after = co_await worker.call<std::size_t>("open_descriptors");
      for (int tries = 0; after != before && tries < 100; ++tries) {
        co_await pause_for(10ms);
        after = co_await worker.call<std::size_t>("open_descriptors");
      }
      EXPECT_EQ(after, before);
      co_await worker.stop();
    });
  }
};

// A routine reads from a descriptor that it was passed, and that is closed on exec there.
TEST_F(Descriptors, AreArguments) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    for (const std::string routine : {"read", "read_const"}) {
      const std::string text = co_await worker.call<std::string>(routine, pipe_with("some text"));
      EXPECT_EQ(text, "some text");
    }
    const bool closes = co_await worker.call<bool>("closes_on_exec", pipe_with(""));
    EXPECT_TRUE(closes);
  });
}

// A returned descriptor is the same file here, is closed on exec, and is none of the standard ones.
TEST_F(Descriptors, AreResults) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    const UniqueFd file = co_await worker.call<UniqueFd>("open", std::string("/etc/passwd"));
    const UniqueFd same(::open("/etc/passwd", O_RDONLY | O_CLOEXEC));
    EXPECT_TRUE(same_file(file.get(), same.get()));
    EXPECT_TRUE(closes_on_exec(file));
    EXPECT_GT(file.get(), 2);
    try {
      (void)co_await worker.call<UniqueFd>("open", std::string("/nowhere"));
      ADD_FAILURE() << "nothing was thrown";
    } catch (const RemoteError& error) {
      EXPECT_NE(std::string(error.what()).find("/nowhere"), std::string::npos);
    }
  });
}

// Descriptors in structs, vectors, tuples, variants, maps and optionals keep their places in both directions.
TEST_F(Descriptors, AreWithinOtherValues) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    Job job{.name = "job", .in = pipe_with("in"), .log = pipe_with("log"), .more = {}};
    for (const char* const text : {"1", "2", "3"}) job.more.push_back(pipe_with(text));
    const Job turned = co_await worker.call<Job>("turn", std::move(job));
    EXPECT_EQ(turned.name, "job");
    EXPECT_EQ(rest_of(turned.in), "log");
    EXPECT_EQ(rest_of(*turned.log), "in");
    EXPECT_EQ(turned.more.size(), 3u);
    EXPECT_EQ(rest_of(turned.more.at(0)), "3");
    EXPECT_EQ(rest_of(turned.more.at(2)), "1");

    using Pair = std::tuple<int, UniqueFd>;
    const auto pair = co_await worker.call<Pair>("pass", Pair(7, pipe_with("pair")));
    EXPECT_EQ(std::get<0>(pair), 7);
    EXPECT_EQ(rest_of(std::get<1>(pair)), "pair");
    using Either = std::variant<int, UniqueFd>;
    const auto number = co_await worker.call<Either>("either", Either(7));
    EXPECT_EQ(std::get<0>(number), 7);
    const auto either = co_await worker.call<Either>("either", Either(pipe_with("either")));
    EXPECT_EQ(rest_of(std::get<1>(either)), "either");
    std::map<std::string, UniqueFd> map;
    map.emplace("b", pipe_with("b"));
    map.emplace("a", pipe_with("a"));
    const auto same = co_await worker.call<std::map<std::string, UniqueFd>>("map", std::move(map));
    EXPECT_EQ(rest_of(same.at("a")) + rest_of(same.at("b")), "ab");

    const std::string none = co_await worker.call<std::string>("maybe", std::optional<UniqueFd>());
    EXPECT_EQ(none, "none");
    const std::string one = co_await worker.call<std::string>("maybe", pipe_with("one"));
    EXPECT_EQ(one, "one");
    const auto no_result = co_await worker.call<std::optional<UniqueFd>>("maybe_not", false);
    EXPECT_FALSE(no_result);
    const auto result = co_await worker.call<std::optional<UniqueFd>>("maybe_not", true);
    EXPECT_TRUE(result);
  });
}

// Coroutine routines read, return and forward their own descriptors while another call waits.
TEST_F(Descriptors, AreThoseOfCoroutines) {
  with_worker(
      [](LocalWorker& worker) -> asio::awaitable<void> {
        const auto here = co_await asio::this_coro::executor;
        const Task<std::string> late(here, worker.call<std::string>("read_later", pipe_with("late"), 30));
        const std::string early = co_await worker.call<std::string>("read_later", pipe_with("early"), 1);
        EXPECT_EQ(early, "early");
        const UniqueFd pipe = co_await worker.call<UniqueFd>("pipe_later", std::string("text"), 1);
        EXPECT_EQ(rest_of(pipe), "text");
        const UniqueFd forwarded = co_await worker.call<UniqueFd>("forward", pipe_with("forwarded"));
        EXPECT_EQ(rest_of(forwarded), "forwarded");
        const std::string text = co_await late.result();
        EXPECT_EQ(text, "late");
      },
      4);
}

// A descriptor arrives with an argument of 5 MB and with a result of 300,000 bytes.
TEST_F(Descriptors, GoWithLargeMessages) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    for (const std::size_t size : {std::size_t{70'000}, std::size_t{5'000'000}}) {
      std::string text(size, 'x');
      const auto length = co_await worker.call<std::size_t>("read_with", std::move(text), pipe_with("four"));
      EXPECT_EQ(length, size + 4);
    }
    using Large = std::pair<UniqueFd, std::string>;
    const auto large = co_await worker.call<Large>("large", pipe_with("text"));
    EXPECT_EQ(rest_of(large.first), "text");
    EXPECT_EQ(large.second.size(), 300'000u);
  });
}

// Each call gets its own, in whatever company it travels.
TEST_F(Descriptors, AreThoseOfTheirOwnCall) {
  for (const std::size_t at_once : {1u, 16u})
    with_worker(
        [](LocalWorker& worker) -> asio::awaitable<void> {
          const auto here = co_await asio::this_coro::executor;
          std::vector<Task<std::string>> readers;
          std::vector<Task<int>> others;
          for (int i = 0; i < 200; ++i) {
            readers.emplace_back(here, worker.call<std::string>("read", pipe_with(std::to_string(i))));
            others.emplace_back(here, worker.call<int>("number", i));
            if (i % 3 == 0) {
              std::vector<UniqueFd> two;
              two.push_back(pipe_with(std::to_string(i)));
              two.push_back(pipe_with("+"));
              readers.emplace_back(here, worker.call<std::string>("read_all", std::move(two)));
            }
          }
          std::size_t next = 0;
          for (int i = 0; i < 200; ++i) {
            const std::string text = co_await readers.at(next++).result();
            EXPECT_EQ(text, std::to_string(i));
            const int doubled = co_await others.at(static_cast<std::size_t>(i)).result();
            EXPECT_EQ(doubled, 2 * i);
            if (i % 3 != 0) continue;
            const std::string both = co_await readers.at(next++).result();
            EXPECT_EQ(both, std::to_string(i) + "+");
          }
        },
        at_once);
}

// ---- ownership ------------------------------------------------------------------------------------------------------

// After the call nobody can write to the pipe any more, and the caller's UniqueFd is empty.
TEST_F(Descriptors, ThatAreMovedInAreClosedWhenTheCallHasEnded) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    auto [reading, writing] = pipe_ends();
    const auto written = co_await worker.call<long>("write", std::move(writing), std::string("x"));
    EXPECT_EQ(written, 1);
    EXPECT_FALSE(writing);
    EXPECT_EQ(rest_of(reading), "x");  // up to the end of the file
    Job job{.name = "job", .in = pipe_with(""), .log = {}, .more = {}};
    (void)co_await worker.call<Job>("turn", std::move(job));
    EXPECT_FALSE(job.in);
  });
}

// A descriptor can be passed to three calls, and stays open until the caller closes it.
TEST_F(Descriptors, ThatAreNotMovedInStayTheCallers) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    auto [reading, writing] = pipe_ends();
    for (int i = 0; i < 3; ++i) (void)co_await worker.call<long>("write", writing, std::string("x"));
    EXPECT_TRUE(is_open(writing.get()));
    writing.reset();
    EXPECT_EQ(rest_of(reading), "xxx");
  });
}

// An empty or closed descriptor, or more than 64, fails the call as an argument and as a result.
TEST_F(Descriptors, ThatCannotBeSentFailTheirCall) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    const Failure empty = co_await failure_of(worker.call<std::string>("read", UniqueFd()));
    EXPECT_TRUE(empty.argument) << empty;
    EXPECT_NE(empty.text.find("std::optional<drover::UniqueFd>"), std::string::npos) << empty;
    UniqueFd closed = pipe_with("");
    ::close(closed.get());
    const Failure not_open = co_await failure_of(worker.call<std::string>("read", closed));
    EXPECT_EQ(not_open.code, std::errc::bad_file_descriptor) << not_open;
    (void)closed.release();
    std::vector<UniqueFd> many;
    for (int i = 0; i < 65; ++i) many.push_back(pipe_with(""));
    const Failure too_many = co_await failure_of(worker.call<std::string>("read_all", std::move(many)));
    EXPECT_TRUE(too_many.argument) << too_many;
    for (const std::string routine : {"empty", "closed"}) {
      const Failure failure = co_await failure_of(worker.call<UniqueFd>(routine));
      EXPECT_TRUE(failure) << routine;
    }
    const Failure too_many_back = co_await failure_of(worker.call<std::vector<UniqueFd>>("many", std::size_t{65}));
    EXPECT_NE(too_many_back.text.find("at most 64"), std::string::npos) << too_many_back;
    const auto most = co_await worker.call<std::vector<UniqueFd>>("many", std::size_t{64});
    EXPECT_EQ(most.size(), 64u);
    EXPECT_EQ(rest_of(most.at(63)), "63");
  });
}

// ---- types ----------------------------------------------------------------------------------------------------------

// A descriptor in place of a number, or a number in place of a descriptor, is an error that names both.
TEST_F(Descriptors, ThatNobodyTakesAreBadArguments) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    const Failure result = co_await failure_of(worker.call<int>("open", std::string("/etc/passwd")));
    EXPECT_EQ(result, Errc::bad_arguments) << result;
    EXPECT_NE(result.text.find("the result of open has descriptors"), std::string::npos) << result;
    const Failure later = co_await failure_of(worker.call<int>("pipe_later", std::string("x"), 0));
    EXPECT_EQ(later, Errc::bad_arguments) << later;
    const Failure argument = co_await failure_of(worker.call<int>("number", pipe_with("x")));
    EXPECT_EQ(argument, Errc::bad_arguments) << argument;
    EXPECT_NE(argument.text.find("expected an integer, found a descriptor"), std::string::npos) << argument;
    const Failure number = co_await failure_of(worker.call<UniqueFd>("number", 7));
    EXPECT_EQ(number, Errc::bad_arguments) << number;
    EXPECT_NE(number.text.find("expected a descriptor, found an integer"), std::string::npos) << number;
    const Failure unknown = co_await failure_of(worker.call<int>("no such routine", pipe_with("x")));
    EXPECT_EQ(unknown, Errc::unknown_routine) << unknown;
    const Failure second = co_await failure_of(worker.call<std::string>("write", pipe_with("x"), 7));
    EXPECT_EQ(second, Errc::bad_arguments) << second;
    using Wrong = std::pair<UniqueFd, int>;
    const Failure half = co_await failure_of(worker.call<Wrong>("large", pipe_with("x")));  // its fd is decoded first
    EXPECT_EQ(half, Errc::bad_arguments) << half;
    const int twice = co_await worker.call<int>("number", 7);
    EXPECT_EQ(twice, 14);
  });
}

// Its kernel closes them: it need not look for what none of its routines takes.
TEST_F(Descriptors, ForAWorkerThatTakesNoneAreBadArguments) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerOptions options = descriptor_worker();
    options.command.args = {"none"};
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    const auto before = co_await worker.call<std::size_t>("open_descriptors");
    for (int i = 0; i < 3; ++i) {
      const Failure failure = co_await failure_of(worker.call<int>("number", pipe_with("x")));
      EXPECT_EQ(failure, Errc::bad_arguments) << failure;
    }
    const auto after = co_await worker.call<std::size_t>("open_descriptors");
    EXPECT_EQ(after, before);
    co_await worker.stop();
  });
}

// A declared routine takes descriptors, moved or copied, and returns them.
TEST_F(Descriptors, AreThoseOfTypedRoutines) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    const UniqueFd file = co_await worker.call(open_typed, "/etc/passwd");
    EXPECT_TRUE(file);
    const std::string moved = co_await worker.call(read_typed, pipe_with("moved"));
    EXPECT_EQ(moved, "moved");
    const UniqueFd kept = pipe_with("kept");
    const std::string copied = co_await worker.call(read_typed, kept);
    EXPECT_EQ(copied, "kept");
    Job job{.name = "job", .in = pipe_with("in"), .log = pipe_with("log"), .more = {}};
    const Job turned = co_await worker.call(turn_typed, std::move(job));
    EXPECT_EQ(rest_of(turned.in), "log");
    EXPECT_FALSE(job.in);
  });
}

// async_call() takes and returns descriptors with use_awaitable and with a handler.
TEST_F(Descriptors, AreThoseOfCompletionTokens) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    const UniqueFd pipe =
        co_await worker.async_call<UniqueFd>("pipe_later", std::string("text"), 1, asio::use_awaitable);
    EXPECT_EQ(rest_of(pipe), "text");
    const std::string text = co_await worker.async_call<std::string>("read", pipe_with("read"), asio::use_awaitable);
    EXPECT_EQ(text, "read");
    std::optional<UniqueFd> handled;
    worker.async_call<UniqueFd>("forward", pipe_with("handled"), [&](std::exception_ptr failure, UniqueFd fd) {
      EXPECT_FALSE(failure);
      handled = std::move(fd);
    });
    const bool ended = co_await soon([&] { return handled.has_value(); });
    EXPECT_TRUE(ended);
    EXPECT_EQ(rest_of(*handled), "handled");
  });
}

}  // namespace
