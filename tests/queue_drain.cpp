// The times of a stop that lets waiting calls run.
#include <chrono>
#include <gtest/gtest.h>
#include <optional>

#include <drover/pool/detail/queue_drain.hpp>

namespace {

using namespace std::chrono_literals;
using drover::Clock;
using drover::detail::QueueDrain;

constexpr Clock::time_point zero{};

TEST(QueueDrain, LastsForTheGrace) {
  const QueueDrain drain(zero + 1s, 10s, std::nullopt);
  EXPECT_EQ(drain.since(), zero + 1s);
  EXPECT_EQ(drain.until(), zero + 11s);
  EXPECT_EQ(drain.grace_left(zero + 1s), 10s);
  EXPECT_EQ(drain.grace_left(zero + 7s), 4s);
  EXPECT_EQ(drain.grace_left(zero + 11s), 0s);
  EXPECT_EQ(drain.grace_left(zero + 12s), 0s);
}

TEST(QueueDrain, IsCutShortByTheShutdownTimeout) {
  const QueueDrain cut(zero, 10s, 3s), uncut(zero, 10s, 30s);
  EXPECT_EQ(cut.until(), zero + 3s);
  EXPECT_EQ(cut.grace_left(zero + 3s), 7s);
  EXPECT_EQ(uncut.until(), zero + 10s);
}

TEST(QueueDrain, MayHaveNoBound) {
  const QueueDrain drain(zero, std::nullopt, std::nullopt);
  EXPECT_EQ(drain.until(), std::nullopt);
  EXPECT_EQ(drain.grace_left(zero + 1000h), std::nullopt);
  EXPECT_EQ(QueueDrain(zero, std::nullopt, 5s).until(), zero + 5s);
}

}  // namespace
