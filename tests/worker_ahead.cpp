// A worker that has been sent a call ahead: it begins it after the one before, or gives it back.
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <thread>

#include <drover/worker/detail/shared_state.hpp>

#include "support/raw_parent.hpp"

namespace {

using namespace raw;
using drover::detail::BeginGate;
using drover::detail::quick_flag;
using drover::detail::wants_quick_flag;

class WorkerAhead : public raw::Test {};

TEST(BeginGate, EachCallPassesOnce) {
  BeginGate gate;
  EXPECT_TRUE(gate.begin(1));
  EXPECT_FALSE(gate.give_back(1)) << "it has begun";
  EXPECT_TRUE(gate.give_back(3));
  EXPECT_TRUE(gate.begin(2)) << "a later one went back";
  EXPECT_FALSE(gate.begin(3)) << "it went back";
  EXPECT_FALSE(gate.give_back(3)) << "once";
  EXPECT_TRUE(gate.give_back(5));
  EXPECT_TRUE(gate.begin(4));
  EXPECT_FALSE(gate.begin(5));
}

TEST(BeginGate, TwoThreadsAgree) {
  BeginGate gate;
  constexpr std::uint64_t calls = 200'000;
  std::vector<char> begun(calls + 1), went_back(calls + 1);
  std::atomic<std::uint64_t> at{0};
  std::thread control([&] {
    for (std::uint64_t call = 1; call <= calls; ++call) {
      while (at.load() + 1 < call) continue;  // as near to each other as can be
      went_back[call] = gate.give_back(call);
    }
  });
  for (std::uint64_t call = 1; call <= calls; ++call) {
    begun[call] = gate.begin(call);
    at.store(call);
  }
  control.join();
  for (std::uint64_t call = 1; call <= calls; ++call) ASSERT_NE(begun[call], went_back[call]) << call;
}

TEST_F(WorkerAhead, BeginsWhenTheCoroutineBeforeHasEnded) {
  Worker worker;
  worker.expect_hello();
  const auto first = worker.call("nap", 50, 0);
  const auto second = worker.call_ahead("add", 40, 2L);
  EXPECT_EQ(worker.result().header.id, first);
  const Answer sum = worker.result();
  EXPECT_EQ(sum.header.id, second);
  EXPECT_EQ(sum.as<long>(), 42);
  worker.call("nap", 50, 0);
  worker.call("add", 1, 1L);
  EXPECT_EQ(worker.result().as<long>(), 2) << "one that was not sent ahead does not wait";
  worker.result();
  expect_clean_stop(worker);
}

TEST_F(WorkerAhead, GivesACallBackThatHasNotBegun) {
  Worker worker;
  worker.expect_hello();
  const auto first = worker.call("nap", 200, 0);
  const auto second = worker.call_ahead("add", 40, 2L);
  worker.send(FrameType::recall, second);
  const auto reply = worker.next_reply();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.type, FrameType::recalled);
  EXPECT_EQ(reply->header.id, second);
  EXPECT_EQ(worker.result().header.id, first);
  const auto third = worker.call("add", 1, 1L);
  EXPECT_EQ(worker.result().header.id, third) << "nothing came of the one before";
  const auto again = worker.next_reply();  // of the main thread, when it comes to the call
  ASSERT_TRUE(again);
  EXPECT_EQ(again->header.type, FrameType::recalled);
  EXPECT_EQ(again->header.id, second);
  EXPECT_EQ(worker.status().served, 2u);
  EXPECT_EQ(worker.status().in_flight, 0u);
  expect_clean_stop(worker);
}

TEST_F(WorkerAhead, GivesACallBackThatComesAfterItsRecall) {
  Worker worker;
  worker.expect_hello();
  worker.send(FrameType::recall, 1);
  for (int i = 0; i < 2; ++i) {
    const auto reply = worker.next_reply();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->header.type, FrameType::recalled);
    EXPECT_EQ(reply->header.id, 1u);
    if (i == 0) worker.call_ahead("add", 40, 2L);
  }
  const auto second = worker.call("add", 1, 1L);
  EXPECT_EQ(worker.result().header.id, second);
  expect_clean_stop(worker);
}

TEST_F(WorkerAhead, KeepsACallThatHasBegun) {
  Worker worker;
  worker.expect_hello();
  const auto id = worker.call_ahead("nap", 50, 0);
  EXPECT_TRUE(worker.told('b'));
  worker.send(FrameType::recall, id);
  EXPECT_EQ(worker.result().as<std::string>(), "slept");
  EXPECT_EQ(worker.status().served, 1u) << "the next reply is that of STATUS";
  expect_clean_stop(worker);
}

TEST_F(WorkerAhead, CancelledBeforeItsTurnIsRefused) {
  Worker worker;
  worker.expect_hello();
  worker.call("nap", 50, 0);
  const auto second = worker.call_ahead("nap", 30000, 0);
  worker.cancel(second);
  worker.result();
  const Answer answer = worker.result();
  EXPECT_EQ(answer.header.id, second);
  EXPECT_EQ(answer.status(), ResultStatus::cancelled);
  expect_clean_stop(worker);
}

TEST_F(WorkerAhead, IsDrainedByAStop) {
  Worker worker;
  worker.expect_hello();
  worker.call("nap", 50, 0);
  worker.call_ahead("add", 40, 2L);
  worker.stop(10s, 20s);
  worker.result();
  EXPECT_EQ(worker.result().as<long>(), 42);
  EXPECT_EQ(worker.stop_reply().drained, 2u);
  EXPECT_EQ(worker.exit_status(), 0);
}

// The parent cannot know that it has begun if the result before it did not arrive.
TEST_F(WorkerAhead, NeverBeginsAfterALostResult) {
  Worker worker;
  worker.expect_hello();
  worker.call("nap", 100, 0);
  EXPECT_TRUE(worker.told('b'));
  worker.call_ahead("nap", 10, 0);
  ASSERT_EQ(::shutdown(worker.data.fd(), SHUT_RD), 0);
  EXPECT_NE(worker.exit_status(), -SIGKILL);
  EXPECT_FALSE(worker.told('b'));
}

TEST_F(WorkerAhead, RoutineIsQuickOnlyIfTheParentAsks) {
  Worker worker;
  worker.expect_hello();
  worker.call("add", 1, 1L);
  EXPECT_EQ(worker.result().header.status, 0);
  bool quick = false;
  for (int i = 0; i < 1000 && !quick; ++i) {  // it may be interrupted
    worker.next_status = wants_quick_flag;
    worker.call("add", 1, 1L);
    quick = worker.result().header.status == quick_flag;
  }
  EXPECT_TRUE(quick);
  worker.next_status = wants_quick_flag;
  worker.call("nap", 1, 0);
  EXPECT_EQ(worker.result().header.status, 0) << "a coroutine is not";
  expect_clean_stop(worker);
}

}  // namespace
