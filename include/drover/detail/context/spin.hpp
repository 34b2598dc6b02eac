#pragma once

#include <utility>

#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Decides how long a thread polls for a message before it sleeps. To be woken on another core costs some 35 us, to
/// find the message by polling next to nothing.
///
/// A thread that runs an execution context polls by a handler that posts itself again: a context that has a handler to
/// run asks the kernel for events without waiting for them. A thread that calls poll(2) itself gives it no time to
/// wait, see CallWaits. Pure: no clock of its own.
class Spin {
 public:
  /// zero: never.
  explicit Spin(Duration length) noexcept : length_(length) {}

  bool enabled() const noexcept { return length_ > Duration::zero(); }

  /// A message is expected from now on. True if polling begins: the handler is to be posted.
  bool expect(Clock::time_point now) noexcept {
    if (!enabled()) return false;
    until_ = deadline_after(now, length_).value_or(Clock::time_point::max());
    return !std::exchange(polls_, true);
  }
  /// It polls, as far as is known.
  bool polls() const noexcept { return polls_; }
  /// In the handler, or before the next poll(2): true if polling goes on. `expected`: the message has not come.
  bool goes_on(Clock::time_point now, bool expected) noexcept { return polls_ = expected && now < until_; }
  /// The handler could not be posted.
  void stop() noexcept { polls_ = false; }

 private:
  const Duration length_;
  Clock::time_point until_{};
  bool polls_ = false;
};

}}}  // namespace drover::v1::detail
