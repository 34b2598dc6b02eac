// Calls with options at a dispatcher: which one is next, for which worker, and when it is made again.
#include <algorithm>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <asio/post.hpp>

#include <drover/pool/detail/call/call_keys.hpp>
#include <drover/pool/detail/call/priority_shares.hpp>

#include "support/fake_worker.hpp"

namespace {

using namespace support;
using drover::detail::PriorityShares;

class Waiting : public FakeWorkers {
 protected:
  /// Answers all calls that the worker gets, and returns their arguments in order.
  std::vector<int> serve(FakeWorker& worker) {
    std::vector<int> arguments;
    while (const auto call = worker.next()) {
      arguments.push_back(call->argument);
      worker.answer(*call, false);
      run();
    }
    return arguments;
  }
};

TEST_F(Waiting, UrgentCallsOvertakeAndKeepTheirOrder) {
  FakeWorker worker(context_, dispatcher_);
  call(1);
  for (int i = 2; i <= 4; ++i) call(i);
  call(5, {.priority = 0});
  for (int i = 6; i <= 7; ++i) call(i, {.priority = 3});
  call(8, {.priority = 2});
  EXPECT_EQ(serve(worker), (std::vector{1, 6, 7, 8, 2, 3, 4, 5}));
}

TEST_F(Waiting, LowestPriorityGetsItsTurnAmongUrgentOnes) {
  FakeWorker worker(context_, dispatcher_);
  call(0);
  call(1, {.priority = 0});
  for (int i = 2; i < 60; ++i) call(i, {.priority = 3});
  const auto order = serve(worker);
  const auto place = std::find(order.begin(), order.end(), 1) - order.begin();
  EXPECT_EQ(place, 1 + static_cast<long>(PriorityShares::most_overtaking));
}

TEST_F(Waiting, CallMayExceedAFullQueueIfItSaysSo) {
  dispatcher_ = Dispatcher::create(context_.get_executor(), drover::WorkerOptions(), 1);
  FakeWorker worker(context_, dispatcher_);
  call(1);
  call(2);
  EXPECT_EQ(call(3).error, Errc::overloaded);
  Caller& patient = call(4, {.when_full = drover::WhenFull::wait});
  EXPECT_TRUE(patient.waits());
  EXPECT_EQ(serve(worker), (std::vector{1, 2, 4}));
  EXPECT_EQ(patient.value, 40);
}

TEST_F(Waiting, RetriedCallGoesToAnotherWorkerWithItsAttempt) {
  auto first = std::make_unique<FakeWorker>(context_, dispatcher_);
  Caller& caller = call(1, {.retry = {.attempts = 3}});
  ASSERT_TRUE(first->next());
  first->die();
  run();
  EXPECT_TRUE(caller.waits());
  EXPECT_EQ(queued(), 1u);
  auto second = std::make_unique<FakeWorker>(context_, dispatcher_);
  const auto again = second->next();
  ASSERT_TRUE(again);
  EXPECT_EQ(again->header.attempt, 1u);
  second->die();
  FakeWorker third(context_, dispatcher_);
  const auto last = third.next();
  ASSERT_TRUE(last);
  EXPECT_EQ(last->header.attempt, 2u);
  third.answer(*last);
  run();
  EXPECT_EQ(caller.value, 10);
  EXPECT_EQ(queued(), 0u);
}

TEST_F(Waiting, LastAttemptEndsWithItsWorker) {
  FakeWorker worker(context_, dispatcher_), other(context_, dispatcher_);
  Caller& caller = call(1, {.retry = {.attempts = 2}});
  (worker.link.in_flight() != 0 ? worker : other).die();
  run();
  EXPECT_TRUE(caller.waits());
  (worker.link.in_flight() != 0 ? worker : other).die();
  run();
  EXPECT_EQ(caller.error, Errc::worker_exited);
}

TEST_F(Waiting, RetryRestsForItsBackoff) {
  FakeWorker worker(context_, dispatcher_), other(context_, dispatcher_);
  Caller& caller = call(1, {.retry = {.attempts = 2, .backoff = 30ms}});
  const bool at_first = worker.link.in_flight() != 0;
  FakeWorker &dead = at_first ? worker : other, &alive = at_first ? other : worker;
  const auto died = drover::Clock::now();
  dead.die();
  run();
  EXPECT_EQ(queued(), 1u);
  EXPECT_FALSE(alive.next());
  std::optional<Received> again;
  EXPECT_TRUE(run_until([&] { return (again = alive.next()).has_value(); }));
  EXPECT_GE(drover::Clock::now() - died, 30ms);
  ASSERT_TRUE(again);
  alive.answer(*again);
  run();
  EXPECT_EQ(caller.value, 10);
}

TEST_F(Waiting, RestingCallCanBeCancelled) {
  FakeWorker worker(context_, dispatcher_);
  Caller& caller = call(1, {.retry = {.attempts = 2, .backoff = 60s}});
  worker.die();
  run();
  EXPECT_TRUE(caller.waits());
  caller.cancellation.emit(asio::cancellation_type::terminal);
  run();
  EXPECT_FALSE(caller.waits());
  EXPECT_EQ(queued(), 0u);
}

TEST_F(Waiting, RestingCallMeetsItsDeadline) {
  FakeWorker worker(context_, dispatcher_);
  Caller& caller = call(1, {.deadline = 40ms, .retry = {.attempts = 9, .backoff = 15ms}});
  worker.die();
  run();
  EXPECT_TRUE(run_until([&] { return !caller.waits(); }));
  EXPECT_EQ(caller.error, Errc::deadline_exceeded) << "no worker is left";
}

// The error of its worker says more than the deadline would.
TEST_F(Waiting, RetryThatWouldBeLateIsNone) {
  FakeWorker worker(context_, dispatcher_);
  Caller& caller = call(1, {.deadline = 10s, .retry = {.attempts = 9, .backoff = 10s}});
  worker.die();
  run();
  EXPECT_EQ(caller.error, Errc::worker_exited);
}

TEST_F(Waiting, AnsweredOrCancelledCallIsNotRetried) {
  FakeWorker worker(context_, dispatcher_);
  Caller& cancelled = call(1, {.retry = {.attempts = 9}});
  cancelled.cancellation.emit(asio::cancellation_type::terminal);
  run();
  worker.die();
  run();
  EXPECT_EQ(queued(), 0u);
  EXPECT_FALSE(cancelled.waits());
}

TEST_F(Waiting, RestingCallFailsWithItsPool) {
  FakeWorker worker(context_, dispatcher_);
  Caller& caller = call(1, {.retry = {.attempts = 2, .backoff = 60s}});
  worker.die();
  run();
  const auto cause = [] { return std::make_exception_ptr(drover::Error(Errc::stopping, "it stops")); };
  drover::detail::CallQueue refused;
  {
    const auto held = dispatcher_->lock();
    dispatcher_->refuse(cause);
    dispatcher_->take_queued_calls().swap(refused);
  }
  complete_all_with_error(std::move(refused), cause);
  run();
  EXPECT_EQ(caller.error, Errc::stopping);
  const auto held = dispatcher_->lock();
  dispatcher_->refuse(nullptr);
}

TEST_F(Waiting, CallsOfAKeyWaitForTheirWorker) {
  FakeWorker a(context_, dispatcher_), b(context_, dispatcher_);
  call(1, {.key = "k"});
  FakeWorker &home = a.link.in_flight() != 0 ? a : b, &other = &home == &a ? b : a;
  Caller& second = call(2, {.key = "k"});
  EXPECT_TRUE(second.waits());
  EXPECT_EQ(queued(), 1u);
  EXPECT_FALSE(other.next()) << "it is idle, but not theirs";
  call(3);
  EXPECT_EQ(serve(other), std::vector{3});
  EXPECT_EQ(serve(home), (std::vector{1, 2}));
  for (int i = 4; i < 10; ++i) {
    call(i, {.key = "k"});
    EXPECT_EQ(serve(home), std::vector{i});
  }
}

TEST_F(Waiting, CallsOfAKeyTakeTurnsWithOthersOfTheirWorker) {
  FakeWorker worker(context_, dispatcher_);
  call(1, {.key = "k"});
  call(2);
  call(3, {.key = "k"});
  call(4);
  call(5, {.key = "k", .priority = 3});
  EXPECT_EQ(serve(worker), (std::vector{1, 5, 2, 3, 4})) << "the urgent one, and then the older ones";
}

TEST_F(Waiting, KeyGetsAnotherWorkerWhenItsWorkerDies) {
  FakeWorker a(context_, dispatcher_), b(context_, dispatcher_);
  Caller& first = call(1, {.key = "k"});
  FakeWorker &home = a.link.in_flight() != 0 ? a : b, &other = &home == &a ? b : a;
  Caller& second = call(2, {.key = "k"});
  home.die();
  run();
  EXPECT_EQ(first.error, Errc::worker_exited);
  EXPECT_EQ(serve(other), std::vector{2});
  EXPECT_EQ(second.value, 20);
  call(3, {.key = "k"});
  EXPECT_EQ(serve(other), std::vector{3});
}

TEST_F(Waiting, KeyGetsAnotherWorkerWhenItsWorkerTakesNoMoreCalls) {
  FakeWorker a(context_, dispatcher_), b(context_, dispatcher_);
  call(1, {.key = "k"});
  FakeWorker &home = a.link.in_flight() != 0 ? a : b, &other = &home == &a ? b : a;
  call(2, {.key = "k"});
  {
    const auto held = dispatcher_->lock();
    dispatcher_->close_link(home.link);
  }
  EXPECT_EQ(serve(other), std::vector{2});
  EXPECT_EQ(serve(home), std::vector{1});
}

TEST_F(Waiting, KeyedCallThatWaitsCanBeCancelled) {
  FakeWorker worker(context_, dispatcher_);
  call(1, {.key = "k"});
  Caller& second = call(2, {.key = "k"});
  second.cancellation.emit(asio::cancellation_type::terminal);
  run();
  EXPECT_FALSE(second.waits());
  EXPECT_EQ(queued(), 0u);
  EXPECT_EQ(serve(worker), std::vector{1});
}

TEST_F(Waiting, PoisonedKeyFailsAtOnceAndOthersDoNot) {
  dispatcher_->close();
  dispatcher_ =
      Dispatcher::create(context_.get_executor(), drover::WorkerOptions(), std::nullopt, {.after = 2, .span = 30ms});
  std::vector<std::unique_ptr<FakeWorker>> workers;
  for (int death = 0; death < 2; ++death) {
    workers.push_back(std::make_unique<FakeWorker>(context_, dispatcher_));
    Caller& caller = call(death, {.retry = {.attempts = death == 0 ? 1u : 9u}, .key = "bad"});
    workers.back()->die();
    run();
    EXPECT_EQ(caller.error, Errc::worker_exited) << "no retry poisons its own key further";
  }
  FakeWorker worker(context_, dispatcher_);
  Caller& poisoned = call(3, {.key = "bad"});
  EXPECT_EQ(poisoned.error, Errc::poisoned);
  EXPECT_NE(poisoned.text.find("'f'"), std::string::npos) << poisoned.text;
  call(4, {.key = "good"});
  call(5);
  EXPECT_EQ(serve(worker), (std::vector{4, 5}));
  EXPECT_TRUE(run_until([&] {
    Caller& again = call(6, {.key = "bad"});
    serve(worker);
    return again.value.has_value();
  }));
}

TEST_F(Waiting, CallsBehindAPoisonedOneFail) {
  dispatcher_->close();
  dispatcher_ =
      Dispatcher::create(context_.get_executor(), drover::WorkerOptions(), std::nullopt, {.after = 1, .span = 60s});
  FakeWorker first(context_, dispatcher_);
  call(1, {.key = "bad"});
  Caller& behind = call(2, {.key = "bad"});
  first.die();
  FakeWorker second(context_, dispatcher_);
  EXPECT_FALSE(second.next());
  run();
  EXPECT_EQ(behind.error, Errc::poisoned);
}

// ---- callers whose context is destroyed -----------------------------------------------------------------------------

/// Whether the caller of a call in flight has gone with its context.
bool goes_with_its_context(bool closed_before) {
  const auto owned = std::make_shared<int>();
  {
    asio::io_context context(1);
    const auto dispatcher = Dispatcher::create(context.get_executor(), drover::WorkerOptions(), std::nullopt);
    auto worker = std::make_unique<FakeWorker>(context, dispatcher);
    asio::co_spawn(context, drover::detail::begin_call<int>(dispatcher, CallOptions{}, "f", 1, std::string()),
                   [owned](const std::exception_ptr&, int) { ADD_FAILURE() << "nobody answers"; });
    context.poll();
    EXPECT_TRUE(worker->next());
    if (closed_before) dispatcher->close();
    EXPECT_EQ(owned.use_count(), 2) << "it waits";
    // The context destroys its services in the reverse order of their creation, so the worker after the caller.
    asio::post(context, [worker = std::move(worker)] {});
  }
  return owned.use_count() == 1;
}

TEST(AwaitedCalls, GoWithTheirContext) { EXPECT_TRUE(goes_with_its_context(false)); }
TEST(AwaitedCalls, OfAClosedDispatcherGoWithTheirContext) { EXPECT_TRUE(goes_with_its_context(true)); }

}  // namespace
