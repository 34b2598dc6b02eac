// The control thread sends the items that a plain function has written to its Sink and left unsent.
#include <chrono>
#include <gtest/gtest.h>

#include <drover/os/fd.hpp>
#include <drover/wire/channel.hpp>
#include <drover/worker/detail/late_flush.hpp>

namespace {

using drover::detail::Channel;
using drover::detail::LateFlush;

// The control thread looks while the main thread has the channel for itself, and finds nothing to do.
TEST(LateFlush, IsDueAgainWhenTheFunctionGoesOn) {
  const auto now = drover::Clock::now();
  Channel channel(drover::UniqueFd(), 1000);
  LateFlush flush;
  flush.begin();
  EXPECT_TRUE(flush.arm(now));
  flush.end();
  flush.send_late(channel, now + LateFlush::longest_wait);
  EXPECT_FALSE(flush.due());
  EXPECT_TRUE(flush.resume(true, now)) << "the control thread has to be woken up";
  EXPECT_EQ(flush.due(), now + LateFlush::longest_wait);
  flush.end();
  EXPECT_FALSE(flush.resume(true, now)) << "it is to look already";
}

TEST(LateFlush, IsNotDueIfNothingIsUnsent) {
  LateFlush flush;
  flush.begin();
  flush.end();
  EXPECT_FALSE(flush.resume(false, drover::Clock::now()));
  EXPECT_FALSE(flush.due());
  EXPECT_TRUE(flush.active());
}

}  // namespace
