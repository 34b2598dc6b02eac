// How long calls wait and run: Dispatcher and CallTimes.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <gtest/gtest.h>

#include "support/fake_worker.hpp"

namespace {

using namespace support;
using drover::Clock;
using drover::Duration;
using drover::Histogram;

class CallTime : public FakeWorkers {
 protected:
  CallTime() { dispatcher_->record_times(); }

  Histogram waited() {
    const auto held = dispatcher_->lock();
    return dispatcher_->times().queue;
  }
  Histogram ran() {
    const auto held = dispatcher_->lock();
    return dispatcher_->times().run;
  }
  /// Until so much time has passed.
  void pass(Duration time) {
    const auto until = Clock::now() + time;
    while (Clock::now() < until) run();
  }
  static void expect_in(Duration time, Duration least, Clock::time_point since) {
    EXPECT_GE(time, least);
    EXPECT_LE(time, Clock::now() - since);
  }

  const Clock::time_point begin_ = Clock::now();
};

TEST_F(CallTime, IdleWorkerGetsACallWithoutAWait) {
  FakeWorker worker(context_, dispatcher_);
  call(1);
  const auto sent = worker.next();
  pass(2ms);
  EXPECT_EQ(waited().count() + ran().count(), 0u) << "it has not ended yet";
  worker.answer(*sent);
  EXPECT_EQ(waited().count(), 1u);
  EXPECT_EQ(waited().max(), 0ns);
  EXPECT_EQ(ran().count(), 1u);
  expect_in(ran().sum(), 2ms, begin_);
}

TEST_F(CallTime, QueuedCallWaitsUntilAWorkerIsFree) {
  FakeWorker worker(context_, dispatcher_);
  call(1), call(2);
  const auto first = worker.next();
  pass(3ms);
  const auto freed = Clock::now();
  worker.answer(*first, false);
  const auto second = worker.next();
  pass(1ms);
  worker.answer(*second);
  EXPECT_EQ(waited().count(), 2u);
  EXPECT_EQ(waited().count_at_most(0ns), 1u);
  expect_in(waited().sum(), 3ms, begin_);
  EXPECT_EQ(ran().count(), 2u);
  expect_in(ran().max(), 3ms, begin_);
  expect_in(ran().sum() - ran().max(), 1ms, freed);
}

TEST_F(CallTime, QueuedCallGetsANewWorker) {
  call(1);
  pass(2ms);
  const auto there = Clock::now();
  FakeWorker worker(context_, dispatcher_);
  worker.answer(*worker.next());
  expect_in(waited().sum(), 2ms, begin_);
  expect_in(ran().sum(), 0ms, there);
}

TEST_F(CallTime, CallAheadWaitsUntilItsTurn) {
  auto worker = quick_worker();
  const Histogram waited_before = waited(), ran_before = ran();
  const auto called = Clock::now();
  call(1), call(2);
  const auto first = worker->next(), second = worker->next();
  ASSERT_TRUE(first && is_ahead(second));
  pass(3ms);
  worker->answer(*first);
  pass(1ms);
  worker->answer(*second);
  EXPECT_EQ(waited().count() - waited_before.count(), 2u);
  expect_in(waited().sum() - waited_before.sum(), 3ms, begin_);
  expect_in(ran().sum() - ran_before.sum(), 4ms, called);  // one after the other
}

// A call with run_for waits until BEGUN. A call that ends without BEGUN has not run.
TEST_F(CallTime, CallWithRunForWaitsUntilItBegins) {
  FakeWorker worker(context_, dispatcher_, 2);
  call(1, {.run_for = 60s}), call(2, {.run_for = 60s});
  const auto begins = worker.next(), refused = worker.next();
  ASSERT_TRUE(begins && refused);
  pass(3ms);
  const auto began = Clock::now();
  EXPECT_TRUE(worker.send({.type = FrameType::begun, .slot = begins->header.slot, .id = begins->header.id}));
  pass(1ms);
  worker.answer(*begins);
  EXPECT_EQ(waited().count(), 1u);
  expect_in(waited().sum(), 3ms, begin_);
  expect_in(ran().sum(), 1ms, began);
  worker.answer(*refused);
  EXPECT_EQ(waited().count(), 2u);
  expect_in(waited().max(), 4ms, begin_);
  EXPECT_EQ(ran().count(), 1u);
}

// Results that are read together have one time: a call that is sent because of them has waited until then.
TEST_F(CallTime, ResultsReadTogetherEndTogether) {
  FakeWorker worker(context_, dispatcher_, 2);
  const auto called = Clock::now();
  call(1), call(2), call(3);
  const auto calling = Clock::now() - called;
  const auto first = worker.next(), second = worker.next();
  pass(1ms);
  {
    const auto held = dispatcher_->lock();
    const drover::detail::ResultBatch batch(*dispatcher_);
    drover::detail::FrameReader reader(1024);
    const auto end = [&](const Received& received) {
      dispatcher_->record_result(worker.link.slots().find(received.header.slot, received.header.id), {}, reader);
    };
    end(*first);
    const auto later = Clock::now() + 100ms + 2 * calling;
    while (Clock::now() < later) continue;
    end(*second);
  }
  dispatcher_->run_completions(false);
  EXPECT_LT(ran().max() - ran().sum() / 2, 5ms + calling / 2) << "the second one has not run 100 ms longer";
  const auto third = worker.next();
  worker.answer(*third);
}

TEST_F(CallTime, CallThatComesBackWaitsOn) {
  auto busy = quick_worker();
  const auto before = waited().count();
  call(1), call(2);
  const auto running = busy->next(), waiting = busy->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  FakeWorker other(context_, dispatcher_);
  ASSERT_TRUE(run_until([&] { return !busy->recalled.empty(); }));
  EXPECT_TRUE(busy->give_back(waiting->header.id));
  const auto again = other.next();
  ASSERT_TRUE(again);
  const auto began = Clock::now();
  pass(1ms);
  other.answer(*again);
  EXPECT_EQ(waited().count() - before, 1u) << "one wait";
  EXPECT_GE(waited().max(), 1ms) << "CallsAhead looks once a millisecond";
  EXPECT_LE(waited().max(), began - begin_);
  busy->answer(*running);
}

TEST_F(CallTime, CallCancelledInTheQueueHasOnlyWaited) {
  FakeWorker worker(context_, dispatcher_);
  call(1);
  Caller& second = call(2);
  pass(2ms);
  second.cancellation.emit(asio::cancellation_type::terminal);
  run();
  EXPECT_EQ(waited().count(), 1u);
  expect_in(waited().max(), 2ms, begin_);
  EXPECT_EQ(ran().count(), 0u);
  worker.answer(*worker.next());
}

TEST_F(CallTime, CallThatExpiresInTheQueueHasOnlyWaited) {
  Caller& late = call(1, {.deadline = 2ms});
  ASSERT_TRUE(run_until([&] { return !late.waits(); }));
  EXPECT_EQ(late.error, Errc::deadline_exceeded);
  EXPECT_EQ(waited().count(), 1u);
  expect_in(waited().max(), 2ms, begin_);
  EXPECT_EQ(ran().count(), 0u);
}

TEST_F(CallTime, CancelledCallRunsUntilItsWorkerAnswers) {
  FakeWorker worker(context_, dispatcher_);
  Caller& first = call(1);
  const auto sent = worker.next();
  first.cancellation.emit(asio::cancellation_type::terminal);
  run();
  EXPECT_FALSE(first.waits());
  EXPECT_EQ(ran().count(), 0u);
  pass(2ms);
  worker.answer(*sent);
  EXPECT_EQ(ran().count(), 1u);
  expect_in(ran().max(), 2ms, begin_);
  EXPECT_EQ(waited().max(), 0ns);
}

TEST_F(CallTime, CallCancelledAheadHasOnlyWaitedIfItComesBack) {
  auto worker = quick_worker();
  const auto waited_before = waited().count(), ran_before = ran().count();
  call(1);
  Caller& second = call(2);
  const auto running = worker->next(), waiting = worker->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  second.cancellation.emit(asio::cancellation_type::terminal);
  run();
  EXPECT_EQ(waited().count(), waited_before);
  EXPECT_TRUE(worker->give_back(waiting->header.id));
  EXPECT_EQ(waited().count(), waited_before + 1);
  EXPECT_EQ(ran().count(), ran_before);
  worker->answer(*running);
}

TEST_F(CallTime, CallRunsUntilItsWorkerExits) {
  auto worker = quick_worker();
  const auto waited_before = waited().count(), ran_before = ran().count();
  call(1), call(2);
  ASSERT_TRUE(worker->next() && is_ahead(worker->next()));
  const auto began = Clock::now();
  pass(2ms);
  worker->die();
  run();
  EXPECT_EQ(ran().count(), ran_before + 1) << "the one ahead has not begun";
  expect_in(ran().max(), 2ms, begin_);
  EXPECT_EQ(waited().count(), waited_before + 1);
  FakeWorker replacement(context_, dispatcher_);
  replacement.answer(*replacement.next());
  EXPECT_EQ(waited().count(), waited_before + 2);
  expect_in(waited().max(), 2ms, began - 1s);
}

TEST_F(CallTime, CallAheadThatMayHaveBegunCountsAsBegun) {
  auto worker = quick_worker();
  const auto ran_before = ran().count();
  call(1), call(2);
  pass(3ms);
  const Histogram before = ran();
  worker->die(false);
  run();
  EXPECT_EQ(ran().count(), ran_before + 2);
  EXPECT_LT(ran().sum() - before.sum(), 2 * (Clock::now() - begin_));
  EXPECT_EQ(waited().count(), ran().count());
  EXPECT_GE(waited().max(), 3ms);
}

TEST_F(CallTime, CallRefusedAtOnceDoesNotCount) {
  FakeWorker worker(context_, dispatcher_);
  call(1, {.deadline = 0ms});
  call(2, {.tags = {"gpu"}});
  {
    const auto held = dispatcher_->lock();
    dispatcher_->refuse([] { return std::make_exception_ptr(drover::Error(Errc::stopping, "a stop")); });
  }
  call(3);
  EXPECT_EQ(waited().count(), 0u);
  EXPECT_EQ(ran().count(), 0u);
}

TEST_F(CallTime, CallThatAStopDropsHasWaited) {
  call(1);
  pass(1ms);
  CallQueue dropped;
  {
    const auto held = dispatcher_->lock();
    dropped.append(dispatcher_->take_queued_calls());
  }
  complete_all_with_error(std::move(dropped),
                          [] { return std::make_exception_ptr(drover::Error(Errc::stopping, "a stop")); });
  run();
  EXPECT_EQ(waited().count(), 1u);
  EXPECT_GE(waited().max(), 1ms);
}

TEST_F(CallTime, ReturnedCallThatIsRefusedHasWaited) {
  auto worker = quick_worker();
  const auto waited_before = waited().count(), ran_before = ran().count();
  call(1), call(2);
  const auto running = worker->next();
  {
    const auto held = dispatcher_->lock();
    dispatcher_->refuse([] { return std::make_exception_ptr(drover::Error(Errc::stopping, "a stop")); });
    dispatcher_->take_back(worker->link, running->header.id);
  }
  dispatcher_->run_completions(false);
  EXPECT_EQ(waited().count(), waited_before + 1);
  EXPECT_EQ(ran().count(), ran_before);
  worker->answer(*running);
}

using UnrecordedCall = FakeWorkers;

// A LocalWorker does not record.
TEST_F(UnrecordedCall, HasNoTimes) {
  FakeWorker worker(context_, dispatcher_);
  EXPECT_EQ(call_and_answer(worker, 1), 10);
  const auto held = dispatcher_->lock();
  EXPECT_EQ(dispatcher_->times().queue, Histogram());
  EXPECT_EQ(dispatcher_->times().run, Histogram());
}

}  // namespace
