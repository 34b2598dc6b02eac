#pragma once

#include <algorithm>
#include <chrono>
#include <exception>
#include <limits>
#include <new>
#include <utility>

#include <drover/detail/context/spawn.hpp>
#include <drover/error.hpp>
#include <drover/worker/detail/call_loop.hpp>
#include <drover/worker/detail/control_thread.hpp>
#include <drover/worker/detail/hello.hpp>
#include <drover/worker/detail/run_hooks.hpp>
#include <drover/worker/detail/stop_token_thread.hpp>
#include <drover/worker/detail/take_slot.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline CallLoop::CallLoop(WorkerState& state, const RoutineTable& routines, const WorkerHooks& hooks)
    : LoopControl(state),
      routines_(routines),
      hooks_(hooks),
      limit_(std::min<std::uint64_t>(state.environment.max_message_size, std::numeric_limits<std::uint32_t>::max())),
      coroutines_(state),
      data_(state.data),
      waits_(context_, *this, state.main_wakeup, data_,
             std::chrono::nanoseconds(std::clamp<std::int64_t>(state.environment.spin_ns, 0, never / 4))),
      incoming_(data_),
      outgoing_(state, waits_, *this),
      streams_(state, waits_, incoming_, outgoing_, *this, *this, limit_),
      runner_({state, routines, context_, waits_, *this, coroutines_, incoming_, outgoing_, streams_, limit_}) {}

// What runs before the first call and after the last one --------------------------------------------------------------

inline void CallLoop::prepare() {
  if (!hooks_.start.empty()) run_to_end(context_, run_start_hooks(hooks_.start, state_.environment.worker));
}

inline void CallLoop::begin() {
  if (any_is_coroutine(hooks_.start)) waits_.share_context();  // they may have left work on it
  if (routines_.any_takes_stop_token()) start_stop_token_thread(state_);
  if (routines_.any_takes_descriptors()) data_.receive_descriptors(true);
  state_.phase.store(WorkerState::Phase::serving);
  if (!send_hello(state_.control.get(), routines_.names())) connection_lost();
  state_.greeted.store(true);
  waits_.watch_wakeup();
  watch_data();
}

inline void CallLoop::run() {
  while (!finished_) waits_.run();  // a routine may have stopped the context
}

