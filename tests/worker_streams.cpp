// The streams of a worker, seen from the other side of its sockets, by a parent that sends whatever it likes.
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

class WorkerStreams : public raw::Test {};

/// The worker has seen nonsense, and ends as if its parent had died.
void expect_end(Worker& worker) { EXPECT_GE(worker.exit_status(), 0); }

TEST_F(WorkerStreams, PlainAndCoroutineKeepToTheirCredit) {
  for (const char* const routine : {"blocks", "blocks_plain"}) {
    StreamParent worker;
    const auto id = worker.stream(takes, routine, std::size_t{1000}, std::uint64_t{10'000});
    std::uint64_t bytes = worker.take_items();
    EXPECT_GE(bytes, stream_window);
    EXPECT_LT(bytes, stream_window + 2000);
    worker.grant(id, 1);
    EXPECT_EQ(worker.take_items(), 0u) << "it had exceeded its credit by more than that";
    worker.grant(id, bytes - 1 < stream_window ? bytes - 1 : stream_window);
    EXPECT_GE(worker.take_items(), stream_window - 2000);
    worker.cancel(id);
    EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
    expect_clean_stop(worker);
  }
}

// ---- frames that make no sense --------------------------------------------------------------------------------------

TEST_F(WorkerStreams, FramesThatMakeNoSenseEndTheWorker) {
  const auto number = StreamParent::encoded(1);
  const auto credit = [](std::uint64_t bytes) {
    const CreditBody body{.bytes = bytes};
    const auto encoded = drover::detail::encode_body(body);
    return std::vector<std::byte>(encoded.begin(), encoded.end());
  };
  struct Case {
    const char* what;
    const char* routine;
    std::uint8_t flags;
    std::vector<std::pair<FrameType, std::vector<std::byte>>> frames;
  };
  const std::vector<Case> cases{
      {"credit for a routine without a Sink", "sum", gives, {{FrameType::credit, credit(1)}}},
      {"more credit than the window", "blocks", takes, {{FrameType::credit, credit(2 * stream_window)}}},
      {"credit of nothing", "blocks", takes, {{FrameType::credit, credit(0)}}},
      {"credit without a number", "blocks", takes, {{FrameType::credit, {}}}},
      {"an item for a routine without a Source", "blocks", takes, {{FrameType::item, number}}},
      {"an end for a routine without a Source", "blocks", takes, {{FrameType::finish, {}}}},
      {"an item after the end", "sum_late", gives, {{FrameType::finish, {}}, {FrameType::item, number}}},
      {"two ends", "sum_late", gives, {{FrameType::finish, {}}, {FrameType::finish, {}}}},
      {"an end with a body", "sum_late", gives, {{FrameType::finish, number}}},
      {"progress from the parent", "sum", gives, {{FrameType::latest, number}}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    StreamParent worker;
    const auto id = c.flags == takes ? worker.stream(takes, c.routine, std::size_t{1000}, std::uint64_t{1000000})
                                     : worker.stream(gives, c.routine);
    if (c.flags == takes) worker.take_items();  // while its socket is full it reads nothing
    for (const auto& [type, body] : c.frames) worker.queue(type, id, body);
    Worker::flush(worker.data);
    expect_end(worker);
  }
}

TEST_F(WorkerStreams, ItemsBeyondTheCreditEndTheWorker) {
  StreamParent worker;
  const auto id = worker.stream(gives, "sum_late");
  EXPECT_EQ(worker.expect_credit(), stream_window);
  const std::vector<std::byte> half(stream_window / 2);
  for (int i = 0; i < 2; ++i) worker.send(FrameType::item, id, half);
  worker.status();
  worker.queue(FrameType::item, id, {});
  worker.data.flush();
  expect_end(worker);
}

TEST_F(WorkerStreams, FramesBeforeTheirCallEndTheWorker) {
  for (const FrameType type : {FrameType::item, FrameType::credit, FrameType::finish}) {
    StreamParent worker;
    worker.send(type, 1, StreamParent::encoded(1));
    expect_end(worker);
  }
}

// They may have been under way when the routine returned.
TEST_F(WorkerStreams, FramesAfterTheResultAreDropped) {
  StreamParent worker;
  const auto id = worker.stream(takes, "count", 3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(worker.expect(FrameType::item).as<int>(), i);
  worker.result();
  for (const FrameType type : {FrameType::item, FrameType::credit, FrameType::finish})
    worker.send(type, id, StreamParent::encoded(1));
  worker.call("square", 3);
  EXPECT_EQ(worker.result().as<int>(), 9);
  expect_clean_stop(worker);
}

// ---- cancellation and ends while a routine waits --------------------------------------------------------------------

TEST_F(WorkerStreams, CancelEndsWhatWaits) {
  for (const Waiting& waiting : all_waiting) {
    SCOPED_TRACE(waiting.routine);
    StreamParent worker;
    const auto id = begin(worker, waiting);
    worker.cancel(id);
    EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
    worker.call("square", 3);
    EXPECT_EQ(worker.result().as<int>(), 9);
    expect_clean_stop(worker);
  }
}

TEST_F(WorkerStreams, StopCancelsWhatWaitsAfterItsGrace) {
  for (const Waiting& waiting : all_waiting) {
    SCOPED_TRACE(waiting.routine);
    StreamParent worker;
    begin(worker, waiting);
    worker.stop(50ms, 10s);
    EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
    EXPECT_EQ(worker.stop_reply().cancelled, 1u);
    EXPECT_EQ(worker.exit_status(), 0);
  }
}

TEST_F(WorkerStreams, StopLetsThemFinish) {
  for (const char* const routine : {"sum", "sum_plain"}) {
    StreamParent worker;
    const auto id = begin(worker, {routine, gives});
    worker.stop(20s, 30s);
    worker.status();
    for (int i = 1; i <= 3; ++i) worker.queue_item(id, i);
    worker.send(FrameType::finish, id);
    EXPECT_EQ(worker.result().as<long>(), 6);
    EXPECT_EQ(worker.stop_reply().drained, 1u);
    EXPECT_EQ(worker.exit_status(), 0);
  }
}

TEST_F(WorkerStreams, DeathOfTheParentEndsWhatWaits) {
  for (const Waiting& waiting : all_waiting) {
    SCOPED_TRACE(waiting.routine);
    raw::Options options = stream_worker();
    options.shutdown_grace = 15s;
    StreamParent worker(options);
    begin(worker, waiting);
    const Stopwatch watch;
    ::shutdown(worker.data.fd(), SHUT_RDWR);
    ::shutdown(worker.control.fd(), SHUT_RDWR);
    worker.exit_status();
    EXPECT_LT(watch.elapsed(), 10s) << "it does not wait for the end of its grace";
  }
}

TEST_F(WorkerStreams, SignalEndsTheWorkerOnceTheyAreCancelled) {
  for (const Waiting& waiting : all_waiting) {
    SCOPED_TRACE(waiting.routine);
    StreamParent worker;
    begin(worker, waiting);
    ::kill(worker.pid, SIGTERM);
    EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
    worker.exit_status();
  }
}

}  // namespace
