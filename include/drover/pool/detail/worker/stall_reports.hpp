#pragma once

#include <cstdint>
#include <string>

#include <drover/detail/report_text.hpp>
#include <drover/pool/detail/call/call_names.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// A stall that a worker has reported by STALLED: the call that its main thread runs, and how long the loop has not
/// turned.
struct Stall {
  CallNames call{};  // empty: no routine of a known call runs
  Duration age{};
};

/// Decides whether a STALLED is possible. Between two of them the main loop has stalled for WorkerOptions::stall, and
/// so it has before the first one. The parent may read several at once, so their number since HELLO counts, not the
/// time between them. Pure: the caller brings the time.
class StallReports {
 public:
  explicit StallReports(Timeout stall) noexcept : stall_(stall) {}

  void worker_ready(Clock::time_point now) noexcept { ready_at_ = now; }

  /// False: a sound worker does not send that.
  bool admit(Clock::time_point now, Duration age) noexcept {
    const Duration since = now - ready_at_;
    if (!stall_ || age < *stall_ || age > since || since / *stall_ <= admitted_) return false;
    ++admitted_;
    return true;
  }

 private:
  Timeout stall_;
  Clock::time_point ready_at_;
  std::int64_t admitted_ = 0;
};

/// "routine 'parse' did not let its main loop turn for 1 s"
inline std::string stall_text(const Stall& stall) {
  const std::string time = duration_text(stall.age);
  return stall.call.routine.empty() ? "its main loop did not turn for " + time
                                    : "routine '" + stall.call.routine + "' did not let its main loop turn for " + time;
}

}}}  // namespace drover::v1::detail
