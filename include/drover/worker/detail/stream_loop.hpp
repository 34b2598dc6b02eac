#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <poll.h>
#include <utility>

#include <drover/error.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/frame.hpp>
#include <drover/worker/detail/call_streams.hpp>
#include <drover/worker/detail/call_waits.hpp>
#include <drover/worker/detail/incoming_frames.hpp>
#include <drover/worker/detail/loop_control.hpp>
#include <drover/worker/detail/outgoing_frames.hpp>
#include <drover/worker/detail/shared_state.hpp>
#include <drover/worker/detail/stream_port.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The streams of a worker's calls on the main thread. A routine that blocks on a stream reads the socket itself
/// meanwhile, see wait_in_routine().
class StreamLoop final : StreamPort::Loop {
 public:
  class Cancellations {
   public:
    virtual bool is_cancelled(std::uint64_t call) const noexcept = 0;

   protected:
    ~Cancellations() = default;
  };

  /// `limit`: the largest item, in bytes.
  StreamLoop(WorkerState& state, CallWaits& waits, IncomingFrames& incoming, OutgoingFrames& outgoing,
             LoopControl& control, const Cancellations& cancellations, std::size_t limit) noexcept
      : state_(state),
        data_(state.data),
        waits_(waits),
        incoming_(incoming),
        outgoing_(outgoing),
        control_(control),
        cancellations_(cancellations),
        limit_(limit) {}
  StreamLoop(const StreamLoop&) = delete;
  StreamLoop& operator=(const StreamLoop&) = delete;

  bool empty() const noexcept { return streams_.empty(); }

  /// The call begins: the parent may not give it to another worker any more.
  std::shared_ptr<StreamPort> open(const FrameHeader& call, bool is_coroutine) {
    auto port = streams_.add(*this, call, limit_);
    if (is_cut_off())
      port->lose();
    else
      port->open(is_coroutine ? StreamPort::Flush::later : StreamPort::Flush::now);
    return port;
  }
  /// The call has ended.
  void close(std::uint64_t call) noexcept { streams_.close(call); }

  /// A frame for a stream. Throws Error with protocol_error.
  void receive(const Frame& frame) {
    streams_.receive(frame, data_.reader(), state_.last_read.load(std::memory_order_relaxed));
  }
  /// Nothing can be sent or received any more.
  void lose_all() noexcept { streams_.lose_all(); }
  /// The values of Sink::latest() that had to wait for the socket.
  void send_latest() {
    if (!latest_may_wait_ || outgoing_.has_unsent()) return;
    latest_may_wait_ = streams_.send_latest();
  }

 private:
  /// The loop has the channel for itself, in the middle of a plain function.
  class LateFlushPause {
   public:
    explicit LateFlushPause(StreamLoop& loop) : loop_(loop), plain_(loop.state_.late_flush.active()) {
      if (plain_) loop_.state_.late_flush.end();
    }
    LateFlushPause(const LateFlushPause&) = delete;
    LateFlushPause& operator=(const LateFlushPause&) = delete;
    ~LateFlushPause() {
      if (plain_ && loop_.state_.late_flush.resume(loop_.outgoing_.has_unsent(), Clock::now()))
        loop_.state_.control_wakeup.notify();
    }

   private:
    StreamLoop& loop_;
    const bool plain_;
  };

  bool is_cut_off() const noexcept { return control_.lost() || control_.parent_gone(); }

  void queue_frame(FrameHeader header, FrameBody& body, StreamPort::Flush flush) override {
    const bool waited = std::exchange(latest_may_wait_, true);  // if there is no memory for it
    outgoing_.queue_for_stream(header, body, flush);
    latest_may_wait_ = waited;
  }
  bool has_sent_all() override {
    if (outgoing_.has_sent_all()) return true;
    latest_may_wait_ = true;
    return false;
  }

  /// CALLs that arrive meanwhile are put aside.
  void wait_in_routine(std::uint64_t call) override {
    const LateFlushPause pause(*this);
    wait_for_frames(call);
  }

  void look_in_routine(std::uint64_t call) override {
    if (control_.has_news()) {
      const LateFlushPause pause(*this);
      control_.poll_flags();
    }
    require_call(call);
  }
  void require_call(std::uint64_t call) const {
    if (is_cut_off() || cancellations_.is_cancelled(call)) throw_stream_aborted();
  }

  void wait_for_frames(std::uint64_t call) {
    if (outgoing_.has_unsent()) outgoing_.flush();
    send_latest();
    control_.poll_flags();
    require_call(call);
    if (take_frames()) return;
    const bool pauses = data_.short_of_memory();  // it would be readable again and again
    const int events = pauses ? 0 : POLLIN | (outgoing_.has_unsent() ? POLLOUT : 0);
    pollfd watched[2] = {{state_.main_wakeup.fd(), POLLIN, 0}, {data_.fd(), static_cast<short>(events), 0}};
    if (::poll(watched, 2, pauses ? static_cast<int>(Channel::memory_pause.count()) : -1) < 0) {
      if (errno == ENOMEM) control_.connection_lost();
      return;
    }
    if ((watched[0].revents & POLLNVAL) != 0) return control_.connection_lost();  // the program has closed it
    if (watched[0].revents != 0) {
      state_.main_wakeup.consume();
      state_.probe_answered.store(state_.probe.load());  // it waits for its caller: that is no stall
      control_.poll_flags();
    }
    if ((watched[1].revents & ~POLLOUT) == 0 && !pauses) return;
    incoming_.put_aside_next();
    const Channel::Received received = incoming_.receive();
    if (received == Channel::Received::closed) control_.connection_lost();
    if (received == Channel::Received::some) take_frames();
  }

  /// True if there was one for a stream.
  bool take_frames() {
    bool found = false;
    try {
      // One that has been read before stays in front of those that follow. Only CALLs are put aside.
      if (const Frame* const next = incoming_.found();
          next != nullptr && CallStreams::is_for_stream(next->header.type)) {
        receive(incoming_.take());
        found = true;
      }
      incoming_.put_aside_next();
      while (const auto frame = data_.next()) {
        if (CallStreams::is_for_stream(frame->header.type)) {
          receive(*frame);
          found = true;
        } else {
          incoming_.put_aside(*frame);
        }
      }
    } catch (const Error&) {  // a protocol error: later frames are meaningless
      control_.connection_lost();
    }
    if (incoming_.has_aside() && !incoming_.held()) {
      incoming_.hold();
      waits_.go_on_later();
    }
    return found;
  }

  WorkerState& state_;
  Channel& data_;
  CallWaits& waits_;
  IncomingFrames& incoming_;
  OutgoingFrames& outgoing_;
  LoopControl& control_;
  const Cancellations& cancellations_;
  const std::size_t limit_;
  CallStreams streams_;
  bool latest_may_wait_ = false;  // a value of Sink::latest() has had to wait: only then the streams are visited
};

}}}  // namespace drover::v1::detail
