// Descriptors over a socket: they arrive with their frame, and those that nobody asked for hurt nobody.
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <gtest/gtest.h>
#include <string>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <thread>
#include <utility>
#include <vector>

#include <drover/error.hpp>
#include <drover/wire/channel.hpp>

#include "support/descriptors.hpp"

namespace {
std::atomic<int> sending_fails{0};                   // an errno, for messages with descriptors
std::atomic<bool> kernel_passes_descriptors{false};  // as kernels before Linux 6.16 do
}  // namespace

extern "C" {
ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  if (const int error = sending_fails; error != 0 && message->msg_controllen != 0) {
    errno = error;
    return -1;
  }
  return ::syscall(SYS_sendmsg, fd, message, flags);
}
int setsockopt(int fd, int level, int option, const void* value, socklen_t size) noexcept {
  if (kernel_passes_descriptors && level == SOL_SOCKET && option == drover::detail::so_passrights) {
    errno = ENOPROTOOPT;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_setsockopt, fd, level, option, value, size));
}
}

namespace {

using namespace std::chrono_literals;
using namespace drover::detail;
using namespace support;
using Received = Channel::Received;

struct Ends {
  Ends() : Ends(socket_pair()) {}
  explicit Ends(std::pair<UniqueFd, UniqueFd> sockets)
      : near(std::move(sockets.first), 64u << 20), far(std::move(sockets.second), 64u << 20) {}

