#pragma once

#include <algorithm>
#include <chrono>

#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// How a worker ends, as a pure state machine on absolute deadlines. Its inputs are a STOP frame, SIGTERM, SIGINT and
/// the parent's death, in any order and number; each of them can only shorten the time that the others allow. Its
/// outputs are the action to take now and the time to ask again. It uses neither threads nor clocks.
class Drain {
 public:
  enum class Action {
    none,
    cancel_calls,  // cancel every call in flight; returned once
    leave          // exit now; returned from then on
  };

  /// `shutdown_grace` bounds everything without a bound of its own: all that follows a signal or the parent's death.
  explicit Drain(Duration shutdown_grace) noexcept : grace_(shutdown_grace) {}

  /// Calls may finish until `drain_until` and are then cancelled; the process has exited by `end_by`.
  void stop(Clock::time_point now, Deadline drain_until, Deadline end_by) noexcept {
    draining_ = true;
    cancel_at_ = earlier(cancel_at_, drain_until);
    if (end_by) leave_at_ = earlier(leave_at_, *end_by - margin(*end_by - std::max(now, drain_until.value_or(now))));
  }

  /// SIGTERM.
  void terminate(Clock::time_point now) noexcept { cut_short(now, std::max(grace_, least)); }

  /// SIGINT: the first one lets calls finish, a further one cancels them.
  void interrupt(Clock::time_point now) noexcept {
    if (interrupted_) return terminate(now);
    draining_ = interrupted_ = true;
  }

  void parent_died(Clock::time_point at) noexcept { cut_short(at, grace_); }

  /// No call is in flight any more and all results are sent. The rest of the process's life is bounded as well. After a
  /// STOP without a bound the parent waits just as long, hence the margin.
  void finished(Clock::time_point now) noexcept {
    if (finished_) return;
    draining_ = finished_ = true;
    if (!leave_at_) leave_at_ = deadline_after(now, std::max(grace_ - margin(grace_), least));
  }

  /// True if the worker takes no new calls any more.
  bool draining() const noexcept { return draining_; }

  /// True if the life of the process is bounded.
  bool bounded() const noexcept { return leave_at_.has_value(); }

  Action next(Clock::time_point now) noexcept {
    if (leave_at_ && *leave_at_ <= now) return Action::leave;
    if (!cancelled_ && !finished_ && cancel_at_ && *cancel_at_ <= now) {
      cancelled_ = true;
      return Action::cancel_calls;
    }
    return Action::none;
  }

  /// When next() will return an action if there is no input before.
  Deadline deadline() const noexcept { return cancelled_ || finished_ ? leave_at_ : earlier(cancel_at_, leave_at_); }

 private:
  /// The worker exits this long before the deadline, so that the parent sees the exit in time. The margin never
  /// shortens the time in which calls may finish.
  static Duration margin(Duration budget) noexcept {
    return std::clamp<Duration>(budget / 4, Duration::zero(), std::chrono::milliseconds(250));
  }

  void cut_short(Clock::time_point at, Duration grace) noexcept {
    draining_ = true;
    cancel_at_ = earlier(cancel_at_, at);
    leave_at_ = earlier(leave_at_, deadline_after(at, grace));
  }

  // An idle worker exits by itself even if calls have no time at all.
  static constexpr Duration least = std::chrono::milliseconds(250);

  Duration grace_;
  bool draining_ = false;
  bool interrupted_ = false;
  bool cancelled_ = false;
  bool finished_ = false;
  Deadline cancel_at_;
  Deadline leave_at_;
};

}}}  // namespace drover::v1::detail
