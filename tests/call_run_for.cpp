// CallOptions::run_for at a dispatcher: when it begins to count.
#include <exception>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "support/fake_worker.hpp"

namespace {

using namespace support;
using drover::detail::wants_begun_flag;

class RunFor : public FakeWorkers {};

TEST_F(RunFor, BeginsWithTheRoutine) {
  FakeWorker worker(context_, dispatcher_);
  call(1);
  Caller& bounded = call(2, {.run_for = 30ms, .kill_after = 10ms});
  const auto first = worker.next();
  ASSERT_TRUE(first);
  context_.restart();
  context_.run_for(60ms);
  EXPECT_TRUE(bounded.waits()) << "it has not begun";
  worker.answer(*first, false);
  run();
  const auto second = worker.next();
  ASSERT_TRUE(second);
  EXPECT_TRUE(run_until([&] { return !bounded.waits(); }));
  EXPECT_EQ(bounded.error, Errc::deadline_exceeded);
  EXPECT_NE(bounded.text.find("CallOptions::run_for"), std::string::npos) << bounded.text;
  EXPECT_EQ(worker.reasons, std::vector{drover::CancelReason::deadline});
  EXPECT_TRUE(run_until([&] { return worker.kills == 1; }));
  worker.answer(*second);
  run();
}

TEST_F(RunFor, OfACallAheadBeginsWithItsTurn) {
  auto worker = quick_worker();
  call(1);
  Caller& ahead = call(2, {.run_for = 30ms});
  const auto first = worker->next(), second = worker->next();
  ASSERT_TRUE(first && is_ahead(second));
  context_.restart();
  context_.run_for(60ms);
  EXPECT_TRUE(ahead.waits());
  worker->answer(*first);
  EXPECT_TRUE(run_until([&] { return !ahead.waits(); }));
  EXPECT_EQ(ahead.error, Errc::deadline_exceeded);
  worker->answer(*second);
  run();
}

/// BEGUN of a call.
FrameHeader begun(const Received& call) {
  return {.type = FrameType::begun, .slot = call.header.slot, .id = call.header.id};
}

// The parent asks a worker with several calls for BEGUN of each call that has a run_for, and of no other.
TEST_F(RunFor, InAWorkerWithSeveralCallsBeginsWithBegun) {
  FakeWorker worker(context_, dispatcher_, 2);
  call(1);
  Caller& bounded = call(2, {.run_for = 30ms});
  const auto first = worker.next(), second = worker.next();
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->header.status & wants_begun_flag, 0);
  EXPECT_EQ(second->header.status & wants_begun_flag, wants_begun_flag);
  context_.restart();
  context_.run_for(60ms);
  EXPECT_TRUE(bounded.waits()) << "it has not begun";
  EXPECT_TRUE(worker.send(begun(*second)));
  EXPECT_TRUE(run_until([&] { return !bounded.waits(); }));
  EXPECT_EQ(bounded.error, Errc::deadline_exceeded);
  EXPECT_NE(bounded.text.find("CallOptions::run_for"), std::string::npos) << bounded.text;
  worker.answer(*first);
  worker.answer(*second);
  run();
}

// The deadline counts from the call() on. BEGUN of a call whose caller has given up changes nothing.
TEST_F(RunFor, LeavesACallThatHasNotBegunToItsDeadline) {
  FakeWorker worker(context_, dispatcher_, 2);
  Caller& bounded = call(1, {.deadline = 30ms, .run_for = 60s});
  const auto sent = worker.next();
  ASSERT_TRUE(sent);
  EXPECT_TRUE(run_until([&] { return !bounded.waits(); }));
  EXPECT_EQ(bounded.error, Errc::deadline_exceeded);
  EXPECT_EQ(bounded.text.find("CallOptions::run_for"), std::string::npos) << bounded.text;
  EXPECT_TRUE(worker.send(begun(*sent)));
  run();
  worker.answer(*sent);
  run();
}

TEST_F(RunFor, BegunThatNobodyAwaitsIsAProtocolError) {
  const auto why = [](const FakeWorker& worker) -> std::string {
    try {
      if (worker.failure) std::rethrow_exception(worker.failure);
    } catch (const std::exception& error) {
      return error.what();
    }
    return "nothing";
  };
  enum class Nonsense { unasked, twice, unknown, body };
  for (const auto nonsense : {Nonsense::unasked, Nonsense::twice, Nonsense::unknown, Nonsense::body}) {
    FakeWorker worker(context_, dispatcher_, 2);
    worker.expects_failure = true;
    call(1, nonsense == Nonsense::unasked ? CallOptions{} : CallOptions{.run_for = 60s});
    const auto sent = worker.next();
    ASSERT_TRUE(sent);
    FrameHeader header = begun(*sent);
    if (nonsense == Nonsense::twice) {
      EXPECT_TRUE(worker.send(header));
    }
    if (nonsense == Nonsense::unknown) ++header.id;
    const std::vector<std::byte> body(nonsense == Nonsense::body ? 1 : 0);
    EXPECT_FALSE(worker.send(header, body));
    const std::string text = why(worker);
    EXPECT_NE(text.find(nonsense == Nonsense::unknown ? "worker 'fake' sent the beginning for unknown call"
                                                      : "worker 'fake' sent an unexpected frame for call"),
              std::string::npos)
        << text;
    worker.die();
    run();
  }
}

}  // namespace
