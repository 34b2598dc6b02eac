// Frames and environments that a worker must not be given.
#include "support/raw_parent.hpp"

namespace {

using namespace raw;

class HostileParent : public raw::Test {};

// A worker whose descriptors or whose environment variable did not reach it must not go on as the parent program, which
// would start workers in turn.
TEST_F(HostileParent, ForgedEnvironmentEndsTheProcess) {
  for (const int forge : {1, 2, 3}) {
    SCOPED_TRACE(forge);
    Worker worker({.forge = forge});
    EXPECT_EQ(worker.exit_status(), drover::detail::exit_without_descriptors);
    EXPECT_FALSE(worker.told('n'));
  }
}

TEST_F(HostileParent, WrongCallsAreRefusedAndHarmNothing) {
  Worker worker({.max_message_size = 10'000});
  worker.expect_hello();

  worker.call("missing");
  Answer answer = worker.result();
  EXPECT_EQ(answer.status(), ResultStatus::unknown_routine);
  EXPECT_NE(answer.texts().at(0).find("missing"), std::string::npos);

  worker.call("add", std::string("no number"), 2L);
  answer = worker.result();
  EXPECT_EQ(answer.status(), ResultStatus::bad_arguments);
  EXPECT_NE(answer.texts().at(0).find("add(int, long"), std::string::npos) << answer.texts().at(0);

  worker.call("add", 1);
  EXPECT_EQ(worker.result().status(), ResultStatus::bad_arguments);
  worker.call("add", 1, 2L, 3);
  EXPECT_EQ(worker.result().status(), ResultStatus::bad_arguments);
  worker.call("nap", std::string("x"));
  EXPECT_EQ(worker.result().status(), ResultStatus::bad_arguments);

  worker.call("bytes", std::uint64_t{20'000});
  answer = worker.result();
  EXPECT_EQ(answer.status(), ResultStatus::message_too_large);
  EXPECT_NE(answer.texts().at(0).find("bytes"), std::string::npos);

  worker.call("echo", std::string("still here"));
  EXPECT_EQ(worker.result().as<std::string>(), "still here");
  expect_clean_stop(worker);
}

TEST_F(HostileParent, ManyStatusRequestsAreAllAnswered) {
  Worker worker;
  worker.expect_hello();
  FrameHeader header;
  header.type = FrameType::status;
  for (header.id = 1; header.id <= 3000; ++header.id) worker.control.queue(header);
  Worker::flush(worker.control);
  for (std::uint64_t id = 1; id <= 3000; ++id) {
    const auto answer = worker.next(worker.control);
    ASSERT_TRUE(answer);
    ASSERT_EQ(answer->header.id, id);
  }
  expect_clean_stop(worker);
}

TEST_F(HostileParent, MalformedFramesEndTheWorker) {
  const auto header = [](FrameType type, std::uint64_t id) {
    FrameHeader h;
    h.type = type;
    h.id = id;
    return h;
  };
  std::vector<FrameHeader> on_data{header(FrameType::status, 1), header(FrameType{99}, 1), header(FrameType::call, 0)};
  on_data.push_back(header(FrameType::call, 1));
  on_data.back().type = FrameType::cancel;
  on_data.push_back(header(FrameType::call, 1));
  on_data.back().size = 1u << 31;
  for (const FrameHeader& bad : on_data) {
    Worker worker;
    worker.expect_hello();
    ASSERT_EQ(::send(worker.data.fd(), &bad, sizeof bad, 0), static_cast<ssize_t>(sizeof bad));
    EXPECT_EQ(worker.exit_status(), 0);
  }
  std::vector<FrameHeader> on_control{header(FrameType::call, 1), header(FrameType::hello, 1),
                                      header(FrameType::stop, 1)};
  for (const FrameHeader& bad : on_control) {
    Worker worker;
    worker.expect_hello();
    ASSERT_EQ(::send(worker.control.fd(), &bad, sizeof bad, 0), static_cast<ssize_t>(sizeof bad));
    EXPECT_EQ(worker.exit_status(), 0);
  }
}

TEST_F(HostileParent, MalformedCallHasBadArguments) {
  Worker worker;
  worker.expect_hello();
  FrameHeader header;
  header.type = FrameType::call;
  header.id = ++worker.last_call;
  header.slot = 1001;
  worker.data.queue(header, std::as_bytes(std::span("rubbish")));
  Worker::flush(worker.data);
  EXPECT_EQ(worker.result().status(), ResultStatus::bad_arguments);
  expect_clean_stop(worker);
}

}  // namespace
