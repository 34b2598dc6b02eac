// Shared text and bytes as arguments and results of calls: they arrive, and nothing of their memory is left over,
// however a call ends.
#include <cstddef>
#include <cstring>
#include <future>
#include <gtest/gtest.h>
#include <memory>
#include <signal.h>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <tuple>
#include <unistd.h>
#include <utility>
#include <vector>

#include <drover/wire/shared_blocks.hpp>

#include "support/shared_calls.hpp"

namespace {

using namespace support;
using drover::SharedBlocks;
using drover::SharedDraft;

// Text and bytes arrive, of 0 to 5,000,000 bytes, and the worker has none of them mapped afterwards.
TEST_F(SharedMemoryOfACall, IsAnArgument) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{70'000}, std::size_t{5'000'000}}) {
      const Text text = Text::copy_of(letters(size));
      const std::string arrived = co_await worker.call<std::string>("text", text);
      EXPECT_EQ(arrived, text.view());
    }
    const std::string bytes = co_await worker.call<std::string>("bytes", Bytes::copy_of(bytes_of("bytes")));
    EXPECT_EQ(bytes, "bytes");
    SharedDraft<std::string> draft(4);
    std::memcpy(draft.bytes().data(), "text", 4);
    const std::string drafted = co_await worker.call<std::string>("text", std::move(draft).seal());
    EXPECT_EQ(drafted, "text");
    const auto mappings = co_await worker.call<std::size_t>("mappings");
    EXPECT_EQ(mappings, 0u);
  });
}

// Plain, declared and coroutine routines return shared text.
TEST_F(SharedMemoryOfACall, IsAResult) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{5'000'000}}) {
      const Text made = co_await worker.call<Text>("make", size, 'x');
      EXPECT_EQ(made.view(), std::string(size, 'x'));
    }
    const Text reversed = co_await worker.call<Text>("reversed", Text::copy_of("abc"));
    EXPECT_EQ(reversed.view(), "cba");
    const Text typed = co_await worker.call(reversed_typed, reversed);
    EXPECT_EQ(typed.view(), "abc");
    const Text late = co_await worker.call<Text>("shared_later", std::string("late"), 1);
    EXPECT_EQ(late.view(), "late");
  });
}

// Shared members of structs, vectors and tuples keep their places in both directions.
TEST_F(SharedMemoryOfACall, IsWithinOtherValues) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    Page page{.name = "page", .text = Text::copy_of("abc"), .parts = {}};
    for (const char* const part : {"1", "2", ""}) page.parts.push_back(Bytes::copy_of(bytes_of(part)));
    const Page turned = co_await worker.call<Page>("turned", page);
    EXPECT_EQ(turned.name + std::string(turned.text.view()), "pagecba");
    EXPECT_EQ(turned.parts.size(), 3u);
    EXPECT_EQ(text_of(turned.parts.at(1).view()) + text_of(turned.parts.at(2).view()), "21");
    EXPECT_EQ(page.text.view(), "abc");
    using Pair = std::tuple<int, Text>;
    const auto pair = co_await worker.call<Pair>("pass", Pair(7, Text::copy_of("pair")));
    EXPECT_EQ(std::get<1>(pair).view(), "pair");
  });
}

