// CallFacts in front of a CALL, and the reason in a CANCEL, seen from the other side of a worker's sockets.
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "support/call_seen.hpp"
#include "support/raw_parent.hpp"

namespace {

using namespace raw;
using drover::detail::ByteBuffer;
using drover::detail::facts_flag;
using support::CallSeen;

class WorkerThisCall : public raw::Test {
 protected:
  static Options life() { return {.program = DROVER_HELPER_LIFE_WORKER}; }

  static ::testing::AssertionResult said(Worker& worker, const std::string& text) {
    for (const char c : text + "\n")
      if (const auto told = worker.told(c); !told) return told;
    return ::testing::AssertionSuccess();
  }
  /// Sends a CALL with this body.
  static std::uint64_t send(Worker& worker, const ByteBuffer& body, std::uint8_t status = facts_flag) {
    FrameHeader header;
    header.type = FrameType::call;
    header.status = status;
    header.id = ++worker.last_call;
    header.slot = static_cast<std::uint32_t>(1000 + worker.last_call);
    worker.data.queue(header, body.view());
    Worker::flush(worker.data);
    return worker.last_call;
  }
  static std::uint64_t call_with(Worker& worker, std::int64_t deadline, std::string_view context,
                                 std::string_view routine, std::uint8_t status = facts_flag) {
    ByteBuffer body;
    drover::Encoder encoder(body);
    drover::detail::put_facts(encoder, {.deadline = deadline, .context = context});
    encoder.put(routine);
    return send(worker, body, status);
  }
  static void cancel(Worker& worker, std::uint64_t call, std::uint8_t status) {
    FrameHeader header;
    header.type = FrameType::cancel;
    header.status = status;
    header.id = call;
    worker.control.queue(header);
    Worker::flush(worker.control);
  }
};

TEST_F(WorkerThisCall, FactsReachTheRoutine) {
  Worker worker(life());
  worker.expect_hello();
  call_with(worker, drover::detail::never, "some context", "seen");
  auto seen = worker.result().as<CallSeen>();
  EXPECT_EQ(seen.context, "some context");
  EXPECT_EQ(seen.left, -1);
  call_with(worker, nanoseconds(Clock::now() + 60s), "", "seen");
  seen = worker.result().as<CallSeen>();
  EXPECT_EQ(seen.context, "");
  EXPECT_GT(seen.left, 30'000);
  EXPECT_LE(seen.left, 60'000);
  worker.call("seen");
  EXPECT_EQ(worker.result().as<CallSeen>().left, -1);
  expect_clean_stop(worker);
}

// The worker sends BEGUN when it begins the routine: at once, or when the plain routine before it has ended.
TEST_F(WorkerThisCall, SaysWhenItBegins) {
  Worker worker(life());
  worker.expect_hello();
  const auto bounded = [&](std::string_view routine) {
    return call_with(worker, drover::detail::never, "", routine, facts_flag | drover::detail::wants_begun_flag);
  };
  const auto expect = [&](FrameType type, std::uint64_t call) {
    const auto frame = worker.next(worker.data);
    ASSERT_TRUE(frame);
    EXPECT_EQ(frame->header.type, type);
    EXPECT_EQ(frame->header.id, call);
    EXPECT_EQ(frame->header.slot, 1000 + call);
    EXPECT_TRUE(type != FrameType::begun || frame->body.empty());
  };
  const auto blocker = bounded("block_until_reason"), behind = bounded("seen");
  expect(FrameType::begun, blocker);
  cancel(worker, blocker, 1);
  expect(FrameType::result, blocker);
  expect(FrameType::begun, behind);
  expect(FrameType::result, behind);
  const auto coroutine = bounded("nap_with_reason"), beside = bounded("seen");
  expect(FrameType::begun, coroutine);
  expect(FrameType::begun, beside);
  expect(FrameType::result, beside);
  cancel(worker, coroutine, 1);
  expect(FrameType::result, coroutine);
  expect_clean_stop(worker);
}

// Times out of range are clamped.
TEST_F(WorkerThisCall, AnyDeadlineIsHarmless) {
  Worker worker(life());
  worker.expect_hello();
  for (const std::int64_t deadline :
       {std::int64_t{0}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::min(), drover::detail::never - 1}) {
    call_with(worker, deadline, "x", "seen");
    EXPECT_EQ(worker.result().as<CallSeen>().context, "x");
    ByteBuffer body;
    drover::Encoder encoder(body);
    drover::detail::put_facts(encoder, {.deadline = deadline, .run_for = deadline, .context = "y"});
    encoder.put("look_often");
    encoder.put(3);
    send(worker, body);
    EXPECT_EQ(worker.result().as<CallSeen>().context, "y");
  }
  expect_clean_stop(worker);
}

// Malformed facts are the caller's error; the worker goes on.
TEST_F(WorkerThisCall, MalformedFactsAreBadArguments) {
  Worker worker(life());
  worker.expect_hello();
  const auto refused = [&](auto put) {
    ByteBuffer body;
    drover::Encoder encoder(body);
    put(encoder);
    send(worker, body);
    const Answer answer = worker.result();
    EXPECT_EQ(answer.status(), ResultStatus::bad_arguments);
    return answer.status() == ResultStatus::bad_arguments ? answer.texts().at(0) : "";
  };
  EXPECT_NE(refused([](auto&) {}).find("malformed call"), std::string::npos);
  refused([](auto& out) { out.put("seen"); });
  refused([](auto& out) { out.put(std::int64_t{1}); });
  refused([](auto& out) { out.put(std::int64_t{1}), out.put(2), out.put("seen"); });
  const std::int64_t never = drover::detail::never;
  refused([&](auto& out) { out.put(never), out.put(never), out.put("context"); });
  refused([&](auto& out) { out.put(never), out.put("context"), out.put("seen"); });
  refused([&](auto& out) { out.put(never), out.put(~std::uint64_t{0}), out.put("context"), out.put("seen"); });
  refused([&](auto& out) { out.put(~std::uint64_t{0}), out.put(never), out.put("context"), out.put("seen"); });
  EXPECT_NE(refused([](auto& out) {
              drover::detail::put_facts(out, {.deadline = 1, .context = std::string(4097, 'c')}), out.put("seen");
            }).find("a context of 4097 bytes"),
            std::string::npos);
  ByteBuffer rubbish;
  rubbish.append("\xff\xff\xff\xff\xff", 5);
  send(worker, rubbish);
  EXPECT_EQ(worker.result().status(), ResultStatus::bad_arguments);
  call_with(worker, 1, std::string(4096, 'c'), "seen");
  EXPECT_EQ(worker.result().as<CallSeen>().context.size(), 4096u);
  expect_clean_stop(worker);
}

TEST_F(WorkerThisCall, CancelCarriesTheReason) {
  for (const auto& [status, reason] :
       std::vector<std::pair<std::uint8_t, std::string>>{{0, "caller"}, {1, "caller"}, {2, "deadline"}}) {
    Worker worker(life());
    worker.expect_hello();
    const auto napping = worker.call("nap_with_reason");
    ASSERT_TRUE(said(worker, "napping, none"));
    cancel(worker, napping, status);
    ASSERT_TRUE(said(worker, "woken by " + reason));
    EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
    const auto blocking = worker.call("block_until_reason");
    ASSERT_TRUE(said(worker, "blocking"));
    cancel(worker, blocking, status);
    ASSERT_TRUE(said(worker, "ended by " + reason));
    EXPECT_EQ(worker.result().status(), ResultStatus::ok);
    expect_clean_stop(worker);
  }
}

// A plain routine looks at what has arrived; the cancellations of other calls that it meets are not lost.
TEST_F(WorkerThisCall, LookingForAReasonLosesNoCancellation) {
  Worker worker(life());
  worker.expect_hello();
  std::vector<std::uint64_t> naps;
  for (int i = 0; i < 3; ++i) {
    naps.push_back(worker.call("nap_with_reason"));
    ASSERT_TRUE(said(worker, "napping, none"));
  }
  const auto blocking = worker.call("block_until_reason");
  ASSERT_TRUE(said(worker, "blocking"));
  const std::uint64_t later = worker.last_call + 1;
  cancel(worker, naps[0], 2);
  cancel(worker, later, 1);
  cancel(worker, naps[1], 1);
  worker.status();  // all have been read by then
  cancel(worker, blocking, 1);
  ASSERT_TRUE(said(worker, "ended by caller"));
  EXPECT_EQ(worker.result().header.id, blocking);
  std::string text;
  for (int i = 0; i < 2; ++i) {
    char byte = 0;
    while (readable(worker.out.get()) && ::read(worker.out.get(), &byte, 1) == 1 && byte != '\n') text += byte;
    text += '|';
  }
  EXPECT_TRUE(text == "woken by deadline|woken by caller|" || text == "woken by caller|woken by deadline|") << text;
  EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
  EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
  worker.call("nap_with_reason");
  EXPECT_EQ(worker.result().status(), ResultStatus::cancelled) << "CANCEL has overtaken it";
  cancel(worker, naps[2], 1);
  ASSERT_TRUE(said(worker, "woken by caller"));
  EXPECT_EQ(worker.result().header.id, naps[2]);
  expect_clean_stop(worker);
}

TEST_F(WorkerThisCall, ParentsDeathIsAReason) {
  for (const std::string routine : {"nap_with_reason", "block_until_reason", "block_with_token"}) {
    Worker worker(life());
    worker.expect_hello();
    worker.call(routine);
    const bool naps = routine == "nap_with_reason";
    ASSERT_TRUE(said(worker, naps ? "napping, none" : "blocking"));
    worker.control.close();
    ASSERT_TRUE(said(worker, (naps ? "woken by " : "ended by ") + std::string("parent died")));
    EXPECT_EQ(worker.exit_status(), 0);
  }
}

// A reason that a parent does not give, and facts elsewhere, are malformed frames.
TEST_F(WorkerThisCall, OtherReasonsEndTheWorker) {
  for (const int status : {3, 4, 32, 255}) {
    Worker worker(life());
    worker.expect_hello();
    cancel(worker, 1, static_cast<std::uint8_t>(status));
    EXPECT_EQ(worker.exit_status(), 0);
  }
}

}  // namespace
