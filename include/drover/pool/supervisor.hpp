#pragma once

#include <drover/detail/platform.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <deque>
#include <utility>

#include <drover/pool/options.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {

/// Decides for one slot of a pool, when the worker in it has exited: when to start another, and when to give the slot
/// up for a while. Pure: the caller brings the time. Not thread-safe.
///
/// Only deaths of workers that had not proved themselves count: workers that never got ready, or had not answered a
/// call. After more than RestartPolicy::max_restarts of them `within` that time the slot is given up. It then waits
/// max_backoff (100 ms at least) and tries one worker after another, until one proves itself: by answering a call, or
/// by living for `within`.
class Supervisor {
 public:
  explicit Supervisor(RestartPolicy policy = {}) : policy_(policy) {}

  struct Death {
    bool served = false;     ///< it had answered a call
    bool graceful = false;   ///< it reported that it drains, and then exited with code 0
    bool asked_for = false;  ///< CallOptions::kill_after or WorkerOptions::kill_stalled ended it
  };
  struct Decision {
    Duration delay{};       ///< before the next worker is started
    bool gives_up = false;  ///< the slot is given up with this death; not true again before it has recovered
    friend bool operator==(const Decision&, const Decision&) = default;
  };

  Decision died(Clock::time_point now, Death death) {
    if (death.served) (void)proved_itself();
    if (gave_up_) return {.delay = time_out()};
    if (death.asked_for) return {};
    const Duration first = std::min(policy_.backoff, policy_.max_backoff);
    if (death.graceful) return {.delay = death.served ? Duration::zero() : first};
    if (death.served) return {.delay = first};
    while (!deaths_.empty() && now - deaths_.front() >= policy_.within) deaths_.pop_front();
    deaths_.push_back(now);
    if (deaths_.size() > policy_.max_restarts) {
      gave_up_ = true;
      deaths_.clear();
      return {.delay = time_out(), .gives_up = true};
    }
    // The delay doubles with each death within the window, so it starts anew after a quiet time.
    Duration delay = first;
    for (std::size_t i = 1; i < deaths_.size() && delay < policy_.max_backoff; ++i)
      delay = delay > policy_.max_backoff / 2 ? policy_.max_backoff : delay * 2;
    return {.delay = delay};
  }

  /// The worker has answered a call, or has been ready for `within`. True if the slot has recovered by that.
  bool proved_itself() noexcept {
    deaths_.clear();
    return std::exchange(gave_up_, false);
  }

  /// No worker has proved itself since too many died.
  bool gave_up() const noexcept { return gave_up_; }

 private:
  Duration time_out() const noexcept {
    constexpr Duration shortest = std::chrono::milliseconds(100);
    return std::max(policy_.max_backoff, shortest);
  }

  RestartPolicy policy_;
  std::deque<Clock::time_point> deaths_;  // that count, within the window, oldest first; at most max_restarts
  bool gave_up_ = false;
};

}}  // namespace drover::v1
