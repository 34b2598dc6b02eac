#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/steady_timer.hpp>

#include <drover/detail/context/registry.hpp>
#include <drover/detail/deadlines.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/calls_ahead.hpp>
#include <drover/pool/detail/worker/data_link.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

class Dispatcher;

/// The times at which something is to be done about a call, the looks at calls that were sent ahead, and one timer for
/// them all. It calls Dispatcher::on_timer(), which then arms it again. Guarded by the dispatcher's mutex.
class CallTimer {
 public:
  CallTimer(Dispatcher& dispatcher, std::shared_ptr<ContextRegistry> registry, CallsAhead& sent_ahead) noexcept
      : dispatcher_(dispatcher), registry_(std::move(registry)), sent_ahead_(sent_ahead) {}
  CallTimer(const CallTimer&) = delete;
  CallTimer& operator=(const CallTimer&) = delete;

  void open(const asio::any_io_executor& executor) { timer_.emplace(executor); }
  /// The context is destroyed.
  void close() noexcept { timer_.reset(); }

  // ---- times, of which each call has one at most. Throws std::bad_alloc -------------------------------------------

  void start(Call& call, Clock::time_point at) {
    times_.add(call, at);
    arm_by(at);
  }
  /// The worker begins the call.
  void start_run(Call& call) {
    if (const auto end = earlier(call.due, deadline_after(Clock::now(), call.run_for))) start(call, *end);
  }
  /// CANCEL was sent for the call.
  void start_kill_after(Call& call) {
    if (!call.kill_after) return;
    // RECALLED of a call that has not begun may be under way.
    const Duration least = call.recalled ? Duration(std::chrono::milliseconds(100)) : Duration::zero();
    if (const auto kill_at = deadline_after(Clock::now(), std::max(*call.kill_after, least))) start(call, *kill_at);
  }
  /// For a time that the timer need not be armed for, since it is armed for an earlier one or is about to be armed.
  void add(Call& call, Clock::time_point at) { times_.add(call, at); }
  /// A later start() of this call needs no memory. Until then it is never due.
  void reserve(Call& call) { times_.add(call, Clock::time_point::max()); }
  /// The same for a call that may have a time already, which it keeps.
  void reserve_for_later(Call& call) {
    if (!call.deadline.queued()) reserve(call);
  }
  void remove(Call& call) noexcept { times_.remove(call); }

  /// Looks at the calls that were sent ahead in a while.
  void watch_calls_ahead() noexcept {
    if (!sent_ahead_.begin_looking()) return;
    try {
      arm_by(*sent_ahead_.next_look());
    } catch (...) {  // no memory: the next call that is sent ahead tries again
      sent_ahead_.stop_looking();
    }
  }

  // ---- in Dispatcher::on_timer() ------------------------------------------------------------------------------------

  /// A turn begins.
  void fired() noexcept {
    armed_at_.reset();
    ++turn_;
  }
  /// The first call that is due. Null if there is none.
  Call* due(Clock::time_point now) const noexcept {
    return !times_.empty() && times_.first().deadline.at <= now ? &times_.first() : nullptr;
  }
  /// True at the first question in this turn about that worker.
  bool once_in_turn(DataLink& link) const noexcept { return std::exchange(link.read_in_turn, turn_) != turn_; }
  /// Throws std::bad_alloc.
  void arm();

  /// Cancels the timer if no time is left, so that it does not keep the context running.
  void cancel_if_idle() noexcept {
    if (!timer_ || !times_.empty() || sent_ahead_.next_look()) return;
    armed_at_.reset();
    timer_->cancel();
  }

 private:
  /// For an earlier time than all so far.
  void arm_by(Clock::time_point at) {
    if (!armed_at_ || at < *armed_at_) arm();
  }

  Dispatcher& dispatcher_;
  const std::shared_ptr<ContextRegistry> registry_;
  std::optional<asio::steady_timer> timer_;  // empty once the context is destroyed
  Deadlines<Call> times_;
  CallsAhead& sent_ahead_;
  Deadline armed_at_;
  std::uint64_t turn_ = 0;
};

}}}  // namespace drover::v1::detail