  Channel near, far;
};

FrameHeader result(std::uint64_t id, std::uint16_t descriptors = 0) {
  return {.type = FrameType::result, .descriptors = descriptors, .id = id};
}
std::string bytes_of(const FrameHeader& header) { return {reinterpret_cast<const char*>(&header), sizeof header}; }

/// Queues a frame with pipes from which "id:0", "id:1", ... can be read.
void queue_pipes(Channel& channel, std::uint64_t id, std::size_t count, std::size_t size = 10) {
  FrameBody body;
  if (size != 0) std::memset(body.buffer().extend(size), 'x', size);
  for (std::size_t i = 0; i < count; ++i) body.attach(pipe_with(std::to_string(id) + ":" + std::to_string(i)));
  channel.queue(result(id), body);
}
void expect_pipes(Channel& channel, const Frame& frame, std::size_t count) {
  EXPECT_EQ(frame.header.descriptors, count);
  ASSERT_EQ(channel.reader().descriptors().size(), count);
  for (std::size_t i = 0; i < count; ++i) {
    const UniqueFd pipe = channel.reader().descriptors().take();
    EXPECT_TRUE(closes_on_exec(pipe));
    EXPECT_EQ(rest_of(pipe), std::to_string(frame.header.id) + ":" + std::to_string(i));
  }
}

class ChannelDescriptors : public testing::Test {
 protected:
  void TearDown() override {
    sending_fails = 0;
    kernel_passes_descriptors = false;
  }
};

TEST_F(ChannelDescriptors, ArriveWithTheirFrame) {
  for (const bool distrusted : {false, true}) {
    Ends ends;
    if (distrusted) ends.far.distrust();
    ends.far.receive_descriptors(true);
    for (std::uint64_t id = 1; id <= 40; ++id) queue_pipes(ends.near, id, id % 3, id % 5 == 0 ? 100'000 : id);
    std::uint64_t next = 1;
    while (next <= 40) {
      ASSERT_FALSE(ends.near.flush());
      ASSERT_NE(ends.far.receive(), Received::closed);
      while (const auto frame = ends.far.next()) {
        ASSERT_EQ(frame->header.id, next++);
        expect_pipes(ends.far, *frame, frame->header.id % 3);
      }
    }
    EXPECT_FALSE(ends.near.wants_write());
    EXPECT_FALSE(ends.far.reader().holds_descriptors());
  }
}

// However full the socket is, and however its bytes are cut.
TEST_F(ChannelDescriptors, ArriveThroughAFullSocket) {
  Ends ends;
  const int small = 4096;
  ::setsockopt(ends.near.fd(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
  ends.far.receive_descriptors(true);
  for (std::uint64_t id = 1; id <= 30; ++id) queue_pipes(ends.near, id, 1 + id % 2, 3000 * (id % 4));
  std::uint64_t next = 1;
  for (int rounds = 0; next <= 30 && rounds < 10'000; ++rounds) {
    ASSERT_FALSE(ends.near.flush());
    ASSERT_NE(ends.far.receive(), Received::closed);
    while (const auto frame = ends.far.next()) {
      ASSERT_EQ(frame->header.id, next++);
      expect_pipes(ends.far, *frame, 1 + frame->header.id % 2);
    }
  }
  EXPECT_EQ(next, 31u);
}

TEST_F(ChannelDescriptors, AreClosedByAReceiverThatTakesNone) {
  Ends ends;
  auto [reading, writing] = pipe_ends();
  FrameBody body;
  body.attach(std::move(writing));
  ends.near.queue(result(1), body);
  body.clear();
  EXPECT_FALSE(ends.near.flush());
  EXPECT_EQ(ends.far.receive(), Received::some);
  EXPECT_TRUE(ends.far.next());
  EXPECT_TRUE(ends.far.reader().descriptors().empty());
  EXPECT_TRUE(ends_within(reading, 0));
}

// The frame is sent without them: its receiver sees that, and everything goes on.
TEST_F(ChannelDescriptors, ThatTheKernelRefusesAreLeftOut) {
  for (const int error : {EBADF, EINVAL, EPERM}) {
    Ends ends;
    ends.far.receive_descriptors(true);
    queue_pipes(ends.near, 1, 2);
    sending_fails = error;
    EXPECT_FALSE(ends.near.flush());
    sending_fails = 0;
    queue_pipes(ends.near, 2, 1);
    EXPECT_FALSE(ends.near.flush());
    std::vector<std::uint16_t> counts;
    while (ends.far.receive() == Received::some)
      while (const auto frame = ends.far.next()) counts.push_back(frame->header.descriptors);
    EXPECT_EQ(counts, (std::vector<std::uint16_t>{0, 1}));
  }
}

TEST_F(ChannelDescriptors, ThatWereClosedByTheProgramAreLeftOut) {
  Ends ends;
  ends.far.receive_descriptors(true);
  UniqueFd pipe = pipe_with("x");
  const int number = pipe.get();
  FrameBody body;
  body.attach(std::move(pipe));
  ends.near.queue(result(1), body);
  ::close(number);
  EXPECT_FALSE(ends.near.flush());
  EXPECT_EQ(ends.far.receive(), Received::some);
  EXPECT_EQ(ends.far.next()->header.descriptors, 0);
}

TEST_F(ChannelDescriptors, TooManyInFlightAreSentLater) {
  Ends ends;
  ends.far.receive_descriptors(true);
  queue_pipes(ends.near, 1, 1);
  sending_fails = ETOOMANYREFS;
  EXPECT_FALSE(ends.near.flush());
  EXPECT_TRUE(ends.near.short_of_memory());
  EXPECT_TRUE(ends.near.wants_write());
  sending_fails = 0;
  EXPECT_FALSE(ends.near.flush());
  EXPECT_EQ(ends.far.receive(), Received::some);
  expect_pipes(ends.far, *ends.far.next(), 1);
}

TEST_F(ChannelDescriptors, TheReceiverHasNoRoomForAreMissing) {
  Ends ends;
  ends.far.distrust();
  ends.far.receive_descriptors(true);
  queue_pipes(ends.near, 1, 5);
  EXPECT_FALSE(ends.near.flush());
  rlimit usual{};
  ::getrlimit(RLIMIT_NOFILE, &usual);
  const UniqueFd next(::dup(0));
  const rlimit few{static_cast<rlim_t>(next.get()) + 3, usual.rlim_max};  // room for two more
  ::setrlimit(RLIMIT_NOFILE, &few);
  EXPECT_EQ(ends.far.receive(), Received::some);
  ::setrlimit(RLIMIT_NOFILE, &usual);
  const auto frame = ends.far.next();
  ASSERT_TRUE(frame);
  EXPECT_TRUE(ends.far.reader().descriptors().incomplete());
  EXPECT_LT(ends.far.reader().descriptors().size(), 5u);
}

// ---- untrusted peers ------------------------------------------------------------------------------------------------

class UntrustedDescriptors : public ChannelDescriptors, public testing::WithParamInterface<bool> {
 protected:
  UntrustedDescriptors() {
    kernel_passes_descriptors = GetParam();
    ends.near.distrust();
  }
  /// What receive() and next() throw within a moment.
  std::string failure() {
    try {
      for (const auto start = std::chrono::steady_clock::now(); std::chrono::steady_clock::now() - start < 500ms;) {
        (void)ends.near.receive();
        while (ends.near.next()) continue;
      }
    } catch (const drover::Error& error) {
      EXPECT_EQ(error.code(), drover::Errc::protocol_error);
      return error.what();
    }
    return "none";
  }
  bool peer_may_send(const std::string& bytes, std::vector<int> descriptors) {
    try {
      send_with(ends.far.fd(), bytes, std::move(descriptors));
      return true;
    } catch (const std::runtime_error&) {
      EXPECT_EQ(errno, EPERM);
      return false;
    }
  }
  bool may_send_now() {
    const UniqueFd any = pipe_with("");
    return peer_may_send(bytes_of(result(1)), {any.get()});
  }

  Ends ends;
};

TEST_P(UntrustedDescriptors, AreRefusedUnlessTheyAreExpected) {
  const bool sent = may_send_now();
  EXPECT_EQ(sent, GetParam());
  if (sent) {
    EXPECT_NE(failure().find("which the protocol does not allow"), std::string::npos);
  }
}

TEST_P(UntrustedDescriptors, AreRefusedAgainAfterwards) {
  for (int round = 0; round < 3; ++round) {
    ends.near.receive_descriptors(true);
    queue_pipes(ends.far, 1, 2);
    EXPECT_FALSE(ends.far.flush());
    EXPECT_EQ(ends.near.receive(), Received::some);
    expect_pipes(ends.near, *ends.near.next(), 2);
    EXPECT_FALSE(ends.near.next());
    ends.near.receive_descriptors(false);
    ends.far.queue(result(2));
    EXPECT_FALSE(ends.far.flush());
    EXPECT_EQ(ends.near.receive(), Received::some);
    EXPECT_TRUE(ends.near.next());
  }
  EXPECT_EQ(may_send_now(), GetParam());
}

// They were sent while others were expected, and are read later: the kernel would close them on this thread.
TEST_P(UntrustedDescriptors, LeftInTheSocketAreNotClosedByTheReader) {
  ends.near.receive_descriptors(true);
  const int blocks = lingering_socket(2);
  EXPECT_TRUE(peer_may_send(bytes_of(result(1)), {}));
  EXPECT_TRUE(peer_may_send(bytes_of(result(2)), {blocks}));
  ::close(blocks);
  ends.near.receive_descriptors(false);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_NE(failure(), "none");
  ends.near.close();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 1500ms);
}

// An urgent byte ends a read although the socket has more: it must not count as empty.
TEST_P(UntrustedDescriptors, BehindAnUrgentByteAreNotClosedByTheReader) {
  ends.near.receive_descriptors(true);
  const int blocks = lingering_socket(2);
  EXPECT_TRUE(peer_may_send(bytes_of(result(1)), {}));
  const char urgent = 0;
  (void)::send(ends.far.fd(), &urgent, 1, MSG_OOB);  // a kernel without urgent bytes sends nothing
  EXPECT_TRUE(peer_may_send(bytes_of(result(2)), {blocks}));
  ::close(blocks);
  ends.near.receive_descriptors(false);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_NE(failure(), "none");
  ends.near.close();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 1500ms);
}

TEST_P(UntrustedDescriptors, UnreadInAClosedSocketBlockNobody) {
  ends.near.receive_descriptors(true);
  const int blocks = lingering_socket(2);
  EXPECT_TRUE(peer_may_send(bytes_of(result(1, 1)), {blocks}));
  ::close(blocks);
  ends.near.receive_descriptors(false);
  const auto start = std::chrono::steady_clock::now();
  ends.near.close();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 1500ms);
}

// With a frame that has none, in another number, in the middle of a frame, for no frame at all, or too many.
TEST_P(UntrustedDescriptors, AtTheWrongPlaceAreAProtocolError) {
  const UniqueFd any = pipe_with("");
  const int one = any.get();
  FrameHeader with_body = result(1, 1);
  with_body.size = 100;
  const std::vector<std::vector<std::pair<std::string, std::vector<int>>>> cases{
      {{bytes_of(result(1)), {one}}},
      {{bytes_of(result(1, 1)), {}}},
      {{bytes_of(result(1, 1)), {one, one}}},
      {{bytes_of(result(1, 2)), {one}}},
      {{bytes_of(with_body), {one}}, {"some", {one}}},
      {{bytes_of(result(1, 65)), std::vector<int>(65, one)}},
      {{bytes_of(result(1, 1)), std::vector<int>(253, one)}},
      {{bytes_of({.size = 0, .type = FrameType::status_reply}), {one}}},
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    Ends fresh;
    fresh.near.distrust();
    fresh.near.receive_descriptors(true);
    for (const auto& [bytes, descriptors] : cases[i]) send_with(fresh.far.fd(), bytes, descriptors);
    bool refused = false;
    try {
      for (int reads = 0; reads < 3; ++reads) {
        (void)fresh.near.receive();
        while (fresh.near.next()) continue;
      }
    } catch (const drover::Error& error) {
      refused = error.code() == drover::Errc::protocol_error;
    }
    EXPECT_TRUE(refused);
  }
}

INSTANTIATE_TEST_SUITE_P(WhateverTheKernelDoes, UntrustedDescriptors, testing::Bool(),
                         [](const auto& kernel) { return kernel.param ? "Passes" : "Refuses"; });

}  // namespace
