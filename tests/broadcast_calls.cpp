// Calls of a broadcast, in workers that drain, exit and take no calls. Calls of keys without memory.
#include <algorithm>
#include <gtest/gtest.h>
#include <memory>
#include <utility>
#include <vector>

#include <drover/pool/broadcast.hpp>

#include "support/failing_allocations.hpp"
#include "support/pinned.hpp"

namespace {
long allowed = -1;  // allocations until one fails; negative: none fails
}
bool support::allocation_fails() noexcept { return allowed >= 0 && allowed-- == 0; }

namespace {

using namespace support;
using drover::SlotResult;

// ---- broadcast ------------------------------------------------------------------------------------------------------

TEST_F(Pinned, BroadcastCallThatItsWorkerGivesBackEnds) {
  FakeWorker worker(context_, dispatcher_, 2);
  call(1);
  std::vector<SlotResult<int>> results;
  asio::co_spawn(context_, drover::detail::begin_broadcast<int>(dispatcher_, {}, "f", 2),
                 [&](const std::exception_ptr&, std::vector<SlotResult<int>> all) { results = std::move(all); });
  run();
  const auto first = worker.next(), second = worker.next();
  ASSERT_TRUE(first && second);
  close_link(worker);
  {
    const auto held = dispatcher_->lock();
    dispatcher_->take_back(worker.link, first->header.id);
  }
  run();
  ASSERT_EQ(results.size(), 1u) << "no other worker has to come first";
  EXPECT_FALSE(results[0].ok());
  EXPECT_EQ(queued(), 0u);
  worker.answer(*first);
  run();
}

TEST_F(Pinned, BroadcastWaitsForTheExitOfAWorkerThatDrains) {
  FakeWorker worker(context_, dispatcher_), other(context_, dispatcher_);
  call(1);
  call(2);
  std::vector<SlotResult<int>> results;
  asio::co_spawn(context_, drover::detail::begin_broadcast<int>(dispatcher_, {}, "f", 3),
                 [&](const std::exception_ptr&, std::vector<SlotResult<int>> all) { results = std::move(all); });
  run();
  close_link(worker);
  answer_all(other);
  answer_all(worker);
  EXPECT_TRUE(results.empty());
  EXPECT_EQ(queued(), 1u);
  worker.die();
  run();
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(std::count_if(results.begin(), results.end(), [](const auto& result) { return result.ok(); }), 1);
}

TEST_F(Pinned, BroadcastLeavesOutWorkersThatTakeNoCalls) {
  FakeWorker closed(context_, dispatcher_), open(context_, dispatcher_);
  close_link(closed);
  std::vector<SlotResult<int>> results;
  asio::co_spawn(context_, drover::detail::begin_broadcast<int>(dispatcher_, {}, "f", 1),
                 [&](const std::exception_ptr&, std::vector<SlotResult<int>> all) { results = std::move(all); });
  run();
  EXPECT_EQ(answer_all(open), std::vector{1});
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].value(), 10);
}

asio::awaitable<void> broadcast_unthrown(std::shared_ptr<Dispatcher> dispatcher) {
  co_await asio::this_coro::throw_if_cancelled(false);
  co_await drover::detail::begin_broadcast<int>(dispatcher, {}, "f", 1);
}

TEST_F(Pinned, BroadcastIsCancelledAsOneWithoutThrowIfCancelled) {
  FakeWorker first(context_, dispatcher_), second(context_, dispatcher_);
  asio::cancellation_signal cancellation;
  std::exception_ptr thrown;
  asio::co_spawn(context_, broadcast_unthrown(dispatcher_),
                 asio::bind_cancellation_slot(cancellation.slot(), [&](std::exception_ptr how) { thrown = how; }));
  run();
  cancellation.emit(asio::cancellation_type::terminal);
  run();
  EXPECT_NE(thrown, nullptr);
  EXPECT_EQ(first.cancelled.size() + second.cancelled.size(), 2u) << "each of the calls";
  answer_all(first);
  answer_all(second);
}

TEST_F(Pinned, BroadcastIsNotRetried) {
  FakeWorker worker(context_, dispatcher_);
  std::vector<SlotResult<int>> results;
  asio::co_spawn(context_,
                 drover::detail::begin_broadcast<int>(dispatcher_, {.retry = {.attempts = 5, .backoff = 60s}}, "f", 2),
                 [&](const std::exception_ptr&, std::vector<SlotResult<int>> all) { results = std::move(all); });
  run();
  worker.die();
  run();
  ASSERT_EQ(results.size(), 1u);
  EXPECT_FALSE(results[0].ok());
}

// ---- no memory ------------------------------------------------------------------------------------------------------

TEST_F(Pinned, KeyIsReleasedIfThereIsNoMemoryForItsCall) {
  dispatcher_->close();
  dispatcher_ = Dispatcher::create(context_.get_executor(), drover::WorkerOptions(), 1, {.after = 1, .span = 60s});
  FakeWorker doomed(context_, dispatcher_);
  call(0, {.key = "poisoned"});
  doomed.die();
  run();
  FakeWorker worker(context_, dispatcher_);
  for (int i = 1; i <= 2; ++i) call(i);  // one waits, so that the queue is full
  for (const char* const key : {"poisoned", "a key that is too long to be kept within its string"}) {
    bool failed = true;
    for (long count = 0; failed; ++count) {
      auto request = dispatcher_->allocate_call();
      drover::Encoder encoder(request->request.buffer());
      encoder.put("f");
      encoder.put(7);
      const CallOptions options{.key = key};
      allowed = count;
      try {
        dispatcher_->submit(request, options);
      } catch (const std::bad_alloc&) {
      }
      failed = std::exchange(allowed, -1) < 0;
      EXPECT_EQ(keys_in_use(), 0u) << key << ", allocation " << count;
    }
  }
  EXPECT_EQ(answer_all(worker), (std::vector{1, 2}));
}

TEST_F(Pinned, CallOfAPoisonedKeyEndsWithoutMemoryForItsText) {
  bool failed = true;
  for (long count = 0; failed; ++count) {
    poison_after(1);
    FakeWorker doomed(context_, dispatcher_);
    call(1, with_key());
    close_link(doomed);
    FakeWorker home(context_, dispatcher_);
    call(2, with_key());
    Caller& poisoned = call(3, with_key());
    doomed.die();
    FakeWorker idle(context_, dispatcher_);
    EXPECT_EQ(queued(), 1u);
    allowed = count;
    close_link(home);
    failed = std::exchange(allowed, -1) < 0;
    EXPECT_EQ(queued(), 0u);
    dispatcher_->run_completions(true);
    run();
    EXPECT_FALSE(poisoned.waits()) << "allocation " << count;
    answer_all(home);
    EXPECT_EQ(keys_in_use(), 0u);
  }
}

}  // namespace
