#pragma once

#include <cerrno>
#include <mutex>
#include <poll.h>
#include <string>
#include <utility>

#include <drover/worker/detail/call_loop.hpp>

/// The streams of calls.
namespace drover { inline namespace v1 { namespace detail {

inline void CallLoop::refuse_stream(const FrameHeader& call, const Routine& routine, std::string_view name) {
  const auto described = [](unsigned flags) -> std::string {
    if (flags == 0) return "no items";
    if (flags == items_out_flag) return "items from the routine";
    return flags == items_in_flag ? "items from the caller" : "items in both directions";
  };
  refuse(call, ResultStatus::bad_arguments,
         std::string(name) + routine.parameters() + " has " + described(routine.stream_flags) + ", its caller has " +
             described(call.status & (items_out_flag | items_in_flag)) + "; call it by stream<Result, Out, In>()");
}

/// The routine may read the socket while it runs, so its arguments do not stay in the reader.
inline void CallLoop::run_streaming(const FrameHeader& call, Routine& routine) {
  const FrameHeader header = call;
  const ByteBuffer body = incoming_.take_body();
  DescriptorList descriptors = std::move(incoming_.descriptors());
  Decoder arguments(body.view(), descriptors, spare_memory(limit_));
  CallFacts facts;
  if ((header.status & facts_flag) != 0) facts = take_facts(arguments);
  const auto name = arguments.get<std::string_view>();
  run_plain(header, routine, name, arguments, facts);
}

/// The call begins: the parent may not give it to another worker any more.
inline std::shared_ptr<StreamPort> CallLoop::open_stream(const FrameHeader& call, const Routine& routine) {
  auto port = streams_.add(*this, call, limit_);
  if (lost_ || parent_gone_)
    port->lose();
  else
    port->open(routine.is_coroutine() ? StreamPort::Flush::later : StreamPort::Flush::now);
  return port;
}

inline bool CallLoop::is_cancelled(std::uint64_t call) const noexcept {
  if (cancelling_) return true;
  const auto found = coroutines_.find(call);
  return found != coroutines_.end() ? found->second->cancelled : call == current_ && current_cancelled_;
}

inline void CallLoop::queue_frame(FrameHeader header, FrameBody& body, StreamPort::Flush flush_when) {
  if (state_.late_flush.active()) return queue_in_routine(header, body);
  header.core = current_core();
  const bool first = !data_.wants_write();
  if (flush_when == StreamPort::Flush::later) waits_.go_on_later();  // first: there may be no memory
  data_.queue_kept(header, body);
  if (first) {
    unsent_since_ = Clock::now();
    state_.owes_results.store(true, std::memory_order_relaxed);
  }
  if (flush_when == StreamPort::Flush::now || (!full_ && data_.pending() >= 2 * worth_moving)) flush();
}

/// For a plain function. A large item does not wait.
inline void CallLoop::queue_in_routine(FrameHeader header, FrameBody& body) {
  header.core = current_core();
  bool armed = false;
  {
    const auto held = state_.late_flush.lock();
    const bool first = !data_.wants_write();
    data_.queue_kept(header, body);
    const Clock::time_point now = Clock::now();
    if (first) {
      unsent_since_ = now;
      state_.owes_results.store(true, std::memory_order_relaxed);
    }
    if (!state_.late_flush.may_wait(now, first, armed) || data_.pending() >= 2 * worth_moving) flush();
    if (full_ && state_.late_flush.arm(now)) armed = true;  // the function may not come back for long
  }
  if (armed) state_.control_wakeup.notify();
}

/// What is only gathered leaves first: a value of Sink::latest() waits for a socket that is full, and for nothing else.
inline bool CallLoop::has_sent_all() {
  std::unique_lock<std::mutex> held;
  if (state_.late_flush.active()) held = state_.late_flush.lock();
  if (held.owns_lock() && data_.wants_write()) flush();
  return !data_.wants_write();
}

/// CALLs that arrive meanwhile are put aside.
inline void CallLoop::wait_in_routine(std::uint64_t call) {
  const bool plain = state_.late_flush.active();
  if (plain) state_.late_flush.end();
  wait_for_frames(call);
  if (plain) state_.late_flush.begin();
}

inline void CallLoop::wait_for_frames(std::uint64_t call) {
  if (data_.wants_write()) flush();
  streams_.send_latest();
  poll_flags();
  if (lost_ || parent_gone_ || is_cancelled(call)) throw_stream_aborted();
  if (take_stream_frames()) return;
  const bool pauses = data_.short_of_memory();  // it would be readable again and again
  const int events = pauses ? 0 : POLLIN | (data_.wants_write() ? POLLOUT : 0);
  pollfd watched[2] = {{state_.main_wakeup.fd(), POLLIN, 0}, {data_.fd(), static_cast<short>(events), 0}};
  if (::poll(watched, 2, pauses ? static_cast<int>(Channel::memory_pause.count()) : -1) < 0) {
    if (errno == ENOMEM) connection_lost();
    return;
  }
  if ((watched[0].revents & POLLNVAL) != 0) return connection_lost();  // the program has closed it
  if (watched[0].revents != 0) {
    state_.main_wakeup.consume();
    state_.probe_answered.store(state_.probe.load());  // it waits for its caller: that is no stall
    poll_flags();
  }
  if ((watched[1].revents & ~POLLOUT) == 0 && !pauses) return;
  incoming_.put_aside_next();
  if (receive()) take_stream_frames();
}

/// True if there was one.
inline bool CallLoop::take_stream_frames() {
  bool found = false;
  try {
    // One that has been read before stays in front of those that follow. Only CALLs are put aside.
    if (const Frame* const next = incoming_.found(); next != nullptr && CallStreams::is_for_stream(next->header.type)) {
      streams_.receive(incoming_.take(), data_.reader(), state_.last_read.load(std::memory_order_relaxed));
      found = true;
    }
    incoming_.put_aside_next();
    while (const auto frame = data_.next()) {
      if (CallStreams::is_for_stream(frame->header.type)) {
        streams_.receive(*frame, data_.reader(), state_.last_read.load(std::memory_order_relaxed));
        found = true;
      } else {
        incoming_.put_aside(*frame);
      }
    }
  } catch (const Error&) {  // a protocol error: later frames are meaningless
    connection_lost();
  }
  if (incoming_.has_aside() && !std::exchange(held_, true)) waits_.go_on_later();
  return found;
}

}}}  // namespace drover::v1::detail
