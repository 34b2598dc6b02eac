// Frames over a socket: gathered writes, partial writes, and peers that close their end.
#include <cstring>
#include <gtest/gtest.h>
#include <string>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <thread>

#include <drover/error.hpp>
#include <drover/os/fd.hpp>
#include <drover/wire/channel.hpp>

namespace {

using namespace drover::detail;
using drover::UniqueFd;
using Received = Channel::Received;

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }
std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
FrameHeader call(std::uint64_t id) { return {.type = FrameType::call, .id = id}; }

struct Ends {
  explicit Ends(std::size_t max_body = 64u << 20) : Ends(socket_pair(), max_body) {}
  Ends(std::pair<UniqueFd, UniqueFd> sockets, std::size_t max_body)
      : near(std::move(sockets.first), max_body), far(std::move(sockets.second), max_body) {}

  Channel near, far;
};

int readable_bytes(const Channel& channel) {
  int count = 0;
  EXPECT_EQ(::ioctl(channel.fd(), FIONREAD, &count), 0);
  return count;
}

TEST(Channel, SendsManySmallFramesInOneMessage) {
  Ends ends;
  for (std::uint64_t i = 0; i < 100; ++i) ends.near.queue(call(i), bytes_of("body " + std::to_string(i)));
  EXPECT_TRUE(ends.near.wants_write());
  EXPECT_FALSE(ends.near.flush());
  EXPECT_FALSE(ends.near.wants_write());
  EXPECT_EQ(ends.far.receive(), Received::some);
  for (std::uint64_t i = 0; i < 100; ++i) EXPECT_EQ(text_of(ends.far.next()->body), "body " + std::to_string(i));
  EXPECT_FALSE(ends.far.next());
  EXPECT_EQ(ends.far.receive(), Received::nothing_yet);
}

TEST(Channel, WriteStopsAtAFullSocketAndResumes) {
  Ends ends;
  std::string expected, arrived;
  for (std::uint64_t i = 0; i < 300; ++i) {
    const std::string body(i % 7 == 0 ? 100000 : i, static_cast<char>('a' + i % 26));
    FrameBody queued;
    queued.buffer().append(bytes_of(body));
    ends.near.queue(call(i), queued);
    expected += body;
  }
  EXPECT_FALSE(ends.near.flush());
  ASSERT_TRUE(ends.near.wants_write());
  const std::size_t full = ends.near.pending();
  EXPECT_FALSE(ends.near.flush());
  EXPECT_EQ(ends.near.pending(), full);
  std::uint64_t frames = 0;
  while (frames < 300) {
    EXPECT_FALSE(ends.near.flush());
    ASSERT_NE(ends.far.receive(), Received::closed);
    while (const auto frame = ends.far.next()) {
      EXPECT_EQ(frame->header.id, frames++);
      arrived += text_of(frame->body);
    }
  }
  EXPECT_TRUE(arrived == expected);
  EXPECT_FALSE(ends.near.wants_write());
}