/// No call is in flight any more, and all results are sent.
inline void CallLoop::wind_up() {
  if (std::exchange(winding_up_, true)) return;
  if (hooks_.stop.empty()) return finish();
  state_.flags.fetch_or(WorkerFlag::calls_ended);
  state_.control_wakeup.notify();
  try {
    waits_.share_context();
    spawn(context_.get_executor(), run_stop_hooks(hooks_.stop, state_.environment.worker),
          [this](const std::exception_ptr&) { finish(); });
  } catch (const std::bad_alloc&) {
    finish();
  }
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

// Reading -------------------------------------------------------------------------------------------------------------

inline void CallLoop::readable() {
  // A lone frame is rarely followed by another one: to wait costs less than to read again. The rounds are bounded, so
  // that coroutines get their turn.
  for (int round = 0; round < 16 && !incoming_.held() && !all_read() && receive(); ++round)
    if (take_frames() == 1 && !data_.reader().mid_frame()) break;
  go_on();
}

/// Returns true if something was received.
inline bool CallLoop::receive() {
  const Channel::Received received = incoming_.receive();
  if (received == Channel::Received::closed) connection_lost();
  return received == Channel::Received::some;
}

/// Returns the number of frames.
inline std::size_t CallLoop::take_frames() {
  std::size_t count = 0;
  incoming_.hold();
  state_.owes_results.store(true, std::memory_order_relaxed);
  runner_.reading_begins();
  try {
    for (Clock::time_point began; !outgoing_.full() && !parent_gone(); ++count) {
      if (count == 1) began = runner_.now();
      const Frame* const next = incoming_.next();
      if (next == nullptr) {
        incoming_.release();
        break;
      }
      const bool for_stream = CallStreams::is_for_stream(next->header.type);
      if (!for_stream) poll_flags();
      if (takes_no_more() && !for_stream) {  // the parent gives these calls to another worker
        incoming_.drop_next();
        continue;
      }
      if (count > 1 && !coroutines_.empty() && runner_.now() - began >= OutgoingFrames::longest_wait)
        break;  // coroutines get their turn
      if (must_wait()) break;
      accept(incoming_.take());
      incoming_.descriptors().clear();  // those that the routine has not taken
    }
  } catch (const Error&) {  // a protocol error: later frames are meaningless
    incoming_.release();
    connection_lost();
  }
  return count;
}

inline void CallLoop::accept(const Frame& frame) {
  const FrameHeader& header = frame.header;
  if (CallStreams::is_for_stream(header.type)) return streams_.receive(frame);
  if (header.type == FrameType::take_slot) return take_slot(state_, frame);
  if (header.type != FrameType::call || header.id <= state_.last_read.load(std::memory_order_relaxed))
    throw Error(Errc::protocol_error, "unexpected frame on the data socket");
  runner_.accept(frame);
}

// Flags from the control thread ---------------------------------------------------------------------------------------

inline void CallLoop::notified() {
  state_.probe_answered.store(state_.probe.load());
  poll_flags();
  go_on();
}

inline void CallLoop::carry_out_flags() {
  if (!noticed_.empty())  // cancelling runs user code, which may ask for reasons
    for (const CancelledCall& cancelled : noticed_.take()) runner_.cancel(cancelled.id, cancelled.reason);
  while (const auto packed = state_.cancelled_calls.pop()) {
    const CancelledCall cancelled(*packed);
    runner_.cancel(cancelled.id, cancelled.reason);
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

/// A signal, not the parent, asked for the exit. The parent gives the calls that have not begun to another worker.
inline void CallLoop::take_no_more() {
  takes_no_more_ = true;
  if (!ControlReply(FrameType::draining, runner_.begun()).send_for_certain(state_.control.get())) connection_lost();
}

inline void CallLoop::cancel_all() {
  cancelling_ = true;
  for (const std::uint64_t id : coroutines_.ids()) runner_.cancel(id, noticed_.why_all());
}

inline void CallLoop::connection_lost() {
  lost_ = true;
  streams_.lose_all();
  state_.data_lost.store(true);
  state_.control_wakeup.notify();
}

// After each step -----------------------------------------------------------------------------------------------------

inline void CallLoop::go_on() {
  coroutines_.free_ended();
  if (winding_up_) return;
  outgoing_.flush_unless_full();
  streams_.send_latest();
  if (lost() && incoming_.found() != nullptr) {
    incoming_.drop_next();
    incoming_.release();
  }
  state_.owes_results.store(incoming_.held() || outgoing_.has_unsent(), std::memory_order_relaxed);
  if (outgoing_.full() && !parent_gone()) waits_.watch_writable();
  if (incoming_.held() && !outgoing_.full() && !parent_gone() && !must_wait()) return waits_.go_on_later();
  if (done()) return wind_up();
  if (!incoming_.held() && !all_read()) watch_data();
}

/// The next call was sent ahead, and its turn has not come. The loop goes on when the last coroutine has ended or the
/// socket takes more data. If a RESULT could not be sent, its turn never comes: the parent cannot know that it has
/// begun.
inline bool CallLoop::must_wait() {
  const Frame* const next = incoming_.found();
  if (next == nullptr || next->header.type != FrameType::call || (next->header.status & ahead_flag) == 0) return false;
  if (coroutines_.empty()) outgoing_.flush_unless_full();
  return lost() || !coroutines_.empty() || outgoing_.full();
}

inline void CallLoop::writable() {
  outgoing_.has_room();
  go_on();
}

inline void CallLoop::turn_came() {
  if (incoming_.held() && !outgoing_.full()) take_frames();
  go_on();
}

/// True if nothing further on the data socket is for this worker.
inline bool CallLoop::all_read() const noexcept {
  if (lost() || parent_gone()) return true;
  if (!streams_.empty()) return false;
  if (takes_no_more()) return true;
  return draining() && state_.last_read.load(std::memory_order_relaxed) >= last_call_;
}

inline bool CallLoop::done() const noexcept {
  if (!draining() || !all_read() || !coroutines_.empty()) return false;
  return parent_gone() || (!incoming_.held() && !outgoing_.has_unsent());
}

}}}  // namespace drover::v1::detail
