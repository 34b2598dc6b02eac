// Histogram, beside the sorted durations themselves.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <gtest/gtest.h>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include <drover/pool/histogram.hpp>

namespace {

using namespace std::chrono_literals;
using drover::Duration;
using drover::Histogram;

Histogram histogram_of(const std::vector<Duration>& durations) {
  Histogram histogram;
  for (const Duration duration : durations) histogram.record(duration);
  return histogram;
}

/// What a fraction `q` of the durations does not exceed: the smallest such duration.
Duration exact_quantile(std::vector<Duration> durations, double q) {
  std::sort(durations.begin(), durations.end());
  std::size_t rank = 1;
  while (static_cast<double>(rank) < q * static_cast<double>(durations.size()) - 1e-6) ++rank;
  return durations[std::min(rank, durations.size()) - 1];
}

/// Any number of nanoseconds up to 2^bits, all magnitudes equally likely.
Duration any_duration(std::mt19937_64& random, int bits) {
  const auto magnitude = std::uniform_int_distribution<int>(0, bits)(random);
  return std::chrono::nanoseconds(random() & ((std::uint64_t{1} << magnitude) - 1));
}

TEST(Histogram, IsZeroWithoutDurations) {
  const Histogram empty;
  EXPECT_EQ(empty.count(), 0u);
  EXPECT_EQ(empty.sum(), 0ns);
  EXPECT_EQ(empty.max(), 0ns);
  EXPECT_EQ(empty.quantile(0), 0ns);
  EXPECT_EQ(empty.quantile(1), 0ns);
  EXPECT_EQ(empty.count_at_most(24h), 0u);
}

TEST(Histogram, OneDurationIsEachQuantile) {
  for (const Duration only : {Duration(1ns), Duration(999ns), Duration(37us), Duration(1234567ns), Duration(5h)}) {
    const Histogram histogram = histogram_of({only});
    EXPECT_EQ(histogram.count(), 1u);
    EXPECT_EQ(histogram.sum(), only);
    EXPECT_EQ(histogram.max(), only);
    for (const double q : {0.0, 0.5, 0.999, 1.0}) EXPECT_EQ(histogram.quantile(q), only) << q;
  }
}

TEST(Histogram, ZerosAreExact) {
  const Histogram histogram = histogram_of({0ns, 0ns, 0ns, 1s});
  EXPECT_EQ(histogram.quantile(0), 0ns);
  EXPECT_EQ(histogram.quantile(0.75), 0ns);
  EXPECT_EQ(histogram.quantile(0.76), 1s);
  EXPECT_EQ(histogram.count_at_most(0ns), 3u);
}

TEST(Histogram, NegativeDurationsCountAsZero) {
  const Histogram histogram = histogram_of({-1ns, Duration::min(), 0ns});
  EXPECT_EQ(histogram.count(), 3u);
  EXPECT_EQ(histogram.sum(), 0ns);
  EXPECT_EQ(histogram.max(), 0ns);
  EXPECT_EQ(histogram.quantile(1), 0ns);
  EXPECT_EQ(histogram.count_at_most(0ns), 3u);
  EXPECT_EQ(histogram.count_at_most(-1ns), 0u);
}

TEST(Histogram, YearsShareOneBucket) {
  constexpr auto year = 365 * 24h;
  const Histogram histogram = histogram_of({1ms, 20h, year, 100 * year});
  EXPECT_EQ(histogram.max(), 100 * year);
  EXPECT_EQ(histogram.sum(), 1ms + 20h + 101 * year);
  EXPECT_EQ(histogram.quantile(0.5), 100 * year) << "the longest of those that share the bucket";
  EXPECT_EQ(histogram.count_at_most(1h), 1u);
  EXPECT_EQ(histogram.count_at_most(100 * year), 4u);
}

TEST(Histogram, SumStopsAtItsGreatestValue) {
  Histogram histogram = histogram_of({Duration::max(), 1ns});
  EXPECT_EQ(histogram.sum(), Duration::max());
  histogram += histogram_of({Duration::max()});
  EXPECT_EQ(histogram.sum(), Duration::max());
  EXPECT_EQ(histogram.count(), 3u);
}

TEST(Histogram, RefusesFractionsOutOfRange) {
  const Histogram histogram = histogram_of({1s});
  for (const double q : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    EXPECT_THROW((void)histogram.quantile(q), std::invalid_argument) << q;
}

TEST(Histogram, RanksAreThoseOfTheSortedDurations) {
  std::vector<Duration> durations;
  for (int i = 1; i <= 100; ++i) durations.push_back(i * 100ms);
  const Histogram histogram = histogram_of(durations);
  for (int percent = 1; percent < 100; ++percent) {
    const double exact = std::chrono::duration<double>(percent * 100ms).count();
    const double found = std::chrono::duration<double>(histogram.quantile(percent / 100.0)).count();
    EXPECT_NEAR(found / exact, 1, 0.0625) << percent;
  }
  // 7 of 100: 0.07 * 100 is more than 7.
  std::vector<Duration> seven(7, 1s);
  seven.resize(100, 1h);
  EXPECT_NEAR(std::chrono::duration<double>(histogram_of(seven).quantile(0.07)).count(), 1, 0.0625);
}

// Random durations of all magnitudes: each quantile is at most 6.25% off, or 64 ns.
TEST(Histogram, QuantilesAreCloseToTheExactOnes) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 300; ++round) {
    std::vector<Duration> durations(1 + random() % 300);
    const int bits = 1 + static_cast<int>(random() % 46);
    for (Duration& duration : durations) duration = any_duration(random, bits);
    const Histogram histogram = histogram_of(durations);
    for (const double q : {0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0}) {
      const double exact = static_cast<double>(exact_quantile(durations, q).count());
      const double found = static_cast<double>(histogram.quantile(q).count());
      ASSERT_LE(std::abs(found - exact), std::max(exact / 16, 64.0)) << q << " of " << durations.size();
    }
    ASSERT_EQ(histogram.quantile(1), *std::max_element(durations.begin(), durations.end()));
  }
}

