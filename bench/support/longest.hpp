#pragma once

#include <algorithm>
#include <chrono>
#include <time.h>

#include "machine.hpp"

namespace bench {

/// The CPU time of this thread, in microseconds.
inline double thread_cpu() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

/// The longest of many short operations of this thread, in microseconds of its CPU time: a thread that the kernel takes
/// off its core in the middle of an operation is not a long operation. Reading the CPU time is a system call. It is
/// read after every 64th operation, and after each that looks long, so that such a result includes up to 63 short ones.
class LongestOperation {
 public:
  void begin() { began_ = Clock::now(); }
  void end() {
    const double taken = microseconds(Clock::now() - began_);
    const bool looks_long = taken >= 50;
    if (!looks_long) longest_ = std::max(longest_, taken);
    if (!looks_long && ++unread_ < 64) return;
    const double now = thread_cpu();
    if (looks_long) longest_ = std::max(longest_, std::min(taken, now - read_));
    read_ = now;
    unread_ = 0;
  }
  double longest() const noexcept { return longest_; }

 private:
  Clock::time_point began_{};
  double read_ = thread_cpu(), longest_ = 0;
  int unread_ = 0;
};

}  // namespace bench
