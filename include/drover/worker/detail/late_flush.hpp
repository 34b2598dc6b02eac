#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <utility>

#include <drover/timeout.hpp>
#include <drover/wire/channel.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The items that a plain function writes in quick succession are gathered, and share system calls. If the function
/// does not write again in time, the control thread sends them. The mutex guards the channel while the function runs.
class LateFlush {
 public:
  static constexpr Duration longest_wait = std::chrono::microseconds(100);  // of an item
  static constexpr Duration quick = std::chrono::microseconds(20);          // after the one before it
  static constexpr Duration full_socket_pause = std::chrono::milliseconds(1);

  // ---- the main thread ----

  /// The function runs, and leaves the channel to lock().
  void begin() {
    const auto held = lock();
    active_ = true;
  }
  void end() {
    const auto held = lock();
    active_ = false;
  }
  /// The function goes on after end(). The control thread sends what is `unsent`, which it leaves to the main thread
  /// between end() and resume(). True if the control thread is to be woken up.
  bool resume(bool unsent, Clock::time_point now) {
    const auto held = lock();
    active_ = true;
    return unsent && arm(now);
  }
  std::unique_lock<std::mutex> lock() { return std::unique_lock(mutex_); }
  /// Only the main thread changes it.
  bool active() const noexcept { return active_; }

  /// With the mutex held, between begin() and end(): something was queued, `first` if nothing was before. False: it is
  /// to be sent now. True: it may wait; if `armed` becomes true, the control thread is to be woken up.
  bool may_wait(Clock::time_point now, bool first, bool& armed) noexcept {
    const bool is_quick = now - std::exchange(last_, now) < quick;
    if (first) since_ = now;
    if (!is_quick || now - since_ >= longest_wait) return false;
    armed = arm(now);
    return true;
  }
  /// With the mutex held: the control thread is to look after what is unsent. True if it is to be woken up for that.
  bool arm(Clock::time_point now) noexcept {
    if (due_.load(std::memory_order_relaxed) != never_due) return false;
    due_.store((now + longest_wait).time_since_epoch().count(), std::memory_order_relaxed);
    return true;
  }

  // ---- the control thread, which never waits for the mutex ----

  /// When send_late() has something to look after.
  Deadline due() const noexcept {
    const auto due = due_.load(std::memory_order_relaxed);
    if (due == never_due) return std::nullopt;
    return Clock::time_point(Duration(due));
  }
  void send_late(Channel& data, Clock::time_point now) noexcept {
    const Deadline at = due();
    if (!at || now < *at) return;
    const std::unique_lock held(mutex_, std::try_to_lock);
    Deadline again;
    if (!held.owns_lock())
      again = now + longest_wait;
    else if (active_ && data.wants_write() && now - since_ < longest_wait)
      again = since_ + longest_wait;
    else if (active_ && data.wants_write() && !data.flush() &&
             data.wants_write())  // the main thread sees the same error
      again = now + full_socket_pause;
    due_.store(again ? again->time_since_epoch().count() : never_due, std::memory_order_relaxed);
  }

 private:
  static constexpr Duration::rep never_due = 0;

  std::mutex mutex_;
  bool active_ = false;
  Clock::time_point last_{};
  Clock::time_point since_{};  // what is unsent was queued then, or later
  std::atomic<Duration::rep> due_{never_due};
};

}}}  // namespace drover::v1::detail
