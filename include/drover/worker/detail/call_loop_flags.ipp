#pragma once

#include <utility>
#include <vector>

#include <drover/worker/detail/call_loop.hpp>
#include <drover/worker/detail/control_thread.hpp>

namespace drover { inline namespace v1 { namespace detail {

// Flags from the control thread -------------------------------------------------------------------

inline void CallLoop::notified() {
  state_.probe_answered.store(state_.probe.load());
  poll_flags();
  go_on();
}

inline void CallLoop::poll_flags() {
  const std::uint32_t seen = state_.flags.load(std::memory_order_acquire);
  if (seen == flags_ && (seen & WorkerFlag::stop) == 0 && noticed_.empty() && state_.cancelled_calls.empty()) return;
  carry_out_flags();
}

inline void CallLoop::carry_out_flags() {
  if (!noticed_.empty())  // cancelling runs user code, which may ask for reasons
    for (const CancelledCall& cancelled : noticed_.take()) cancel(cancelled.id, cancelled.reason);
  while (const auto packed = state_.cancelled_calls.pop()) {
    const CancelledCall cancelled(*packed);
    cancel(cancelled.id, cancelled.reason);
  }
  const std::uint32_t flags = state_.flags.load(std::memory_order_acquire);
  if ((flags & WorkerFlag::stop) != 0) last_call_ = state_.last_call.load();
  if (flags == flags_) return;
  const std::uint32_t news = flags & ~std::exchange(flags_, flags);
  if ((news & WorkerFlag::parent_gone) != 0) {
    parent_gone_ = true;
    streams_.lose_all();
  }
  if ((news & WorkerFlag::drain) != 0) {
    draining_ = true;
    if ((flags & WorkerFlag::stop) == 0 && !parent_gone_) take_no_more();
  }
  if ((news & WorkerFlag::cancel_calls) != 0) cancel_all();
}

inline void CallLoop::cancel(std::uint64_t id, CancelReason reason) {
  if (id > state_.last_read.load(std::memory_order_relaxed)) {
    early_cancels_.insert(id);  // CANCEL has overtaken its CALL
    return;
  }
  if (id == current_) current_cancelled_ = true;
  const auto found = coroutines_.find(id);
  if (found == coroutines_.end() || std::exchange(found->second->cancelled, true)) return;
  if (found->second->running->reason == CancelReason::none) found->second->running->reason = reason;
  found->second->cancellation.emit(asio::cancellation_type::terminal);
}

/// A signal, not the parent, asked for the exit. The parent gives the calls that have not begun to another worker.
inline void CallLoop::take_no_more() {
  takes_no_more_ = true;
  if (!ControlReply(FrameType::draining, begun_).send_for_certain(state_.control.get())) connection_lost();
}

/// Discounts the call that was about to begin: it was returned to the parent.
inline void CallLoop::forget_call() { state_.read.store(state_.read.load() - 1); }

/// The control thread has given the call back. It may not have sent RECALLED before this process exits: whichever comes
/// first counts.
inline void CallLoop::given_back(std::uint64_t call) {
  forget_call();
  if (!ControlReply(FrameType::recalled, call).send_for_certain(state_.control.get())) connection_lost();
}

inline void CallLoop::cancel_all() {
  cancelling_ = true;
  std::vector<std::uint64_t> ids;
  for (const auto& [id, call] : coroutines_) ids.push_back(id);
  for (const std::uint64_t id : ids) cancel(id, noticed_.why_all());
}

inline void CallLoop::connection_lost() {
  lost_ = true;
  streams_.lose_all();
  state_.data_lost.store(true);
  state_.control_wakeup.notify();
}

// After each step ---------------------------------------------------------------------------------

inline void CallLoop::go_on() {
  over_.clear();
  if (winding_up_) return;
  if (data_.wants_write() && !full_) flush();
  if (!streams_.empty()) streams_.send_latest();
  if (lost_ && incoming_.found() != nullptr) {
    incoming_.drop_next();
    held_ = false;
  }
  state_.owes_results.store(held_ || data_.wants_write(), std::memory_order_relaxed);
  if (full_ && !parent_gone_) waits_.watch_writable();
  if (held_ && !full_ && !parent_gone_ && !must_wait()) return waits_.go_on_later();
  if (done()) return wind_up();
  if (!held_ && !all_read()) watch_data();
}

/// The next call was sent ahead, and its turn has not come. The loop goes on when the last coroutine has ended or the
/// socket takes more data. If a RESULT could not be sent, its turn never comes: the parent cannot know that it has
/// begun.
inline bool CallLoop::must_wait() {
  const Frame* const next = incoming_.found();
  if (next == nullptr || next->header.type != FrameType::call || (next->header.status & ahead_flag) == 0) return false;
  if (coroutines_.empty() && data_.wants_write() && !full_) flush();
  return lost_ || !coroutines_.empty() || full_;
}

inline void CallLoop::writable() {
  full_ = false;
  go_on();
}

inline void CallLoop::turn_came() {
  if (held_ && !full_) take_frames();
  go_on();
}

/// True if nothing further on the data socket is for this worker.
inline bool CallLoop::all_read() const noexcept {
  if (lost_ || parent_gone_) return true;
  if (!streams_.empty()) return false;
  if (takes_no_more_) return true;
  return draining_ && state_.last_read.load(std::memory_order_relaxed) >= last_call_;
}

inline bool CallLoop::done() const noexcept {
  if (!draining_ || !all_read() || !coroutines_.empty()) return false;
  return parent_gone_ || (!held_ && !data_.wants_write());
}

inline void CallLoop::finish() {
  const std::uint32_t before = state_.flags.fetch_or(WorkerFlag::finished);
  if ((before & (WorkerFlag::stop | WorkerFlag::cut)) == WorkerFlag::stop) {
    stop_reply(state_, false).send_for_certain(state_.control.get());  // on failure the parent sees the socket's end
  }
  // Otherwise the control thread already has a bound for the rest.
  if ((before & WorkerFlag::bounded) == 0) state_.control_wakeup.notify();
  finished_ = true;
  waits_.stop();
}

}}}  // namespace drover::v1::detail
