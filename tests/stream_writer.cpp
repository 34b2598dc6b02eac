// The items of a caller, against a worker that grants credit as the test wants.
#include <gtest/gtest.h>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <asio/cancellation_type.hpp>
#include <asio/error.hpp>

#include "support/stream_frames.hpp"

namespace {

using namespace support;

class StreamWriter : public StreamFrames {};

TEST_F(StreamWriter, WaitsForCreditAndSendsNoMore) {
  FakeWorker worker(context_, dispatcher_);
  auto stream = this->stream<void, std::string>();
  const auto call = worker.next();
  ASSERT_TRUE(call);
  const auto first = start(stream.send("one"));
  EXPECT_FALSE(first->over);
  EXPECT_THROW((void)stream.send("two"), std::logic_error);
  ASSERT_TRUE(worker.send(for_call(FrameType::credit, call->header), credit_of(1)));
  run();
  EXPECT_EQ(first->value, true);
  const auto frame = worker.next_frame();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->first.type, FrameType::item);
  EXPECT_EQ(frame->second, encoded(std::string("one")));
  const auto second = start(stream.send("two"));
  EXPECT_FALSE(second->over);
  second->cancellation.emit(asio::cancellation_type::terminal);
  run();
  EXPECT_EQ(second->code, asio::error::operation_aborted);
  const auto third = start(stream.send("three"));
  stream.finish();
  ASSERT_TRUE(worker.send(for_call(FrameType::credit, call->header), credit_of(1000)));
  run();
  EXPECT_EQ(third->value, true);
  const auto item = worker.next_frame(), end = worker.next_frame();
  ASSERT_TRUE(item && end);
  EXPECT_EQ(item->second, encoded(std::string("three"))) << "the cancelled one is not sent";
  EXPECT_EQ(end->first.type, FrameType::finish);
  worker.answer(*call);
  EXPECT_EQ(start(stream.result())->value, 10);
}

// The awaitable of a coroutine that is cancelled already is dropped in the same way.
TEST_F(StreamWriter, ThatDoesNotWaitSendsNothing) {
  FakeWorker worker(context_, dispatcher_);
  auto stream = this->stream<void, std::string>();
  const auto call = worker.next();
  ASSERT_TRUE(call);
  (void)stream.send("one");
  const auto second = start(stream.send("two"));
  EXPECT_FALSE(second->over);
  ASSERT_TRUE(worker.send(for_call(FrameType::credit, call->header), credit_of(1000)));
  run();
  EXPECT_EQ(second->value, true);
  const auto frame = worker.next_frame();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->second, encoded(std::string("two")));
  worker.answer(*call);
  EXPECT_EQ(start(stream.result())->value, 10);
}

TEST_F(StreamWriter, LearnsThatTheRoutineHasReturned) {
  FakeWorker worker(context_, dispatcher_);
  auto stream = this->stream<void, std::string>();
  const auto call = worker.next();
  ASSERT_TRUE(call);
  const auto waits = start(stream.send("one"));
  worker.answer(*call);
  run();
  EXPECT_EQ(waits->value, false);
  EXPECT_EQ(start(stream.send("two"))->value, false);
  stream.finish();
  EXPECT_FALSE(worker.next_frame());
  EXPECT_EQ(start(stream.result())->value, 10);
}

TEST_F(StreamWriter, OfAnEmptyHandleFails) {
  auto stream = drover::detail::begin_stream_of<Stream<int, int, int>>(nullptr, CallOptions{}, "f", 1);
  EXPECT_EQ(start(stream.next())->code, Errc::not_running);
  EXPECT_EQ(start(stream.result())->code, Errc::not_running);
  EXPECT_THROW((void)stream.send(1), drover::Error);
  stream.finish();
  stream.cancel();
}

}  // namespace
