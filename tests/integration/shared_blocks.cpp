// Memory of SharedBlocks as arguments of calls: it is filled again, but not while a worker may read it.
#include <cstddef>
#include <gtest/gtest.h>
#include <optional>
#include <string>
#include <utility>

#include <drover/wire/shared_blocks.hpp>

#include "support/shared_calls.hpp"

namespace {

using namespace support;
using drover::SharedBlocks;

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

// A result does not change when the block from which it came is filled again.
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

/// Of its memory. An address may be that of other memory later.
drover::detail::FdIdentity identity_of(const Text& text) {
  return drover::detail::identity_of(drover::detail::SharedAccess::memory(text)->file()).value();
}

// The call has ended, but its worker has a while to exit and still reads.
TEST_F(SharedMemoryOfACall, OfABlockIsNotUsedAfterItsOwnerIsDestroyed) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    SharedBlocks blocks;
    WorkerOptions options = shared_worker();
    options.max_in_flight = 2;
    std::optional<LocalWorker> worker(std::in_place, here, options);
    co_await worker->start();
    Text first = blocks.copy_of<std::string>("first");
    const auto lent = identity_of(first);
    {
      const Task<void> busy(here, worker->call<void>("doze", 1000));  // it does not exit before that
      const Task<std::string> reader(here, worker->call<std::string>("text", std::move(first)));
      worker.reset();
      EXPECT_TRUE((co_await reader.failure()).aborted());
    }
    const Text other = blocks.copy_of<std::string>("other");
    EXPECT_NE(identity_of(other), lent);
  });
}

WorkerOptions worker_behind_a_wrapper() {
  WorkerOptions options = shared_worker();
  options.command.program = "/bin/sh";
  options.command.args = {"-c", "\"$0\" & wait", DROVER_HELPER_SHARED_WORKER};
  options.term_grace = 100ms;
  return options;
}

// The call ends with the wrapper.
TEST_F(SharedMemoryOfACall, OfABlockIsNotUsedWhileAWorkerOutlivesItsWrapper) {
  on_one_thread([]() -> asio::awaitable<void> {
    SharedBlocks blocks;
    LocalWorker worker(co_await asio::this_coro::executor, worker_behind_a_wrapper());
    co_await worker.start();
    Text first = blocks.copy_of<std::string>("first");
    const auto lent = identity_of(first);
    const Failure failure = co_await failure_of(worker.call<std::string>("kill_wrapper", 1u, std::move(first)));
    EXPECT_EQ(failure, Errc::worker_exited) << failure;
    const Text other = blocks.copy_of<std::string>("other");
    EXPECT_NE(identity_of(other), lent);
    co_await worker.stop();
  });
}

// Another worker has answered, but the first one still reads.
TEST_F(SharedMemoryOfACall, OfABlockIsNotUsedWhileAWorkerOutlivesItsAttempt) {
  on_one_thread([]() -> asio::awaitable<void> {
    SharedBlocks blocks;
    PoolOptions options = shared_pool(1);
    options.worker = worker_behind_a_wrapper();
    WorkerPool pool = co_await WorkerPool::start(options);
    Text first = blocks.copy_of<std::string>("first");
    const auto lent = identity_of(first);
    const CallOptions again{.retry = {.attempts = 2}};
    const std::string arrived = co_await pool.call<std::string>(again, "kill_wrapper", 1u, std::move(first));
    EXPECT_EQ(arrived, "first");
    const Text other = blocks.copy_of<std::string>("other");
    EXPECT_NE(identity_of(other), lent);
    co_await pool.stop();
  });
}

}  // namespace
