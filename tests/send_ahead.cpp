// Calls that are sent ahead to a worker that runs another one: Dispatcher and DataLink.
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "support/fake_worker.hpp"

namespace {

using namespace support;
using drover::detail::ByteBuffer;

class SendAhead : public FakeWorkers {};

TEST_F(SendAhead, OneCallToAWorkerWhoseLastResultWasQuick) {
  FakeWorker worker(context_, dispatcher_);
  for (int i = 1; i <= 4; ++i) call(i);
  auto first = worker.next();
  ASSERT_TRUE(first);
  EXPECT_FALSE(is_ahead(first));
  EXPECT_FALSE(worker.next()) << "nobody knows yet whether its calls are quick";
  worker.answer(*first, false);
  first = worker.next();
  ASSERT_TRUE(first);
  EXPECT_FALSE(is_ahead(first));
  EXPECT_FALSE(worker.next()) << "its last call took long";
  worker.answer(*first);
  first = worker.next();
  const auto second = worker.next();
  ASSERT_TRUE(first && is_ahead(second));
  EXPECT_FALSE(is_ahead(first));
  EXPECT_EQ(first->argument, 3);
  EXPECT_EQ(second->argument, 4);
  EXPECT_EQ(in_flight(), 1u);
  EXPECT_EQ(queued(), 1u) << "what has not begun still waits";
  call(5);
  EXPECT_FALSE(worker.next()) << "one call ahead is enough";
  EXPECT_EQ(queued(), 2u);
  worker.answer(*first);
  const auto third = worker.next();
  ASSERT_TRUE(is_ahead(third));
  worker.answer(*second, false);
  worker.answer(*third);
  run();
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(callers_[i]->value, static_cast<int>(i + 1) * 10);
  EXPECT_EQ(in_flight(), 0u);
  EXPECT_EQ(queued(), 0u);
}

TEST_F(SendAhead, NothingToAWorkerOfSeveralCalls) {
  FakeWorker worker(context_, dispatcher_, 2);
  for (int i = 1; i <= 4; ++i) call(i);
  const auto first = worker.next(), second = worker.next();
  ASSERT_TRUE(first && second);
  worker.answer(*first);
  const auto third = worker.next();
  ASSERT_TRUE(third);
  EXPECT_FALSE(worker.next());
  worker.answer(*second);
  worker.answer(*third);
  worker.answer(*worker.next());
}

TEST_F(SendAhead, DeathOfTheWorkerEndsOnlyTheCallThatRan) {
  auto worker = quick_worker();
  Caller &first = call(1), &second = call(2), &third = call(3);
  EXPECT_TRUE(worker->next());
  EXPECT_TRUE(is_ahead(worker->next()));
  worker->die();
  run();
  EXPECT_EQ(first.error, Errc::worker_exited);
  EXPECT_TRUE(second.waits());
  EXPECT_TRUE(third.waits());
  EXPECT_EQ(queued(), 2u);
  FakeWorker replacement(context_, dispatcher_);
  const auto sent = replacement.next();
  ASSERT_TRUE(sent);
  EXPECT_EQ(sent->argument, 2) << "it keeps its place";
  EXPECT_FALSE(is_ahead(sent));
  replacement.answer(*sent);
  replacement.answer(*replacement.next());
  run();
  EXPECT_EQ(second.value, 20);
  EXPECT_EQ(third.value, 30);
}

TEST_F(SendAhead, DeathAfterTheTurnEndsTheCall) {
  auto worker = quick_worker();
  Caller &first = call(1), &second = call(2);
  worker->answer(*worker->next());
  worker->die();
  run();
  EXPECT_EQ(first.value, 10);
  EXPECT_EQ(second.error, Errc::worker_exited) << "it may have begun";
}

TEST_F(SendAhead, DeathWithResultsUnreadEndsBoth) {
  auto worker = quick_worker();
  Caller &first = call(1), &second = call(2);
  worker->die(false);
  run();
  EXPECT_EQ(first.error, Errc::worker_exited);
  EXPECT_EQ(second.error, Errc::worker_exited) << "it may have begun: the result before it may be among the unread";
}

TEST_F(SendAhead, DeathWhenCallsAreRefusedEndsBoth) {
  auto worker = quick_worker();
  Caller &first = call(1), &second = call(2);
  {
    const auto held = dispatcher_->lock();
    dispatcher_->refuse([] { return std::make_exception_ptr(drover::Error(Errc::stopping, "a stop")); });
  }
  worker->die();
  run();
  EXPECT_EQ(first.error, Errc::worker_exited);
  EXPECT_EQ(second.error, Errc::stopping);
  EXPECT_EQ(queued(), 0u);
}

TEST_F(SendAhead, LateCallIsRecalledAndGoesToAnotherWorker) {
  auto busy = quick_worker();
  Caller& slow = call(1);
  Caller& ahead = call(2);
  Caller& queued_call = call(3);
  const auto running = busy->next(), waiting = busy->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  FakeWorker other(context_, dispatcher_);
  const auto third = other.next();
  ASSERT_TRUE(third);
  EXPECT_EQ(third->argument, 3) << "what was sent ahead is the other worker's until that gives it back";
  ASSERT_TRUE(run_until([&] { return !busy->recalled.empty(); }));
  EXPECT_EQ(busy->recalled, std::vector{waiting->header.id});
  EXPECT_TRUE(ahead.waits());
  EXPECT_TRUE(busy->give_back(waiting->header.id));
  EXPECT_EQ(queued(), 1u);
  other.answer(*third);
  const auto again = other.next();
  ASSERT_TRUE(again);
  EXPECT_EQ(again->argument, 2);
  other.answer(*again);
  run();
  EXPECT_EQ(ahead.value, 20);
  EXPECT_EQ(queued_call.value, 30);
  EXPECT_TRUE(slow.waits());
  call(4), call(5);  // one to the idle worker, and one ahead to it
  EXPECT_FALSE(busy->next()) << "nothing more is sent ahead to a worker that takes long";
  other.answer(*other.next());
  other.answer(*other.next());
  busy->answer(*running);
  run();
  EXPECT_EQ(slow.value, 10);
}

/// A worker that runs a call and has another one ahead, beside a worker that is busy until the end of the test.
class RecalledCall : public FakeWorkers {
 protected:
  void SetUp() override {
    busy_ = quick_worker();
    other_ = std::make_unique<FakeWorker>(context_, dispatcher_);
    call(7);
    held_up_ = other_->next();
    first_ = &call(1);
    second_ = &call(2);
    running_ = busy_->next();
    waiting_ = busy_->next();
    ASSERT_TRUE(held_up_ && running_ && is_ahead(waiting_));
  }
  void TearDown() override {
    if (held_up_) other_->answer(*held_up_);
    run();
    other_.reset();
    busy_.reset();
    FakeWorkers::TearDown();
  }

