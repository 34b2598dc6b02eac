#pragma once

#include <algorithm>
#include <deque>
#include <optional>

#include <drover/pool/options.hpp>

namespace drover::inline v1 {

/// Decides what a pool does about a worker that has ended unasked: replaces it after a delay, or gives up. Pure data;
/// whoever asks brings the time. Not thread-safe.
class Supervisor {
 public:
  explicit Supervisor(RestartPolicy policy = {}) : policy_(policy) {}

  /// A worker has ended unasked at `now`. The delay before its replacement is started, or nullopt: give up. Once it has
  /// given up it stays so.
  std::optional<Duration> died(Clock::time_point now) {
    if (gave_up_) return std::nullopt;
    while (!deaths_.empty() && now - deaths_.front() >= policy_.within) deaths_.pop_front();
    deaths_.push_back(now);
    if (deaths_.size() > policy_.max_restarts) {
      gave_up_ = true;
      return std::nullopt;
    }
    // The delay doubles with each death that is still within the window, so it starts anew after a quiet time.
    Duration delay = std::min(policy_.backoff, policy_.max_backoff);
    for (std::size_t i = 1; i < deaths_.size() && delay < policy_.max_backoff; ++i)
      delay = delay > policy_.max_backoff / 2 ? policy_.max_backoff : delay * 2;
    return delay;
  }

  bool gave_up() const noexcept { return gave_up_; }

 private:
  RestartPolicy policy_;
  std::deque<Clock::time_point> deaths_;  // within the window, oldest first; at most max_restarts + 1
  bool gave_up_ = false;
};

}  // namespace drover::inline v1