// Each bucket is at least 1/16 above the one before, and every duration is in the bucket that ends at or after it.
TEST(Histogram, EveryDurationIsInTheBucketOfItsMagnitude) {
  std::mt19937_64 random(12);
  const auto alone = [](Duration duration) {  // among others, so that the longest one does not hide the bucket
    return histogram_of({duration, 19h, 19h}).quantile(0.1);
  };
  for (int i = 0; i < 100'000; ++i) {
    const Duration duration = any_duration(random, 45);
    const Duration found = alone(duration);
    ASSERT_LE(std::abs((found - duration).count()), std::max<std::int64_t>(duration.count() / 16, 64))
        << duration.count();
    ASSERT_LE(found, alone(duration + 1ns)) << duration.count();
  }
}

TEST(Histogram, BoundsCountExactly) {
  std::mt19937_64 random(13);
  std::vector<Duration> durations;
  for (int i = 0; i < 5000; ++i) durations.push_back(any_duration(random, 40));
  for (const Duration bound : Histogram::bounds())  // the bound itself, and its neighbours
    for (const Duration duration : {bound - 1ns, bound, bound + 1ns}) durations.push_back(duration);
  const Histogram histogram = histogram_of(durations);
  EXPECT_EQ(Histogram::bounds().front(), 8192ns);
  EXPECT_EQ(Histogram::bounds().back(), 68719476736ns);
  Duration before{};
  for (const Duration bound : Histogram::bounds()) {
    EXPECT_GT(bound, before);
    before = bound;
    EXPECT_EQ(histogram.count_at_most(bound),
              static_cast<std::uint64_t>(std::count_if(durations.begin(), durations.end(),
                                                       [&](Duration duration) { return duration <= bound; })));
  }
}

TEST(Histogram, MergedIsAsIfRecordedTogether) {
  std::mt19937_64 random(14);
  for (int round = 0; round < 100; ++round) {
    Histogram together, first, second;
    for (int i = 0; i < 200; ++i) {
      const Duration duration = any_duration(random, 50);
      together.record(duration);
      (random() % 2 == 0 ? first : second).record(duration);
    }
    EXPECT_NE(first, together);
    first += second;
    EXPECT_EQ(first, together);
  }
}

TEST(Histogram, IsSmall) { EXPECT_LE(sizeof(Histogram), 2560u); }

}  // namespace
