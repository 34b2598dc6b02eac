// Calls and other work of a worker while its routines wait for items, seen from the other side of its sockets.
#include <cstddef>
#include <cstdint>
#include <gtest/gtest.h>
#include <optional>
#include <signal.h>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <utility>
#include <vector>

#include <drover/wire/detail/stream_credit.hpp>

#include "support/stream_parent.hpp"

namespace {

using namespace raw;

class WorkerStreamCalls : public raw::Test {};

// ---- calls put aside ------------------------------------------------------------------------------------------------

TEST_F(WorkerStreamCalls, CallsPutAsideAreRunAfterwardsInOrder) {
  StreamParent worker;
  const auto id = begin(worker, {"sum_plain", gives});
  for (int i = 1; i <= 3; ++i) worker.queue_call("square", i);
  const auto cancelled = worker.queue_call("square", 4);
  worker.queue_item(id, 1);
  Worker::flush(worker.data);
  worker.cancel(cancelled);
  worker.status();
  for (int i = 0; i < 3; ++i) worker.queue_item(id, 1);
  worker.send(FrameType::finish, id);
  EXPECT_EQ(worker.result().as<long>(), 4);
  for (int i = 1; i <= 3; ++i) EXPECT_EQ(worker.result().as<int>(), i * i);
  EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
  expect_clean_stop(worker);
}

TEST_F(WorkerStreamCalls, StopRunsCallsPutAside) {
  StreamParent worker;
  const auto id = begin(worker, {"sum_plain", gives});
  for (int i = 1; i <= 3; ++i) worker.queue_call("square", i);
  worker.queue_item(id, 1);
  Worker::flush(worker.data);
  worker.stop(20s, 30s);
  worker.status();
  worker.send(FrameType::finish, id);
  EXPECT_EQ(worker.result().as<long>(), 1);
  for (int i = 1; i <= 3; ++i) EXPECT_EQ(worker.result().as<int>(), i * i);
  EXPECT_EQ(worker.stop_reply().drained, 4u);
  EXPECT_EQ(worker.exit_status(), 0);
}

// The parent gives them to another worker.
TEST_F(WorkerStreamCalls, SignalReturnsCallsPutAside) {
  raw::Options options = stream_worker();
  options.shutdown_grace = 300ms;
  StreamParent worker(options);
  begin(worker, {"sum_plain", gives});
  for (int i = 1; i <= 3; ++i) worker.queue_call("square", i);
  Worker::flush(worker.data);
  ::kill(worker.pid, SIGTERM);
  EXPECT_EQ(worker.result().header.id, 1u);
  EXPECT_FALSE(worker.next(worker.data)) << "no other call has begun";
  EXPECT_FALSE(worker.next_reply());
  EXPECT_EQ(worker.last_begun, 1u);
  worker.exit_status();
}

// A call that a worker has not begun has no frames: the parent would take it for begun, or for an unknown one.
TEST_F(WorkerStreamCalls, SignalBeforeACallBeginsSendsNoCreditForIt) {
  for (int round = 0; round < 60; ++round) {
    StreamParent worker;
    for (int i = 0; i < 400; ++i) {
      worker.next_status = gives;
      worker.queue_call("peek");
    }
    Worker::flush(worker.data);
    std::uint64_t answered = 0, credited = 0;
    bool signalled = false;
    while (const auto frame = worker.next(worker.data)) {
      (frame->header.type == FrameType::result ? answered : credited) = frame->header.id;
      if (answered > static_cast<unsigned>(round) && !std::exchange(signalled, true)) ::kill(worker.pid, SIGTERM);
    }
    EXPECT_EQ(credited, answered) << round;
    worker.exit_status();
  }
}

// ---- more -----------------------------------------------------------------------------------------------------------

// Also one that never waits, and never returns.
TEST_F(WorkerStreamCalls, ProgressOfAPlainRoutineComesWhileItRuns) {
  StreamParent worker;
  const auto id = worker.stream(takes, "report_and_work");
  EXPECT_EQ(worker.expect(FrameType::latest).as<int>(), 7);
  worker.cancel(id);
  worker.result();
  expect_clean_stop(worker);
}

// A coroutine that blocks comes upon items which had been read before.
TEST_F(WorkerStreamCalls, BlockingInACoroutineKeepsTheOrder) {
  StreamParent worker;
  const auto id = worker.stream(takes | gives, "echo_blocking");
  EXPECT_EQ(worker.expect_credit(), stream_window);
  for (const std::size_t size : {std::size_t{10}, std::size_t{70'000}}) {
    // The calls take so long that the loop turns between the second one and the item.
    worker.queue_call("sleep", 2);
    worker.queue_call("sleep", 2);
    for (char c = 'a'; c <= 'c'; ++c) worker.queue_item(id, std::string(size, c));
    Worker::flush(worker.data);
    std::string echoed;
    while (echoed.size() < 3) {
      const auto frame = worker.next(worker.data);
      ASSERT_TRUE(frame) << "it has lost its connection";
      if (frame->header.type != FrameType::item) continue;
      const auto text = frame->as<std::string>();
      EXPECT_EQ(text.size(), size);
      echoed += text.at(0);
    }
    EXPECT_EQ(echoed, "abc");
  }
  worker.send(FrameType::finish, id);
  for (;;) {
    const Answer last = worker.next(worker.data).value();
    if (last.header.id != id || last.header.type != FrameType::result) continue;
    EXPECT_EQ(last.as<int>(), 6);
    break;
  }
  expect_clean_stop(worker);
}

// Coroutines that a routine has left do not wait for ever.
TEST_F(WorkerStreamCalls, EndOfTheCallEndsWhatWaitsForIt) {
  StreamParent worker;
  worker.stream(takes | gives, "leave_waiting");
  for (;;) {
    const auto frame = worker.next(worker.data);
    ASSERT_TRUE(frame);
    if (frame->header.type == FrameType::result) break;
  }
  EXPECT_TRUE(worker.told('l'));
  EXPECT_TRUE(worker.told('l'));
  expect_clean_stop(worker);
}

TEST_F(WorkerStreamCalls, StreamThatBeginsAfterTheConnectionWasLostIsAborted) {
  raw::Options options = stream_worker();
  options.shutdown_grace = 15s;
  StreamParent worker(options);
  worker.queue_call("sleep", 100);
  worker.queue_call("square", 1);
  worker.next_status = gives;
  worker.queue_call("wait");
  Worker::flush(worker.data);
  ::shutdown(worker.data.fd(), SHUT_RD);  // its results can't be sent
  const Stopwatch watch;
  char told[2] = {};
  if (readable(worker.out.get()) && ::read(worker.out.get(), told, 1) == 1) {  // it may end before it begins the call
    EXPECT_EQ(told[0], 'b');
    EXPECT_TRUE(worker.told('a'));
  }
  EXPECT_LT(watch.elapsed(), 10s);
  worker.exit_status();
}

// serve() has thrown: coroutines are destroyed with the loop.
TEST_F(WorkerStreamCalls, SinkOutlivesTheLoop) {
  StreamParent worker;
  worker.stream(takes, "last_words");
  worker.call("throw_in_loop");
  EXPECT_TRUE(worker.told('l'));
  EXPECT_EQ(worker.exit_status(), 3);
}

TEST_F(WorkerStreamCalls, SlowReaderIsNoStall) {
  raw::Options options = stream_worker();
  options.stall = 100ms;
  for (const Waiting& waiting : all_waiting) {
    SCOPED_TRACE(waiting.routine);
    StreamParent worker(options);
    const auto id = begin(worker, waiting);
    EXPECT_FALSE(worker.next(worker.control, 600ms)) << "STALLED";
    worker.cancel(id);
    worker.result();
    expect_clean_stop(worker);
  }
  StreamParent worker(options);
  worker.call("sleep", 500);
  const auto stalled = worker.next(worker.control);
  ASSERT_TRUE(stalled);
  EXPECT_EQ(stalled->header.type, FrameType::stalled) << "the watch works";
  worker.result();
  expect_clean_stop(worker);
}

}  // namespace
