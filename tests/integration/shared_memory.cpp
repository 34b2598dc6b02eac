// Shared text and bytes as arguments and results of calls: they arrive, and nothing of their memory is left over,
// however a call ends.
#include "support/shared_memory.hpp"

#include <cstddef>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <optional>
#include <signal.h>
#include <string>
#include <sys/wait.h>
#include <tuple>
#include <unistd.h>
#include <utility>
#include <vector>

#include <drover/pool/local_worker.hpp>
#include <drover/pool/worker_pool.hpp>
#include <drover/wire/shared_blocks.hpp>

#include "support/calls.hpp"
#include "support/shared_routines.hpp"

namespace {

using namespace support;
using drover::SharedBlocks;
using drover::SharedDraft;

WorkerOptions shared_worker(std::size_t max_in_flight = 1) {
  WorkerOptions options;
  options.command.program = DROVER_HELPER_SHARED_WORKER;
  options.max_in_flight = max_in_flight;
  return options;
}
PoolOptions shared_pool(std::size_t size) {
  PoolOptions options;
  options.size = size;
  options.worker = shared_worker();
  options.restart.backoff = 1ms;
  return options;
}
std::string letters(std::size_t size) {
  std::string text(size, 'a');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>('a' + i % 23);
  return text;
}

/// Each test ends with as many descriptors and mappings as it began with, here (see Processes) and in its worker.
class SharedMemoryOfACall : public Calls {
 protected:
  void SetUp() override {
    Calls::SetUp();
    mappings_ = shared_mappings().size();
  }
  void TearDown() override {
    EXPECT_EQ(shared_mappings().size(), mappings_);
    Calls::TearDown();
  }
  static void with_worker(std::function<asio::awaitable<void>(LocalWorker&)> body, std::size_t max_in_flight = 1) {
    on_one_thread([&]() -> asio::awaitable<void> {
      LocalWorker worker(co_await asio::this_coro::executor, shared_worker(max_in_flight));
      co_await worker.start();
      const auto before = co_await worker.call<std::size_t>("open_descriptors");
      co_await body(worker);
      std::size_t after = 0;
      for (int tries = 0; tries < 100 && after != before; ++tries) {
        after = co_await worker.call<std::size_t>("open_descriptors");
        if (after != before) co_await pause_for(10ms);
      }
      EXPECT_EQ(after, before);
      co_await worker.stop();
    });
  }
  static void with_pool_of(std::size_t size, std::function<asio::awaitable<void>(WorkerPool&)> body) {
    on_one_thread([&]() -> asio::awaitable<void> {
      WorkerPool pool = co_await WorkerPool::start(shared_pool(size));
      co_await body(pool);
      co_await pool.stop();
    });
  }

 private:
  std::size_t mappings_ = 0;
};

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

// ---- blocks ---------------------------------------------------------------------------------------------------------

// A worker maps a block once, and cannot write to it.
TEST_F(SharedMemoryOfACall, OfABlockIsUsedAgain) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    SharedBlocks blocks;
    for (int i = 0; i < 20; ++i) {
      const std::string text = letters(60'000 + static_cast<std::size_t>(i));
      const std::string arrived = co_await worker.call<std::string>("text", blocks.copy_of<std::string>(text));
      EXPECT_EQ(arrived, text);
    }
    const auto mappings = co_await worker.call<std::size_t>("mappings");
    EXPECT_EQ(mappings, 1u);
    const bool writable = co_await worker.call<bool>("is_writable", blocks.copy_of<std::string>("x"));
    EXPECT_FALSE(writable);
    EXPECT_EQ(shared_mappings().size(), 1u);
  });
}

TEST_F(SharedMemoryOfACall, OfABlockIsCopiedIntoAResult) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    SharedBlocks blocks;
    const Text echo = co_await worker.call<Text>("echo", blocks.copy_of<std::string>("first"));
    const std::string next = co_await worker.call<std::string>("text", blocks.copy_of<std::string>("other"));
    EXPECT_EQ(next, "other");
    EXPECT_EQ(echo.view(), "first");
    const Text made = co_await worker.call<Text>("of_blocks", std::string("made"));
    const Text again = co_await worker.call<Text>("of_blocks", std::string("again"));
    EXPECT_EQ(made.view(), "made");
    EXPECT_EQ(again.view(), "again");
  });
}

// Nobody awaits the call any more, but its routine still reads.
TEST_F(SharedMemoryOfACall, OfABlockIsNotUsedWhileARoutineReads) {
  with_worker(
      [](LocalWorker& worker) -> asio::awaitable<void> {
        const auto here = co_await asio::this_coro::executor;
        SharedBlocks blocks;
        const Task<void> busy(here, worker.call<void>("doze", 100));
        const char* place = nullptr;
        {
          Text text = blocks.copy_of<std::string>("first");
          place = text.view().data();
          const Task<std::string> reader(here, worker.call<std::string>("text", std::move(text)));
          co_await pause_for(10ms);
          reader.cancel();
          EXPECT_TRUE((co_await reader.failure()).aborted());
        }
        {
          const Text other = blocks.copy_of<std::string>("other");
          EXPECT_NE(other.view().data(), place);
        }
        co_await busy.ended();
        (void)co_await worker.call<int>("number", 1);  // behind the one that was cancelled
        const Text first = blocks.copy_of<std::string>("1"), second = blocks.copy_of<std::string>("2");
        EXPECT_TRUE(first.view().data() == place || second.view().data() == place);
      },
      4);
}

// ---- the end of a call ----------------------------------------------------------------------------------------------

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
