// What a worker gets to know of a call besides its arguments: deadline, context, the reason of a cancellation.
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "support/fake_worker.hpp"

namespace {

using namespace support;
using drover::detail::ByteBuffer;

class CallFrame : public FakeWorkers {};

// Without options it is what it has always been.
TEST_F(CallFrame, HasFactsOnlyIfThereAreAny) {
  FakeWorker worker(context_, dispatcher_, 8);
  CallOptions none, unbounded;
  unbounded.kill_after = 1s;
  unbounded.inherit_deadline = false;
  for (const CallOptions& options : {none, unbounded}) {
    call(1, options);
    const auto sent = worker.next();
    ASSERT_TRUE(sent);
    EXPECT_EQ(sent->header.status, 0);
    ByteBuffer body;
    drover::Encoder encoder(body);
    encoder.put("f");
    encoder.put(1);
    encoder.put("");
    EXPECT_EQ(sent->header.size, body.size());
    worker.answer(*sent);
  }
  const auto before = drover::Clock::now();
  CallOptions options;
  options.deadline = 60s;
  options.context = "trace";
  call(2, options);
  const auto sent = worker.next();
  ASSERT_TRUE(sent);
  EXPECT_EQ(sent->header.status, drover::detail::facts_flag);
  EXPECT_EQ(sent->context, "trace");
  const std::chrono::nanoseconds deadline(sent->deadline);
  EXPECT_GE(deadline, before.time_since_epoch() + 60s);
  EXPECT_LE(deadline, drover::Clock::now().time_since_epoch() + 60s);
  worker.answer(*sent);
  call(3);
  const auto next = worker.next();
  ASSERT_TRUE(next);
  EXPECT_EQ(next->header.status, 0) << "nothing is left of the call before";
  worker.answer(*next);
}

// A call that comes back and is sent to another worker keeps both.
TEST_F(CallFrame, KeepsItsFactsWhenItIsSentAgain) {
  const auto worker = quick_worker();
  call(1);
  CallOptions options;
  options.deadline = 60s;
  options.context = "trace";
  Caller& caller = call(2, options);
  const auto first = worker->next(), ahead = worker->next();
  ASSERT_TRUE(first && is_ahead(ahead));
  EXPECT_EQ(ahead->context, "trace");
  FakeWorker other(context_, dispatcher_);
  ASSERT_TRUE(run_until([&] { return !worker->recalled.empty(); }));
  EXPECT_TRUE(worker->give_back(ahead->header.id));
  const auto again = other.next();
  ASSERT_TRUE(again);
  EXPECT_EQ(again->context, "trace");
  EXPECT_EQ(again->deadline, ahead->deadline);
  EXPECT_NE(again->header.status & drover::detail::facts_flag, 0);
  other.answer(*again);
  worker->answer(*first);
  run();
  EXPECT_EQ(caller.value, 20);
}

TEST_F(CallFrame, CancelHasItsReason) {
  FakeWorker worker(context_, dispatcher_, 8);
  CallOptions options;
  options.deadline = 10ms;
  Caller& late = call(1, options);
  Caller& cancelled = call(2);
  cancelled.cancellation.emit(asio::cancellation_type::terminal);
  ASSERT_TRUE(run_until([&] { return worker.cancelled.size() == 2; }));
  run();
  EXPECT_EQ(late.error, Errc::deadline_exceeded);
  EXPECT_NE(late.text.find("the call of 'f'"), std::string::npos) << late.text;
  EXPECT_EQ(worker.cancelled, (std::vector<std::uint64_t>{2, 1}));
  EXPECT_EQ(worker.reasons, (std::vector{drover::CancelReason::caller, drover::CancelReason::deadline}));
}

// As in a worker: the routine's call has a deadline.
TEST_F(CallFrame, InheritsTheDeadlineOfTheCurrentCall) {
  FakeWorker worker(context_, dispatcher_, 8);
  const auto now = drover::Clock::now();
  const auto sent_with = [&](drover::detail::Deadline current, CallOptions options) {
    drover::detail::CurrentCall outer{current};
    drover::detail::current_call = &outer;
    call(1, options);
    drover::detail::current_call = nullptr;
    const auto sent = worker.next();
    if (sent) worker.answer(*sent);
    run();
    return sent ? std::optional(sent->deadline) : std::nullopt;
  };
  const auto nanoseconds = [](drover::Clock::time_point at) {
    return std::optional(std::chrono::duration_cast<std::chrono::nanoseconds>(at.time_since_epoch()).count());
  };
  const auto later = nanoseconds(now + 100s);
  CallOptions own, alone;
  own.deadline = 50s;
  alone.inherit_deadline = false;
  EXPECT_EQ(sent_with(now + 100s, {}), later);
  EXPECT_LT(sent_with(now + 100s, own), later);
  EXPECT_EQ(sent_with(now + 20s, own), nanoseconds(now + 20s));
  EXPECT_EQ(sent_with(now + 20s, alone), drover::detail::never);
  EXPECT_EQ(sent_with(std::nullopt, {}), drover::detail::never);
  EXPECT_EQ(sent_with(now - 1s, {}), std::nullopt) << "it is not even sent";
  EXPECT_EQ(callers_.back()->error, Errc::deadline_exceeded);
  EXPECT_NE(callers_.back()->text.find("had already passed"), std::string::npos) << callers_.back()->text;
  EXPECT_EQ(sent_with(now - 1s, alone), drover::detail::never);
}

}  // namespace
