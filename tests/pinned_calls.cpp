// Calls with a key: none is stuck, starved or counted twice.
#include <algorithm>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <vector>

#include <drover/pool/detail/call/queue_watcher.hpp>

#include "support/pinned.hpp"

namespace {

using namespace support;

// ---- none is stuck --------------------------------------------------------------------------------------------------

TEST_F(Pinned, RestedCallGoesToTheIdleWorkerOfItsKey) {
  FakeWorker first(context_, dispatcher_);
  CallOptions options = with_key();
  options.retry = {.attempts = 2, .backoff = 20ms};
  Caller& retried = call(1, options);
  first.die();
  run();
  FakeWorker second(context_, dispatcher_);
  call(2, with_key());
  EXPECT_EQ(answer_all(second), std::vector{2});
  EXPECT_TRUE(run_until([&] { return answer_all(second) == std::vector{1}; }));
  EXPECT_EQ(retried.value, 10);
}

TEST_F(Pinned, RetriedCallGoesToTheIdleWorkerOfItsKey) {
  FakeWorker first(context_, dispatcher_);
  CallOptions options = with_key();
  options.retry = {.attempts = 2};
  Caller& retried = call(1, options);
  close_link(first);
  FakeWorker second(context_, dispatcher_);
  call(2, with_key());
  EXPECT_EQ(answer_all(second), std::vector{2});
  first.die();
  EXPECT_EQ(answer_all(second), std::vector{1});
  EXPECT_EQ(retried.value, 10);
}

// The result of the call before it overtakes RECALLED, which comes on another socket.
TEST_F(Pinned, RecalledCallGoesBackToItsIdleWorker) {
  auto home = quick_worker();
  FakeWorker other(context_, dispatcher_);
  call(1);
  call(2);
  Caller& recalled = call(3, with_key());
  const auto running = home->next(), ahead = home->next();
  ASSERT_TRUE(running && is_ahead(ahead));
  ASSERT_TRUE(run_until([&] { return !home->recalled.empty(); }));
  home->answer(*running);
  EXPECT_TRUE(home->give_back(ahead->header.id));
  EXPECT_EQ(answer_all(*home), std::vector{3});
  run();
  EXPECT_EQ(recalled.value, 30);
  answer_all(other);
}

TEST_F(Pinned, CallGetsTheRoomOfOneThatWasGivenBack) {
  auto home = quick_home();
  call(1);
  Caller& cancelled = call(2);
  const auto running = home->next(), ahead = home->next();
  ASSERT_TRUE(running && is_ahead(ahead));
  call(3, with_key());
  cancelled.cancellation.emit(asio::cancellation_type::terminal);
  run();
  home->answer(*running);
  EXPECT_FALSE(home->next());
  EXPECT_TRUE(home->give_back(ahead->header.id));
  EXPECT_EQ(answer_all(*home), std::vector{3});
}

TEST_F(Pinned, CallTakesTheRoomThatItsWorkerHas) {
  FakeWorker old(context_, dispatcher_);
  for (int i = 1; i <= 3; ++i) call(i, with_key());
  FakeWorker a(context_, dispatcher_, 2), b(context_, dispatcher_, 2);
  close_link(old);
  std::vector<Received> sent;
  for (FakeWorker* const worker : {&a, &b})
    while (const auto call = worker->next()) sent.push_back(*call);
  EXPECT_EQ(sent.size(), 2u) << "each of the calls has begun";
  EXPECT_TRUE(a.link.in_flight() == 2 || b.link.in_flight() == 2);
  for (const Received& call : sent) (a.link.in_flight() != 0 ? a : b).answer(call);
  answer_all(old);
}

TEST_F(Pinned, CallFailsWithItsPool) {
  FakeWorker home(context_, dispatcher_);
  call(1, with_key());
  Caller& second = call(2, with_key());
  const auto cause = [] { return std::make_exception_ptr(drover::Error(Errc::stopping, "a stop")); };
  CallQueue refused;
  {
    const auto held = dispatcher_->lock();
    dispatcher_->refuse(cause);
    dispatcher_->take_queued_calls().swap(refused);
  }
  complete_all_with_error(std::move(refused), cause);
  run();
  EXPECT_EQ(second.error, Errc::stopping);
  EXPECT_EQ(answer_all(home), std::vector{1});
  EXPECT_EQ(keys_in_use(), 0u);
  const auto held = dispatcher_->lock();
  dispatcher_->refuse(nullptr);
}

TEST_F(Pinned, CallThatIsUsedAgainBeginsWithItsFirstAttempt) {
  FakeWorker first(context_, dispatcher_);
  call(1, {.retry = {.attempts = 2}});
  first.die();
  FakeWorker second(context_, dispatcher_);
  EXPECT_EQ(answer_all(second), std::vector{1});
  call(2);
  const auto next = second.next();
  ASSERT_TRUE(next);
  EXPECT_EQ(next->header.attempt, 0u);
  second.answer(*next);
  run();
}

TEST_F(Pinned, CallIsNotRetriedOnceCallsAreRefused) {
  FakeWorker worker(context_, dispatcher_);
  Caller& caller = call(1, {.retry = {.attempts = 5}});
  const auto refuse = [&](drover::detail::Cause cause) {
    const auto held = dispatcher_->lock();
    dispatcher_->refuse(std::move(cause));
  };
  refuse([] { return std::make_exception_ptr(drover::Error(Errc::stopping, "a stop")); });
  worker.die();
  run();
  EXPECT_EQ(caller.error, Errc::worker_exited) << "what has happened to it says more than the stop";
  refuse(nullptr);
}

// Their workers have not died, and still run them.
TEST_F(Pinned, CallIsNotRetriedOnceTheContextOfItsPoolIsDestroyed) {
  auto pool_context = std::make_unique<asio::io_context>(1);
  dispatcher_->close();
  dispatcher_ = Dispatcher::create(pool_context->get_executor(), drover::WorkerOptions(), std::nullopt);
  FakeWorker first(context_, dispatcher_);
  Caller& caller = call(1, {.retry = {.attempts = 5}});
  FakeWorker second(context_, dispatcher_);
  pool_context.reset();
  first.die();
  run();
  EXPECT_EQ(caller.error, Errc::worker_exited);
  EXPECT_FALSE(second.next());
}

// Otherwise the keys of quiet hours would all be those of one worker when there is much to do.
TEST_F(Pinned, KeysAreSharedOutAmongIdleWorkers) {
  std::vector<std::unique_ptr<FakeWorker>> workers;
  for (int i = 0; i < 3; ++i) workers.push_back(std::make_unique<FakeWorker>(context_, dispatcher_));
  std::vector<std::size_t> keys(3);
  for (int i = 0; i < 9; ++i) {
    call(i, {.key = std::to_string(i)});
    for (std::size_t at = 0; at < workers.size(); ++at) keys[at] += answer_all(*workers[at]).size();
  }
  EXPECT_EQ(keys, std::vector<std::size_t>(3, 3));
}

/// Counts the calls that wait for a worker.
struct Watcher final : drover::detail::QueueWatcher {
  void call_waits(std::size_t waiting) noexcept override { most = std::max(most, waiting); }
  std::size_t most = 0;
};

TEST_F(Pinned, CallsOfAWorkerThatClosesWaitForOthersVisibly) {
  FakeWorker old(context_, dispatcher_);
  for (int i = 1; i <= 3; ++i) call(i, with_key());
  Watcher watcher;
  const auto watch = [&](Watcher* by) {
    const auto held = dispatcher_->lock();
    dispatcher_->watch_queue(by);
  };
  watch(&watcher);
  close_link(old);
  EXPECT_EQ(watcher.most, 2u) << "an elastic pool starts workers for them";
  watch(nullptr);
  FakeWorker other(context_, dispatcher_);
  EXPECT_EQ(answer_all(other), (std::vector{2, 3}));
  answer_all(old);
}

// A map begins as many: it asks before each of them.
TEST_F(Pinned, CallsToKeepBusyAreThoseOfAllWorkers) {
  const auto calls_to_keep_busy = [&] {
    const auto held = dispatcher_->lock();
    return dispatcher_->calls_to_keep_busy();
  };
  Watcher watcher;
  const auto watch = [&](Watcher* by) {
    const auto held = dispatcher_->lock();
    dispatcher_->watch_queue(by);
  };
  EXPECT_EQ(calls_to_keep_busy(), 0u);
  auto small = std::make_unique<FakeWorker>(context_, dispatcher_);
  EXPECT_EQ(calls_to_keep_busy(), 2u);
  auto large = std::make_unique<FakeWorker>(context_, dispatcher_, 5);
  EXPECT_EQ(calls_to_keep_busy(), 8u);
  watch(&watcher);
  EXPECT_EQ(calls_to_keep_busy(), 11u) << "an elastic pool has to see one more wait for each worker, and one";
  watch(nullptr);
  close_link(*small);
  EXPECT_EQ(calls_to_keep_busy(), 8u) << "it is counted until it is removed";
  small->die();
  EXPECT_EQ(calls_to_keep_busy(), 6u);
  small.reset();
  EXPECT_EQ(calls_to_keep_busy(), 6u) << "it was removed before";
  large.reset();
  EXPECT_EQ(calls_to_keep_busy(), 0u);
}

// ---- none is starved ------------------------------------------------------------------------------------------------

TEST_F(Pinned, CallIsNotOvertakenByCallsAhead) {
  auto home = quick_home();
  for (int i = 1; i <= 3; ++i) call(i);  // one runs, one is ahead, one waits
  call(4, with_key());
  for (int i = 5; i < 10; ++i) call(i);
  const auto order = answer_all(*home, true);
  EXPECT_EQ(order, (std::vector{1, 2, 3, 4, 5, 6, 7, 8, 9}));
}

TEST_F(Pinned, LargeCallIsNotOvertakenByCallsAhead) {
  auto home = quick_home();
  call(1);
  call(2, with_key(), std::string(100'000, 'x'));
  for (int i = 3; i < 6; ++i) call(i);
  EXPECT_EQ(answer_all(*home, true), (std::vector{1, 2, 3, 4, 5}));
}

TEST_F(Pinned, UrgentCallOvertakesOthersOfItsKey) {
  FakeWorker home(context_, dispatcher_);
  call(1, with_key());
  call(2, with_key());
  call(3, with_key(0));
  call(4, with_key(3));
  call(5);
  call(6, {.priority = 2});
  EXPECT_EQ(answer_all(home), (std::vector{1, 4, 6, 2, 5, 3}));
}

TEST_F(Pinned, LowCallGetsItsTurnAmongOthers) {
  FakeWorker home(context_, dispatcher_);
  call(0, with_key());
  call(1, with_key(0));
  for (int i = 2; i < 60; ++i) call(i);
  const auto order = answer_all(home);
  EXPECT_EQ(std::find(order.begin(), order.end(), 1) - order.begin(), 17);
}

TEST_F(Pinned, OthersGetTheirTurnAmongUrgentCallsOfAKey) {
  FakeWorker home(context_, dispatcher_);
  call(0, with_key());
  call(1, {.priority = 0});
  for (int i = 2; i < 60; ++i) call(i, with_key(3));
  const auto order = answer_all(home);
  EXPECT_EQ(std::find(order.begin(), order.end(), 1) - order.begin(), 17);
}

// ---- poison ---------------------------------------------------------------------------------------------------------

TEST_F(Pinned, WorkerThatDiesUnderSeveralCallsOfAKeyCountsOnce) {
  poison_after(2);
  CallOptions retries = with_key();
  retries.retry = {.attempts = 2};
  auto first = std::make_unique<FakeWorker>(context_, dispatcher_, 4);
  call(1, with_key());
  Caller &second = call(2, retries), &third = call(3, retries);
  first->die();
  run();
  EXPECT_TRUE(second.waits() && third.waits());
  auto worker = std::make_unique<FakeWorker>(context_, dispatcher_, 4);
  while (worker->next()) {
  }
  EXPECT_TRUE(call(4, with_key()).waits());
  worker->die();
  run();
  EXPECT_EQ(third.error, Errc::worker_exited);
  EXPECT_EQ(call(5, with_key()).error, Errc::poisoned);
  EXPECT_EQ(keys_in_use(), 0u);
}

TEST_F(Pinned, DeathsUnderRetriedCallsCount) {
  poison_after(2);
  CallOptions retries = with_key();
  retries.retry = {.attempts = 9};
  Caller* caller = nullptr;
  for (int death = 0; death < 2; ++death) {
    FakeWorker worker(context_, dispatcher_);
    if (caller == nullptr) caller = &call(1, retries);
    EXPECT_TRUE(caller->waits());
    worker.die();
    run();
  }
  EXPECT_EQ(caller->error, Errc::worker_exited);
  EXPECT_EQ(call(2, with_key()).error, Errc::poisoned);
}

TEST_F(Pinned, AnswerForgetsTheDeathsBeforeIt) {
  poison_after(2);
  for (int round = 0; round < 4; ++round) {
    FakeWorker worker(context_, dispatcher_);
    call(1, with_key());
    EXPECT_EQ(answer_all(worker), std::vector{1}) << "after " << round << " deaths, none of them in a row";
    call(2, with_key());
    worker.die();
    run();
  }
}

TEST_F(Pinned, PoisonedCallEndsWithoutAnotherEvent) {
  poison_after(1);
  FakeWorker first(context_, dispatcher_);
  call(1, with_key());
  Caller& behind = call(2, with_key());
  first.die();
  run();
  EXPECT_TRUE(behind.waits());
  FakeWorker second(context_, dispatcher_);
  run();
  EXPECT_EQ(behind.error, Errc::poisoned);
  EXPECT_EQ(keys_in_use(), 0u);
}

}  // namespace
