#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <system_error>

#include <drover/os/detail/cpu.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/body.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/frame.hpp>
#include <drover/worker/detail/call_waits.hpp>
#include <drover/worker/detail/loop_control.hpp>
#include <drover/worker/detail/shared_state.hpp>
#include <drover/worker/detail/stream_port.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// RESULTs and the frames of streams on their way to the parent. They are gathered, and sent before the loop waits, or
/// before the next routine if they have waited for a while.
class OutgoingFrames {
 public:
  static constexpr Duration longest_wait = std::chrono::microseconds(100);  // of a result for later ones

  OutgoingFrames(WorkerState& state, CallWaits& waits, LoopControl& control) noexcept
      : state_(state), data_(state.data), waits_(waits), control_(control) {}
  OutgoingFrames(const OutgoingFrames&) = delete;
  OutgoingFrames& operator=(const OutgoingFrames&) = delete;

  bool has_unsent() const noexcept { return data_.wants_write(); }
  /// The socket takes no more now.
  bool full() const noexcept { return full_; }
  /// The socket takes more.
  void has_room() noexcept { full_ = false; }

  void flush() {
    const std::error_code error = data_.flush();
    full_ = !error && data_.wants_write();
    if (error) control_.connection_lost();  // callers would wait for their answers in vain
  }
  void flush_unless_full() {
    if (data_.wants_write() && !full_) flush();
  }
  void flush_if_late(Clock::time_point now) {
    if (data_.wants_write() && now - unsent_since_ >= longest_wait) flush();
  }

  /// `core`: where the call came from.
  void queue_result(FrameHeader header, FrameBody& body, Clock::time_point now, std::uint16_t core) {
    header.core = current_core();
    const bool first = !data_.wants_write();
    data_.queue(header, body);
    body.clear();
    if (first) first_unsent(now);
    if (data_.gathered_enough(header.core, core)) flush();
  }

  /// Sends BEGUN, see wants_begun_flag. The routine may take long. False: it waits for the socket, which is full.
  bool send_begun(const FrameHeader& call, Clock::time_point now) {
    FrameHeader header;
    header.type = FrameType::begun;
    header.core = current_core();
    header.slot = call.slot;
    header.id = call.id;
    const bool first = !data_.wants_write();
    data_.queue(header, {});
    if (first) first_unsent(now);
    flush();
    return !full_;
  }

  /// A frame of a stream. The body keeps its capacity.
  void queue_for_stream(FrameHeader header, FrameBody& body, StreamPort::Flush flush_when) {
    header.core = current_core();
    if (state_.late_flush.active()) return queue_in_routine(header, body);
    const bool first = !data_.wants_write();
    if (flush_when == StreamPort::Flush::later) waits_.go_on_later();  // before queueing: there may be no memory
    data_.queue_kept(header, body);
    if (first) first_unsent(Clock::now());
    if (flush_when == StreamPort::Flush::now || (!full_ && is_large())) flush();
  }

  /// What is only gathered leaves first: a value of Sink::latest() waits for a socket that is full, and for nothing
  /// else.
  bool has_sent_all() {
    std::unique_lock<std::mutex> held;
    if (state_.late_flush.active()) held = state_.late_flush.lock();
    if (held.owns_lock() && data_.wants_write()) flush();
    return !data_.wants_write();
  }

 private:
  void first_unsent(Clock::time_point now) noexcept {
    unsent_since_ = now;
    state_.owes_results.store(true, std::memory_order_relaxed);
  }
  /// A large item does not wait for others.
  bool is_large() const noexcept { return data_.pending() >= 2 * worth_moving; }

  /// For a plain function, which may not come back for long: the control thread looks after what it leaves unsent.
  void queue_in_routine(const FrameHeader& header, FrameBody& body) {
    bool armed = false;
    {
      const auto held = state_.late_flush.lock();
      const bool first = !data_.wants_write();
      data_.queue_kept(header, body);
      const Clock::time_point now = Clock::now();
      if (first) first_unsent(now);
      if (!state_.late_flush.may_wait(now, first, armed) || is_large()) flush();
      if (full_ && state_.late_flush.arm(now)) armed = true;
    }
    if (armed) state_.control_wakeup.notify();
  }

  WorkerState& state_;
  Channel& data_;
  CallWaits& waits_;
  LoopControl& control_;
  bool full_ = false;
  Clock::time_point unsent_since_;  // if anything is unsent
};

}}}  // namespace drover::v1::detail
