#pragma once

#include <drover/detail/platform.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>

#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {

/// Counts durations, and estimates their quantiles. It takes 2.4 KiB however many durations it has counted, and no
/// operation allocates.
///
///     const drover::PoolStats stats = pool.stats();
///     const drover::Duration p99 = stats.run_time.quantile(0.99);
///
/// Each power of two is divided into 8 buckets, so that a quantile is at most 6.25% off, and at most 64 ns below 1 us.
/// Buckets reach from 0 to 19.5 hours. Longer durations share one bucket: a quantile among them is the longest of them.
/// Negative durations count as 0.
class Histogram {
 public:
  void record(Duration duration) noexcept {
    const std::int64_t ns = nanoseconds(duration);
    ++counts_[index_of(ns)];
    ++count_;
    sum_ = saturated_sum(sum_, ns);
    max_ = std::max(max_, ns);
  }

  /// How many durations were recorded.
  std::uint64_t count() const noexcept { return count_; }
  /// Of all durations, exactly. It stops at 292 years.
  Duration sum() const noexcept { return to_duration(sum_); }
  /// The longest duration, exactly. Zero if there is none.
  Duration max() const noexcept { return to_duration(max_); }

  /// The duration that a fraction `q` of all durations does not exceed: 0.5 is the median, 0.99 the 99th percentile, 1
  /// the longest duration. Zero if there is none.
  ///
  /// *Errors:* std::invalid_argument if `q` is not between 0 and 1.
  /// *Complexity:* constant, some 300 steps at most.
  Duration quantile(double q) const {
    if (!(q >= 0 && q <= 1)) throw std::invalid_argument("Histogram::quantile() takes a number from 0 to 1");
    if (count_ == 0) return Duration::zero();
    const std::uint64_t rank = rank_of(q);
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < overflow; ++i) {
      seen += counts_[i];
      if (seen >= rank) return to_duration(rank == count_ ? max_ : std::min(middle_of(i), max_));
    }
    return to_duration(max_);
  }

  /// Upper bounds for a histogram of another system, as Prometheus has them: 8 us, and each next one twice as long, up
  /// to 69 s. They are exact powers of two in nanoseconds.
  static constexpr std::array<Duration, 24> bounds() noexcept {
    std::array<Duration, 24> all{};
    std::int64_t bound = std::int64_t{1} << 13;
    for (Duration& each : all) {
      each = to_duration(bound);
      bound *= 2;
    }
    return all;
  }
  /// How many durations were not longer than `bound`. Exact for 0 and for any of bounds(). For another bound, the
  /// durations that share its bucket are left out, unless it is the end of the bucket.
  std::uint64_t count_at_most(Duration bound) const noexcept {
    const std::int64_t ns = nanoseconds(bound);
    if (bound < Duration::zero()) return 0;
    if (ns >= max_) return count_;
    std::uint64_t found = 0;
    for (std::size_t i = 0; i < overflow && end_of(i) <= ns; ++i) found += counts_[i];
    return found;
  }

  /// Adds all durations that `other` has counted.
  Histogram& operator+=(const Histogram& other) noexcept {
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
    count_ += other.count_;
    sum_ = saturated_sum(sum_, other.sum_);
    max_ = std::max(max_, other.max_);
    return *this;
  }

  friend bool operator==(const Histogram&, const Histogram&) = default;

 private:
  // Bucket 0 has the zeros. The next 8 are 128 ns wide. Then each power of two has 8. A bucket includes its end, as
  // those of Prometheus do.
  static constexpr int unit_bits = 7;
  static constexpr std::int64_t unit = std::int64_t{1} << unit_bits;  // ns
  static constexpr int step_bits = 3;
  static constexpr std::size_t steps = std::size_t{1} << step_bits;
  static constexpr int end_bits = 46;  // 2^46 ns: 19.5 hours
  static constexpr std::size_t overflow = 1 + steps + steps * (end_bits - unit_bits - step_bits);

  static constexpr std::int64_t nanoseconds(Duration duration) noexcept {
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
    return std::max<std::int64_t>(ns, 0);
  }
  static constexpr Duration to_duration(std::int64_t ns) noexcept {
    return std::chrono::duration_cast<Duration>(std::chrono::nanoseconds(ns));
  }
  static constexpr std::int64_t saturated_sum(std::int64_t a, std::int64_t b) noexcept {
    constexpr auto most = std::numeric_limits<std::int64_t>::max();
    return a > most - b ? most : a + b;
  }

  static constexpr std::uint64_t index_of(std::int64_t ns) noexcept {
    if (ns == 0) return 0;
    const auto units = static_cast<std::uint64_t>(ns - 1) >> unit_bits;
    if (units < steps) return 1 + units;
    const int octave = 63 - std::countl_zero(units) - step_bits;
    if (octave >= end_bits - unit_bits - step_bits) return overflow;
    return 1 + steps * static_cast<std::uint64_t>(octave) + (units >> octave);
  }
  /// The longest duration of a bucket below `overflow`.
  static constexpr std::int64_t end_of(std::size_t index) noexcept {
    return index == 0 ? 0 : begin_of(index) + width_of(index);
  }
  /// What is exactly as far from both ends of the bucket.
  static constexpr std::int64_t middle_of(std::size_t index) noexcept {
    return index == 0 ? 0 : begin_of(index) + width_of(index) / 2;
  }
  static constexpr std::size_t octave_of(std::size_t index) noexcept {
    return index <= steps ? 0 : (index - 1) / steps - 1;
  }
  static constexpr std::int64_t width_of(std::size_t index) noexcept { return unit << octave_of(index); }
  /// What all durations of the bucket exceed.
  static constexpr std::int64_t begin_of(std::size_t index) noexcept {
    const std::size_t octave = octave_of(index);
    return static_cast<std::int64_t>(index - 1 - steps * octave) << octave << unit_bits;
  }

  /// The position of a quantile in the sorted durations, from 1. 0.07 of 100 is 7, although their product is a little
  /// more than that.
  std::uint64_t rank_of(double q) const noexcept {
    constexpr double rounding = 1 - 4 * std::numeric_limits<double>::epsilon();
    const double rank = __builtin_ceil(q * static_cast<double>(count_) * rounding);
    if (q >= 1 || rank >= static_cast<double>(count_)) return count_;
    return std::max<std::uint64_t>(1, static_cast<std::uint64_t>(rank));
  }

  std::array<std::uint64_t, overflow + 1> counts_{};
  std::uint64_t count_ = 0;
  std::int64_t sum_ = 0;  // ns
  std::int64_t max_ = 0;  // ns
};

}}  // namespace drover::v1
