#pragma once

#include <algorithm>
#include <memory>

#include <drover/detail/context/async_event.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The times of a stop that lets waiting calls run: one budget, from the call of stop(). Pure.
class QueueDrain {
 public:
  QueueDrain(Clock::time_point now, Timeout grace, Timeout shutdown_timeout) noexcept
      : since_(now),
        grace_end_(deadline_after(now, grace)),
        until_(earlier(grace_end_, deadline_after(now, shutdown_timeout))) {}

  /// When the program asked for the stop.
  Clock::time_point since() const noexcept { return since_; }
  /// The workers are asked to stop then, if calls still wait.
  const Deadline& until() const noexcept { return until_; }
  /// The grace of the workers' stop.
  Timeout grace_left(Clock::time_point now) const noexcept {
    if (!grace_end_) return std::nullopt;
    return std::max(*grace_end_ - now, Duration::zero());
  }

 private:
  Clock::time_point since_;
  Deadline grace_end_;
  Deadline until_;
};

}}}  // namespace drover::v1::detail
