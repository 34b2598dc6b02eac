// What a worker does with the descriptors of its calls, seen by a parent that is played.
#include "support/descriptors.hpp"
#include "support/raw_parent.hpp"

namespace {

using namespace raw;
using namespace support;

class WorkerDescriptors : public raw::Test {
 protected:
  static Options with_descriptors() {
    Options options;
    options.program = DROVER_HELPER_DESCRIPTOR_WORKER;
    return options;
  }
  /// All that is left of the pipe is its reading end.
  static void expect_end(const UniqueFd& reading) { EXPECT_TRUE(ends_within(reading, 20'000)); }
};

// It closes them at once, not when it looks at the next call.
TEST_F(WorkerDescriptors, OfACallThatIsRefusedAreClosed) {
  Worker worker(with_descriptors());
  worker.expect_hello();
  for (const std::string routine : {"no such routine", "number", "maybe_not"}) {
    auto [reading, writing] = pipe_ends();
    worker.call(routine, writing);
    EXPECT_NE(worker.result().status(), ResultStatus::ok);
    writing.reset();
    expect_end(reading);
  }
  expect_clean_stop(worker);
}

TEST_F(WorkerDescriptors, OfAResultAreClosedWhenItIsSent) {
  Worker worker(with_descriptors());
  worker.expect_hello();
  worker.data.receive_descriptors(true);
  for (int round = 0; round < 3; ++round) {
    auto [reading, writing] = pipe_ends();
    worker.next_status = drover::detail::takes_descriptors_flag;
    worker.call("forward", writing);
    EXPECT_EQ(worker.result().header.descriptors, 1);
    writing.reset();
    EXPECT_FALSE(worker.data.next());  // what has arrived with the result is closed here
    expect_end(reading);
  }
  expect_clean_stop(worker);
}

TEST_F(WorkerDescriptors, OfAResultAreSentOnlyIfTheyAreTaken) {
  Worker worker(with_descriptors());
  worker.expect_hello();
  worker.data.receive_descriptors(true);
  worker.call("pipe_of", std::string("x"));
  const Answer refused = worker.result();
  EXPECT_EQ(refused.status(), ResultStatus::bad_arguments);
  EXPECT_EQ(refused.header.descriptors, 0);
  EXPECT_NE(refused.texts().at(0).find("the result of pipe_of has descriptors"), std::string::npos);
  worker.next_status = drover::detail::takes_descriptors_flag;
  worker.call("number", 7);
  EXPECT_EQ(worker.result().as<int>(), 14);
  expect_clean_stop(worker);
}

// A parent that does not send what it announces is not trusted any more.
TEST_F(WorkerDescriptors, ThatAreMissingEndTheWorker) {
  Worker worker(with_descriptors());
  worker.expect_hello();
  const FrameHeader header{.type = FrameType::call, .descriptors = 1, .id = 1};
  ASSERT_EQ(::send(worker.data.fd(), &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
  EXPECT_EQ(worker.exit_status(), 0);
}

TEST_F(WorkerDescriptors, AreNothingToAWorkerThatTakesNone) {
  Options options = with_descriptors();
  options.args = {"none"};
  Worker worker(options);
  worker.expect_hello();
  auto [reading, writing] = pipe_ends();
  worker.call("number", writing);
  EXPECT_EQ(worker.result().status(), ResultStatus::bad_arguments);
  writing.reset();
  expect_end(reading);
  worker.call("number", 7);
  EXPECT_EQ(worker.result().as<int>(), 14);
  expect_clean_stop(worker);
}

}  // namespace