TEST(Channel, SendsMorePiecesThanOneSendmsgTakes) {
  Ends ends;
  const int room = 8 << 20;
  ::setsockopt(ends.near.fd(), SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  std::thread reader([&far = ends.far] {
    std::size_t frames = 0;
    while (frames < 100) {
      if (far.receive() == Received::nothing_yet) std::this_thread::yield();
      while (const auto frame = far.next()) EXPECT_EQ(frame->header.id, frames++);
    }
  });
  for (std::uint64_t i = 0; i < 100; ++i) {
    FrameBody body;
    std::memset(body.buffer().extend(70000), 1, 70000);
    ends.near.queue(call(i), body);
  }
  while (ends.near.wants_write()) ASSERT_FALSE(ends.near.flush());
  reader.join();
}

TEST(Channel, ReadsTheRepliesOfAClosedPeer) {
  // The replies are read even after a write has failed.
  Ends ends;
  ends.far.queue(call(1), bytes_of("last words"));
  ends.far.queue(call(2), bytes_of(std::string(50000, 'z')));
  EXPECT_FALSE(ends.far.flush());
  ends.far.close();
  ends.near.queue(call(3), bytes_of("too late"));
  EXPECT_EQ(ends.near.flush(), std::errc::broken_pipe);  // and raises no SIGPIPE
  EXPECT_FALSE(ends.near.wants_write());
  ends.near.queue(call(4), bytes_of("later still"));
  EXPECT_FALSE(ends.near.wants_write());
  EXPECT_EQ(ends.near.flush(), std::errc::broken_pipe);
  EXPECT_EQ(ends.near.receive(), Received::some);
  EXPECT_EQ(text_of(ends.near.next()->body), "last words");
  EXPECT_EQ(ends.near.next()->body.size(), 50000u);
  EXPECT_EQ(ends.near.receive(), Received::closed);
  EXPECT_EQ(ends.near.receive(), Received::closed);
}

TEST(Channel, ReadsTheRepliesBeforeAConnectionReset) {
  Ends ends;
  ends.near.queue(call(1), bytes_of("never read"));
  EXPECT_FALSE(ends.near.flush());
  ends.far.queue(call(2), bytes_of("reply"));
  EXPECT_FALSE(ends.far.flush());
  ends.far.close();  // which causes ECONNRESET after the reply
  EXPECT_EQ(ends.near.receive(), Received::some);
  EXPECT_EQ(text_of(ends.near.next()->body), "reply");
  EXPECT_EQ(ends.near.receive(), Received::closed);
}

TEST(Channel, ReportsAnEndInTheMiddleOfAFrame) {
  Ends ends;
  ends.near.queue(call(1), bytes_of("cut off"));
  EXPECT_FALSE(ends.near.flush());
  char part[27];
  ASSERT_EQ(::recv(ends.far.fd(), part, sizeof part, 0), 27);
  auto [left, right] = socket_pair();
  ASSERT_EQ(::send(left.get(), part, sizeof part, 0), 27);
  left.reset();
  Channel channel(std::move(right), 1000);
  EXPECT_EQ(channel.receive(), Received::some);
  EXPECT_FALSE(channel.next());
  EXPECT_EQ(channel.receive(), Received::closed);
  EXPECT_TRUE(channel.reader().mid_frame());
}

TEST(Channel, GarbageIsAProtocolError) {
  Ends ends;
  const std::string garbage = "HTTP/1.1 400 Bad Request\r\n\r\n";
  ASSERT_EQ(::send(ends.far.fd(), garbage.data(), garbage.size(), 0), static_cast<ssize_t>(garbage.size()));
  EXPECT_EQ(ends.near.receive(), Received::some);
  EXPECT_THROW(ends.near.next(), drover::Error);
}

TEST(Channel, ReadsALargeBodyOncePerSocketBuffer) {
  Ends ends;
  FrameBody body;
  std::memset(body.buffer().extend(4u << 20), 7, 4u << 20);
  ends.near.queue(call(1), body);
  std::size_t reads = 0, some = 0;
  std::optional<Frame> frame;
  while (!frame) {
    ASSERT_FALSE(ends.near.flush());
    const int waiting = readable_bytes(ends.far);
    ASSERT_EQ(ends.far.receive(), Received::some);
    ++reads;
    some += reads > 2 && readable_bytes(ends.far) == 0 && waiting > 65536;
    frame = ends.far.next();
  }
  EXPECT_EQ(frame->body.size(), 4u << 20);
  EXPECT_EQ(frame->body.back(), std::byte{7});
  EXPECT_GT(some, 0u);  // reads that took everything although it was more than a small buffer holds
}

TEST(Channel, ReportsABadDescriptor) {
  Channel channel(UniqueFd(), 1000);
  EXPECT_THROW(channel.receive(), std::system_error);
  channel.queue(call(1));
  EXPECT_EQ(channel.flush(), std::errc::bad_file_descriptor);
}

}  // namespace
