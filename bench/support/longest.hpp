#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <time.h>
#include <vector>

#include "machine.hpp"

namespace bench {

/// The CPU time of this thread, in microseconds.
inline double thread_cpu() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

/// The times of many short operations of this thread, in microseconds of its CPU time: a thread that the kernel takes
/// off its core in the middle of an operation is not a long operation. Reading the CPU time is a system call. It is
/// read after every eighth operation, and after each that looks long, so that such a result includes up to seven short
/// ones.
class OperationTimes {
 public:
  explicit OperationTimes(std::size_t expected = 0) { times_.reserve(expected); }

  void begin() { began_ = Clock::now(); }
  void end() {
    const double taken = microseconds(Clock::now() - began_);
    const bool looks_long = taken >= 50;
    double counts = taken;
    if (looks_long || ++unread_ == 8) {
      const double now = thread_cpu();
      if (looks_long) counts = std::min(taken, now - read_);
      read_ = now;
      unread_ = 0;
    }
    times_.push_back(static_cast<float>(counts));
  }

  /// The longest of the same operations, which have run twice in the same order: the shorter time of each counts. What
  /// a busy machine does at a random moment rarely meets the same operation again.
  double longest(const OperationTimes& again) const {
    double found = 0;
    for (std::size_t i = 0; i < std::min(times_.size(), again.times_.size()); ++i)
      found = std::max(found, static_cast<double>(std::min(times_[i], again.times_[i])));
    return found;
  }

 private:
  std::vector<float> times_;
  Clock::time_point began_{};
  double read_ = thread_cpu();
  int unread_ = 0;
};

}  // namespace bench
