#pragma once

#include <algorithm>
#include <cstdint>

#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Decides when the main loop of a worker has stalled, see WorkerOptions::stall. Pure: no I/O, and the caller brings
/// the time and what it sees.
///
/// While no call is in progress it waits for calls, and there is nothing to look at. After that it looks four times in
/// each `stall`. A call that is still in progress at a look brings a probe, which the loop answers when it turns. The
/// loop has stalled once a probe has been unanswered for `stall`: at most 1.25 times `stall` after its last turn.
class StallWatch {
 public:
  enum class State : std::uint8_t {
    off,      ///< nobody wants to know, or the worker ends
    idle,     ///< no call is in progress
    busy,     ///< calls have arrived, and may be in progress; no probe is on its way
    probing,  ///< a probe is on its way
    stalled   ///< it has been for too long, and that has been reported
  };
  enum class Action : std::uint8_t { none, probe, report };

  /// What the caller sees at a look.
  struct Sight {
    bool arrived = false;  ///< calls have arrived since the last look
    bool busy = false;     ///< calls are in progress, results are unsent, or bytes are unread
    bool turned = false;   ///< the last probe was answered, or calls have begun or ended since the last look
  };

  explicit StallWatch(Timeout stall) noexcept
      : state_(stall ? State::idle : State::off), stall_(stall.value_or(Duration::zero())) {}

  State state() const noexcept { return state_; }
  bool waits_for_calls() const noexcept { return state_ == State::idle; }
  /// When to look. Empty: not before calls arrive.
  Deadline look_at() const noexcept { return is_watching() ? Deadline(look_at_) : std::nullopt; }
  bool is_due(Clock::time_point now) const noexcept { return is_watching() && now >= look_at_; }
  /// For how long a probe has been unanswered, without the time in which the caller did not look either: this process
  /// may have been suspended.
  Duration unanswered() const noexcept { return unanswered_; }

  void calls_arrived(Clock::time_point now) noexcept {
    if (state_ != State::idle) return;
    state_ = State::busy;
    look_at_ = now + pause();
  }

  Action look(Clock::time_point now, Sight sight) noexcept {
    if (!is_due(now)) return Action::none;
    const Duration passed = look_at_ - looked_at_;  // not until `now`, which may be much later
    looked_at_ = now;
    look_at_ = now + pause();
    if (!sight.busy) {
      // What has arrived may be read and not counted yet, so it is looked for once more.
      state_ = sight.arrived ? State::busy : State::idle;
      return Action::none;
    }
    if (state_ == State::busy || sight.turned) {
      state_ = State::probing;
      unanswered_ = Duration::zero();
      return Action::probe;
    }
    unanswered_ += passed;
    if (state_ == State::stalled) return Action::none;
    if (unanswered_ >= stall_) {
      state_ = State::stalled;
      return Action::report;
    }
    look_at_ = now + std::min(pause(), stall_ - unanswered_);
    return Action::none;
  }

  /// From now on the loop need not turn.
  void end() noexcept { state_ = State::off; }

 private:
  bool is_watching() const noexcept { return state_ > State::idle; }
  Duration pause() const noexcept { return stall_ / 4; }

  State state_;
  Duration stall_;
  Duration unanswered_{};
  Clock::time_point look_at_, looked_at_;
};

}}}  // namespace drover::v1::detail
