#pragma once

#include <algorithm>
#include <benchmark/benchmark.h>
#include <cstdint>

#include "longest.hpp"

namespace bench {

/// CPU-bound work that the compiler cannot shorten: each step needs the one before.
inline std::uint64_t burn(std::uint64_t steps) {
  std::uint64_t x = 88172645463325252u;
  for (std::uint64_t i = 0; i < steps; ++i) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
  }
  return x;
}

/// The number of steps that take 1 ms of CPU time.
inline std::uint64_t one_millisecond() {
  static const std::uint64_t steps = [] {
    constexpr std::uint64_t probe = 2'000'000;
    double best = 1e15;
    for (int i = 0; i < 5; ++i) {
      const double begin = thread_cpu();
      benchmark::DoNotOptimize(burn(probe));
      best = std::min(best, thread_cpu() - begin);
    }
    return static_cast<std::uint64_t>(static_cast<double>(probe) / best * 1000);
  }();
  return steps;
}

}  // namespace bench
