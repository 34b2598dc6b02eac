// The streams of a worker's calls: values of Sink::latest() that wait for the socket, items that wait for credit.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <gtest/gtest.h>
#include <memory>
#include <vector>

#include <drover/wire/body.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/frame.hpp>
#include <drover/worker/detail/call_streams.hpp>
#include <drover/worker/detail/stream_port.hpp>

namespace {

using drover::detail::CallStreams;
using drover::detail::FrameBody;
using drover::detail::FrameHeader;
using drover::detail::FrameType;
using drover::detail::StreamPort;

/// A socket that takes so many frames.
struct NarrowLoop final : StreamPort::Loop {
  void queue_frame(FrameHeader header, FrameBody&, StreamPort::Flush) override {
    --room;
    sent.push_back(header.id);
  }
  bool has_sent_all() override {
    ++asked;
    return room != 0;
  }
  void wait_in_routine(std::uint64_t) override { ADD_FAILURE(); }
  void look_in_routine(std::uint64_t) override { ADD_FAILURE(); }

  std::size_t room = 0, asked = 0;
  std::vector<std::uint64_t> sent;  // the calls
};

class LatestValue : public testing::Test {
 protected:
  LatestValue() {
    for (std::uint64_t id = 1; id <= 3; ++id) {
      const FrameHeader call{.type = FrameType::call, .status = drover::detail::items_out_flag, .id = id};
      ports_.push_back(streams_.add(loop_, call, 1000));
    }
  }
  void report(StreamPort& port) {
    drover::Encoder encoder(port.begin_latest().buffer());
    encoder.put(7);
    port.latest();
  }

  NarrowLoop loop_;
  CallStreams streams_;
  std::vector<std::shared_ptr<StreamPort>> ports_;
};

TEST_F(LatestValue, WaitsUntilTheSocketTakesIt) {
  EXPECT_FALSE(streams_.send_latest());
  for (const auto& port : ports_) report(*port);
  for (std::size_t sent = 0; sent < 3; ++sent) {
    EXPECT_EQ(loop_.sent.size(), sent);
    loop_.room = 1;
    EXPECT_EQ(streams_.send_latest(), sent < 2);
  }
  std::sort(loop_.sent.begin(), loop_.sent.end());
  EXPECT_EQ(loop_.sent, (std::vector<std::uint64_t>{1, 2, 3}));
}

TEST_F(LatestValue, IsLookedForNoFurtherOnceTheSocketIsFull) {
  for (const auto& port : ports_) report(*port);
  loop_.asked = 0;
  EXPECT_TRUE(streams_.send_latest());
  EXPECT_EQ(loop_.asked, 1u);
  EXPECT_TRUE(loop_.sent.empty());
}

TEST_F(LatestValue, WaitsNoMoreOnceTheConnectionIsLost) {
  report(*ports_[1]);
  EXPECT_TRUE(streams_.send_latest());
  streams_.lose_all();
  loop_.room = 9;
  EXPECT_FALSE(streams_.send_latest());
  EXPECT_TRUE(loop_.sent.empty());
}

TEST(SinkItem, IsNotSentIfItsWaitIsDropped) {
  NarrowLoop loop;
  loop.room = 10;
  CallStreams streams;
  const FrameHeader call{.type = FrameType::call, .status = drover::detail::items_out_flag, .id = 1};
  const auto port = streams.add(loop, call, 1 << 20);
  const std::vector<std::byte> large(600'000);
  for (int i = 0; i < 2; ++i) {
    port->begin_item().buffer().append(large);
    (void)port->send();
  }
  EXPECT_EQ(loop.sent.size(), 1u) << "the second one has to wait for credit";
  EXPECT_NO_THROW((void)port->begin_item());
}

}  // namespace
