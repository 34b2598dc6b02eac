// How a thread notices what arrives on a socket that another thread reads.
#include <array>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <drover/os/fd.hpp>
#include <drover/worker/detail/call_arrivals.hpp>

namespace {

using drover::UniqueFd;
using drover::detail::CallArrivals;

bool readable(const CallArrivals& arrivals) {
  pollfd watched{arrivals.fd(), POLLIN, 0};
  return ::poll(&watched, 1, 0) > 0;
}

std::array<char, 65536> room{};
bool send_some(const UniqueFd& socket) { return ::send(socket.get(), room.data(), 100, MSG_DONTWAIT) > 0; }
bool read_some(const UniqueFd& socket) { return ::recv(socket.get(), room.data(), room.size(), MSG_DONTWAIT) > 0; }

TEST(CallArrivals, AreNoneAtFirst) {
  const auto [here, there] = drover::detail::socket_pair();
  CallArrivals arrivals(here.get());
  EXPECT_FALSE(readable(arrivals));
  EXPECT_FALSE(arrivals.take());
}

TEST(CallArrivals, StayUntilTheyAreTakenThoughTheyAreRead) {
  const auto [here, there] = drover::detail::socket_pair();
  CallArrivals arrivals(here.get());
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(send_some(there) && send_some(there));
    while (read_some(here)) continue;
    EXPECT_TRUE(readable(arrivals));
    EXPECT_TRUE(arrivals.take());
    EXPECT_FALSE(readable(arrivals));
    EXPECT_FALSE(arrivals.take()) << "both are taken";
  }
}

TEST(CallArrivals, AreTakenOnceThoughTheyAreUnread) {
  const auto [here, there] = drover::detail::socket_pair();
  CallArrivals arrivals(here.get());
  EXPECT_TRUE(send_some(there));
  EXPECT_TRUE(arrivals.take());
  EXPECT_FALSE(readable(arrivals));
  EXPECT_FALSE(arrivals.take());
  EXPECT_TRUE(read_some(here)) << "it has taken no data";
}

// The other side reads nothing for a while, and then everything.
TEST(CallArrivals, OnAFullSocketAreNoticedWhenThereIsRoom) {
  const auto [here, there] = drover::detail::socket_pair();
  CallArrivals arrivals(here.get());
  while (send_some(here)) continue;
  while (arrivals.take()) continue;
  EXPECT_TRUE(send_some(there));
  EXPECT_TRUE(read_some(here));
  while (read_some(there)) continue;
  EXPECT_TRUE(readable(arrivals));
  EXPECT_TRUE(arrivals.take());
}

TEST(CallArrivals, WithoutASocketAreNone) {
  CallArrivals arrivals;
  EXPECT_EQ(arrivals.fd(), -1);
  EXPECT_FALSE(arrivals.take());
}

}  // namespace