  std::unique_ptr<FakeWorker> busy_, other_;
  std::optional<Received> held_up_, running_, waiting_;
  Caller *first_ = nullptr, *second_ = nullptr;
};

TEST_F(RecalledCall, ThatBeganAfterAllIsNotTakenBack) {
  ASSERT_TRUE(run_until([&] { return !busy_->recalled.empty(); }));
  busy_->answer(*running_);  // the worker begins the next one before RECALL arrives
  busy_->answer(*waiting_);
  run();
  EXPECT_EQ(first_->value, 10);
  EXPECT_EQ(second_->value, 20);
  EXPECT_TRUE(busy_->give_back(waiting_->header.id)) << "too late, which is no error";
  EXPECT_FALSE(busy_->give_back(waiting_->header.id + 1)) << "never sent";
}

// Between the answer of the worker's main thread and that of its control thread nobody knows whether the second call
// has begun. A third one behind it could begin without a result before it.
TEST_F(RecalledCall, IsFollowedByNone) {
  ASSERT_TRUE(run_until([&] { return !busy_->recalled.empty(); }));
  busy_->answer(*running_);
  Caller& third = call(3);
  ASSERT_FALSE(busy_->next());
  EXPECT_TRUE(busy_->give_back(waiting_->header.id));
  busy_->answer(*busy_->next());
  busy_->answer(*busy_->next());
  run();
  EXPECT_EQ(second_->value, 20);
  EXPECT_EQ(third.value, 30);
}

TEST_F(RecalledCall, AfterItsTurnGoesBackToTheQueue) {
  if (busy_->recalled.empty()) {
    EXPECT_FALSE(busy_->give_back(waiting_->header.id)) << "nobody has asked for it yet";
  }
  ASSERT_TRUE(run_until([&] { return !busy_->recalled.empty(); }));
  busy_->answer(*running_);
  EXPECT_EQ(in_flight(), 2u);
  EXPECT_TRUE(busy_->give_back(waiting_->header.id));
  const auto again = busy_->next();
  ASSERT_TRUE(again);
  EXPECT_EQ(again->argument, 2);
  EXPECT_GT(again->header.id, waiting_->header.id);
  busy_->answer(*again);
  run();
  EXPECT_EQ(second_->value, 20);
}

TEST_F(SendAhead, NothingIsRecalledFromTheOnlyWorker) {
  auto worker = quick_worker();
  call(1), call(2);
  const auto running = worker->next(), waiting = worker->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  context_.restart();
  context_.run_for(20ms);
  EXPECT_TRUE(worker->recalled.empty());
  worker->answer(*running);
  worker->answer(*waiting);
}

TEST_F(SendAhead, CancelledCallIsRecalledAndKillsNoWorker) {
  auto worker = quick_worker();
  Caller& first = call(1);
  Caller& second = call(2, {.kill_after = 0ms});
  const auto running = worker->next(), waiting = worker->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  second.cancellation.emit(asio::cancellation_type::terminal);
  run();
  EXPECT_FALSE(second.waits());
  EXPECT_EQ(worker->cancelled, std::vector{waiting->header.id});
  EXPECT_EQ(worker->recalled, std::vector{waiting->header.id});
  context_.restart();
  context_.run_for(50ms);
  EXPECT_EQ(worker->kills, 0) << "the worker runs another call";
  EXPECT_TRUE(worker->give_back(waiting->header.id));
  worker->answer(*running);
  context_.restart();
  context_.run_for(150ms);
  EXPECT_EQ(worker->kills, 0);
  EXPECT_EQ(first.value, 10);
  EXPECT_EQ(call_and_answer(*worker, 3), 30);
}

TEST_F(SendAhead, CancelledCallThatBeganAfterAllIsKilled) {
  auto worker = quick_worker();
  Caller& first = call(1);
  Caller& second = call(2, {.kill_after = 5ms});
  const auto running = worker->next(), waiting = worker->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  second.cancellation.emit(asio::cancellation_type::terminal);
  worker->answer(*running);
  EXPECT_TRUE(run_until([&] { return worker->kills == 1; })) << "its turn has come, and it does not end";
  EXPECT_EQ(first.value, 10);
  worker->answer(*waiting);
}

TEST_F(SendAhead, CallBehindOneThatMayBeKilledIsRecalled) {
  auto worker = quick_worker();
  Caller& first = call(1, {.kill_after = 5ms});
  Caller& second = call(2);
  const auto running = worker->next(), waiting = worker->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  first.cancellation.emit(asio::cancellation_type::terminal);
  run();
  EXPECT_EQ(worker->recalled, std::vector{waiting->header.id});
  EXPECT_TRUE(worker->give_back(waiting->header.id));
  EXPECT_TRUE(run_until([&] { return worker->kills == 1; }));
  worker->die();
  FakeWorker other(context_, dispatcher_);
  other.answer(*other.next());
  run();
  EXPECT_EQ(second.value, 20);
}

TEST_F(SendAhead, LargeCallStaysInTheQueue) {
  auto worker = quick_worker();
  call(1);
  Caller& large = call_large(2);
  EXPECT_TRUE(worker->next());
  EXPECT_FALSE(worker->next());
  EXPECT_TRUE(large.waits());
  worker->die();
  FakeWorker other(context_, dispatcher_);
  other.answer(*other.next());
}

TEST_F(SendAhead, DeadlinePassesAsInTheQueue) {
  auto worker = quick_worker();
  call(1);
  Caller& second = call(2, {.deadline = 5ms});
  const auto running = worker->next(), waiting = worker->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  ASSERT_TRUE(run_until([&] { return !second.waits(); }));
  EXPECT_EQ(second.error, Errc::deadline_exceeded);
  EXPECT_NE(second.text.find("waited for a free worker"), std::string::npos) << second.text;
  worker->answer(*running);
  worker->answer(*waiting);
}

TEST_F(SendAhead, CountsAgainstTheLengthOfTheQueue) {
  dispatcher_->close();
  dispatcher_ = Dispatcher::create(context_.get_executor(), drover::WorkerOptions(), 1);
  auto worker = quick_worker();
  call(1);
  Caller &second = call(2), &third = call(3);
  EXPECT_EQ(third.error, Errc::overloaded);
  EXPECT_TRUE(second.waits());
  worker->answer(*worker->next());
  worker->answer(*worker->next());
  run();
  EXPECT_EQ(second.value, 20);

  dispatcher_->close();
  worker.reset();
  dispatcher_ = Dispatcher::create(context_.get_executor(), drover::WorkerOptions(), 0);
  worker = quick_worker();
  call(1);
  EXPECT_EQ(call(2).error, Errc::overloaded);
  worker->answer(*worker->next());
}

TEST_F(SendAhead, ResultOutOfOrderEndsItsOwnCall) {
  auto worker = quick_worker();
  Caller &first = call(1), &second = call(2);
  const auto running = worker->next(), waiting = worker->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  worker->answer(*waiting);
  run();
  EXPECT_EQ(second.value, 20);
  EXPECT_TRUE(first.waits());
  call(3);
  worker->answer(*running);
  worker->answer(*worker->next());
}

TEST_F(SendAhead, DrainingWorkerReturnsIt) {
  auto worker = quick_worker();
  Caller &first = call(1), &second = call(2);
  const auto running = worker->next(), waiting = worker->next();
  ASSERT_TRUE(running && is_ahead(waiting));
  {
    const auto held = dispatcher_->lock();
    worker->link.take_calls(false);
    dispatcher_->take_back(worker->link, running->header.id);
  }
  EXPECT_TRUE(worker->give_back(waiting->header.id)) << "returned already";
  FakeWorker other(context_, dispatcher_);
  const auto sent = other.next();
  ASSERT_TRUE(sent);
  EXPECT_EQ(sent->argument, 2);
  other.answer(*sent);
  worker->answer(*running);
  run();
  EXPECT_EQ(first.value, 10);
  EXPECT_EQ(second.value, 20);
}

}  // namespace