// The bytes are not copied on their way through this process.
TEST_F(SharedMemoryOfACall, GoesFromWorkerToWorker) {
  with_pool_of(2, [](WorkerPool& pool) -> asio::awaitable<void> {
    const Text made = co_await pool.call<Text>("make", std::size_t{100'000}, 'x');
    const Text echo = co_await pool.call<Text>("echo", made);
    EXPECT_EQ(echo.view(), std::string(100'000, 'x'));
    const auto file = [](const Text& text) { return drover::detail::SharedAccess::memory(text)->file(); };
    EXPECT_EQ(drover::detail::identity_of(file(made)), drover::detail::identity_of(file(echo)));
  });
}

// Shared memory that the other side does not take is Errc::bad_arguments.
TEST_F(SharedMemoryOfACall, ThatNobodyTakesIsBadArguments) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    const Failure result = co_await failure_of(worker.call<int>("make", std::size_t{3}, 'x'));
    EXPECT_EQ(result, Errc::bad_arguments) << result;
    const Failure argument = co_await failure_of(worker.call<int>("number", Text::copy_of("x")));
    EXPECT_EQ(argument, Errc::bad_arguments) << argument;
    EXPECT_NE(argument.text.find("expected an integer, found shared text"), std::string::npos) << argument;
    const Failure other = co_await failure_of(worker.call<std::string>("bytes", Text::copy_of("x")));
    EXPECT_NE(other.text.find("expected shared bytes, found shared text"), std::string::npos) << other;
  });
}

// 10,000 shared bytes are above a max_message_size of 10,000, as an argument and as a result; 9,900 are not.
TEST_F(SharedMemoryOfACall, CountsTowardsTheSizeOfAMessage) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerOptions options = shared_worker();
    options.max_message_size = 10'000;
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    const Text large = Text::copy_of(letters(10'000));
    const Failure argument = co_await failure_of(worker.call<std::size_t>("size", large));
    EXPECT_EQ(argument, Errc::message_too_large) << argument;
    const Failure result = co_await failure_of(worker.call<Text>("make", std::size_t{10'000}, 'x'));
    EXPECT_EQ(result, Errc::message_too_large) << result;
    const Text most = co_await worker.call<Text>("make", std::size_t{9'900}, 'x');
    EXPECT_EQ(most.size(), 9'900u);
    co_await worker.stop();
  });
}

// ---- the end of a call ----------------------------------------------------------------------------------------------

// To unmap large memory takes a while, in which other threads call and cancel.
TEST_F(SharedMemoryOfACall, IsFreedWithoutTheLockOfItsWorker) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    using drover::detail::SharedMemory;
    bool freed = false, unlocked = false;
    {
      const auto kept = drover::detail::SharedAccess::memory(Text::copy_of("text"));
      std::shared_ptr<const SharedMemory> watched(kept.get(), [&, kept](const SharedMemory*) {
        std::promise<void> answered;
        std::thread other([&] {
          (void)worker.alive();
          answered.set_value();
        });
        freed = true;
        unlocked = answered.get_future().wait_for(5s) == std::future_status::ready;
        unlocked ? other.join() : other.detach();
      });
      auto text = drover::detail::SharedAccess::make<std::string>(std::move(watched), 4);
      const std::string arrived = co_await worker.call<std::string>("text", std::move(text));
      EXPECT_EQ(arrived, "text");
    }
    EXPECT_TRUE(freed);
    EXPECT_TRUE(unlocked);
  });
}

// Calls that are cancelled, and one that is never awaited, leave no mapping in the parent.
TEST_F(SharedMemoryOfACall, ThatIsCancelledIsFreed) {
  with_worker(
      [](LocalWorker& worker) -> asio::awaitable<void> {
        const auto here = co_await asio::this_coro::executor;
        const std::size_t before = shared_mappings().size();
        {
          const Task<std::string> argument(here, worker.call<std::string>("text_later", Text::copy_of("x"), 60'000));
          const Task<Text> result(here, worker.call<Text>("shared_later", std::string("x"), 60'000));
          co_await pause_for(20ms);
          argument.cancel();
          result.cancel();
          EXPECT_TRUE((co_await argument.failure()).aborted());
          EXPECT_TRUE((co_await result.failure()).aborted());
          auto unused = worker.call<Text>("make", std::size_t{100}, 'x');
          co_await pause_for(20ms);
        }
        const bool freed = co_await soon([&] { return shared_mappings().size() == before; });
        EXPECT_TRUE(freed);
        const int two = co_await worker.call<int>("number", 1);
        EXPECT_EQ(two, 2);
      },
      4);
}

// The block of a call whose worker has exited is used again. The fixture looks for what is left of other memory.
TEST_F(SharedMemoryOfACall, WhoseWorkerDiesIsFreed) {
  with_pool_of(1, [](WorkerPool& pool) -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    SharedBlocks blocks;
    const char* place = nullptr;
    {
      Text text = blocks.copy_of<std::string>("x");
      place = text.view().data();
      const Failure failure = co_await failure_of(pool.call<void>("exit_with", std::move(text)));
      EXPECT_EQ(failure, Errc::worker_exited) << failure;
    }
    const Text again = blocks.copy_of<std::string>("y");
    EXPECT_EQ(again.view().data(), place);
    const auto pid = co_await pool.call<pid_t>("pid");
    const Task<std::string> reader(here, pool.call<std::string>("text_later", Text::copy_of("x"), 60'000));
    co_await pause_for(20ms);
    ::kill(pid, SIGKILL);
    const Failure killed = co_await reader.failure();
    EXPECT_EQ(killed, Errc::worker_exited) << killed;
  });
}

// The third attempt of a call has its text, in sealed memory and in a block.
TEST_F(SharedMemoryOfACall, ThatIsMadeAgainIsSentAgain) {
  with_pool_of(1, [](WorkerPool& pool) -> asio::awaitable<void> {
    const CallOptions again{.retry = {.attempts = 3}};
    SharedBlocks blocks;
    for (Text text : {Text::copy_of("text"), blocks.copy_of<std::string>("text")}) {
      const std::string arrived = co_await pool.call<std::string>(again, "text_in_attempt", 3u, std::move(text));
      EXPECT_EQ(arrived, "text");
    }
  });
}

// ---- pools ----------------------------------------------------------------------------------------------------------

// Each of three workers reads the text of a broadcast, and returns shared memory of its own.
TEST_F(SharedMemoryOfACall, OfABroadcastIsTheSameForEachWorker) {
  with_pool_of(3, [](WorkerPool& pool) -> asio::awaitable<void> {
    SharedBlocks blocks;
    for (const Text& text : {Text::copy_of("text"), blocks.copy_of<std::string>("text")}) {
      const auto arrived = co_await pool.broadcast<std::string>("text", text);
      EXPECT_EQ(arrived.size(), 3u);
      for (const auto& each : arrived) EXPECT_EQ(each.value(), "text");
    }
    const auto made = co_await pool.broadcast<Text>("make", std::size_t{10}, 'x');
    for (const auto& each : made) EXPECT_EQ(each.value().view(), "xxxxxxxxxx");
  });
}

// An ordered map() returns each of 60 texts, every other one in a block.
TEST_F(SharedMemoryOfACall, OfAMapArrivesWithItsItems) {
  with_pool_of(2, [](WorkerPool& pool) -> asio::awaitable<void> {
    SharedBlocks blocks;
    std::vector<Text> texts;
    for (int i = 0; i < 60; ++i) {
      const std::string text = letters(1000) + std::to_string(i);
      texts.push_back(i % 2 == 0 ? Text::copy_of(text) : blocks.copy_of<std::string>(text));
    }
    auto results = pool.map<Text>({.ordered = true}, "echo", texts);
    for (std::size_t i = 0;; ++i) {
      auto done = co_await results.next();
      if (!done) break;
      EXPECT_EQ(done->value().view(), texts.at(i).view());
    }
  });
}

// A forked copy of the program can read what it has, and leaves the original's memory alone.
TEST_F(SharedMemoryOfACall, IsReadInAForkedCopy) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    SharedBlocks blocks;
    const Text sealed = co_await worker.call<Text>("make", std::size_t{10}, 'x');
    const Text block = blocks.copy_of<std::string>("block");
    const pid_t copy = ::fork();
    if (copy == 0) {
      const Text other = blocks.copy_of<std::string>("other");
      ::_exit(sealed.view() == "xxxxxxxxxx" && other.view() == "other" ? 0 : 1);
    }
    int status = 0;
    ::waitpid(copy, &status, 0);
    EXPECT_EQ(status, 0);
    const std::string arrived = co_await worker.call<std::string>("text", block);
    EXPECT_EQ(arrived, "block");
  });
}

}  // namespace
