#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <sys/socket.h>
#include <sys/types.h>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>

#include <drover/error.hpp>
#include <drover/os/fd.hpp>
#include <drover/pool/detail/worker/handshake.hpp>
#include <drover/pool/detail/worker/socket_watch.hpp>
#include <drover/pool/detail/worker/status_requests.hpp>
#include <drover/pool/detail/worker/worker_errors.hpp>
#include <drover/pool/options.hpp>
#include <drover/wire/cancel_reason.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/protocol.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The control socket of one worker, from the parent's side: STOP, CANCEL, STATUS and RECALL go out, HELLO,
/// START_FAILED, DRAINING, STALLED and the replies come in. Keeps the callers of status(). Every error either is
/// retried or is reported to the listener. Guarded by the dispatcher's mutex.
class ControlLink {
 public:
  class Listener {
   public:
    /// HELLO of a worker of this version. False if it comes too late. Throws Error if it is malformed.
    virtual bool hello(const Frame& frame) = 0;
    /// START_FAILED of a worker of this version. Throws Error if it is malformed.
    virtual void start_failed(const Frame& frame) = 0;
    /// STOP_REPLY. False if no STOP was sent.
    virtual bool stop_acknowledged() = 0;
    /// DRAINING. `last_begun`: the last call that the worker has begun, or nothing_begun_yet.
    virtual void draining(std::uint64_t last_begun) = 0;
    /// RECALLED. False if the call was not recalled.
    virtual bool recalled(std::uint64_t call) = 0;
    /// STALLED. `call`: the one whose routine runs, or no_call. False if a sound worker would not have sent it.
    virtual bool stalled(std::uint64_t call, Duration age) = 0;
    /// The worker has closed the socket. `mid_frame`: in the middle of a frame.
    virtual void control_closed(bool mid_frame) = 0;
    /// The worker does not read it any more, and a frame was lost. What it has sent can still be read.
    virtual void control_broken() = 0;

   protected:
    ~Listener() = default;
  };

  ControlLink(LinkOwner& owner, Listener& listener, const WorkerErrors& errors) noexcept
      : owner_(owner), listener_(listener), errors_(errors) {}

  /// `child`: the process that was spawned with the other end.
  void open(UniqueFd socket, pid_t child) {
    constexpr std::size_t buffer = 4096;  // its frames are small
    child_ = child;
    channel_.emplace(std::move(socket), max_control_body, buffer);
    channel_->distrust();
  }
  void watch(const asio::any_io_executor& executor) {
    watch_ = std::make_unique<SocketWatch>(executor, channel_->fd());
    await_readable();
  }
  /// In a forked copy of the program, which shares the parent's epoll set, the watch must not be touched.
  void close(bool foreign) noexcept {
    if (foreign) (void)watch_.release();
    watch_.reset();
    channel_.reset();
  }

  bool is_open() const noexcept { return channel_ && !ended_; }
  /// Should the program have closed the socket, its number may be another file's.
  bool is_intact() const noexcept { return channel_ && channel_->is_intact(); }

  const Handshake& handshake() const noexcept { return handshake_; }

  /// `last_call`: the last call that was sent to it.
  void send_stop(const StopBody& body, std::uint64_t last_call) { send(FrameType::stop, last_call, encode_body(body)); }
  void send_cancel(std::uint64_t call, CancelReason reason) { send(FrameType::cancel, call, {}, reason); }
  void send_recall(std::uint64_t call) { send(FrameType::recall, call); }

  /// Asks for the worker's status, for this caller too.
  void ask_status(const std::shared_ptr<StatusWaiter>& waiter) {
    if (status_.add(waiter)) send(FrameType::status, status_.begin());
  }
  bool owes_status() const noexcept { return !status_.empty(); }
  /// All callers of status() fail.
  void fail_status(const Cause& cause) {
    status_.fail([&] { return failure_of(cause); });
  }

  /// Finds out whether the worker has stopped reading: the kernel reports that to writers only.
  void probe() {
    if (!channel_ || !watch_ || writing_ || !channel_->is_intact()) return;
    if (::send(channel_->fd(), nullptr, 0, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EPIPE)
      lost(std::make_error_code(std::errc::broken_pipe));
  }

  /// Reads at most so many times, or until nothing is left. Bounded: a worker that never stops sending would keep this
  /// thread for ever.
  void read(int times) {
    if (!is_open() || owner_.foreign()) return;
    try {
      for (; times > 0; --times) {
        bool short_of_memory = false;
        const auto received = receive_frames(short_of_memory);
        if (short_of_memory) return await_memory();
        if (received == Channel::Received::nothing_yet) return;
        if (received == Channel::Received::closed) {
          ended_ = true;
          return listener_.control_closed(channel_->reader().mid_frame());
        }
      }
    } catch (const Error&) {
      nonsense(std::current_exception());
    } catch (const std::system_error& error) {
      ended_ = true;
      owner_.socket_failed("cannot read from the control socket of", error.code());
    } catch (...) {  // no memory for what was sent, which then is lost
      nonsense(std::current_exception());
    }
  }

 private:
  Channel::Received receive_frames(bool& short_of_memory) {
    try {
      const auto received = receive(short_of_memory);
      while (const auto frame = channel_->next()) handle(*frame);
      return received;
    } catch (const MalformedFrame& frame) {
      throw errors_.error(Errc::protocol_error, std::string("sent a malformed message: ") + frame.why());
    }
  }
  /// Up to its HELLO the sender is checked.
  Channel::Received receive(bool& short_of_memory) {
    if (!accepted_) return handshake_.receive(*channel_, errors_, child_, short_of_memory);
    const auto received = channel_->receive();
    short_of_memory = channel_->short_of_memory();
    return received;
  }
  void handle(const Frame& frame) {
    if (frame.header.type == FrameType::hello || frame.header.type == FrameType::start_failed) return first(frame);
    if (!greeted_) Handshake::check_version({}, errors_);  // throws
    if (!accepted_) return;
    if (!belongs_here(frame))
      throw errors_.error(Errc::protocol_error, "sent a message that does not belong on the control socket");
  }
  void first(const Frame& frame) {
    const bool ready = frame.header.type == FrameType::hello;
    if (std::exchange(greeted_, true))
      throw errors_.error(Errc::protocol_error,
                          ready ? "sent HELLO twice" : "sent START_FAILED after its first message");
    Handshake::check_version(frame.header, errors_);
    if (ready)
      accepted_ = listener_.hello(frame);
    else
      listener_.start_failed(frame);
  }
  bool belongs_here(const Frame& frame) {
    switch (frame.header.type) {
      case FrameType::stop_reply: return decode_body<StopReply>(frame.body) && listener_.stop_acknowledged();
      case FrameType::status_reply: return status_replied(frame);
      case FrameType::draining:
        if (!frame.body.empty()) return false;
        listener_.draining(frame.header.id);
        return true;
      case FrameType::recalled: return frame.body.empty() && listener_.recalled(frame.header.id);
      case FrameType::stalled: {
        const auto body = decode_body<StallBody>(frame.body);
        return body && listener_.stalled(frame.header.id, std::chrono::nanoseconds(body->for_ns));
      }
      default: return false;
    }
  }
  bool status_replied(const Frame& frame) {
    const auto body = decode_body<StatusReply>(frame.body);
    if (!body) return false;
    const WorkerStatus status{.in_flight = static_cast<std::size_t>(body->in_flight),
                              .idle_for = std::chrono::nanoseconds(std::max<std::int64_t>(body->idle_ns, 0)),
                              .served = body->served};
    if (!status_.answer(frame.header.id, status)) return false;
    if (status_.wants_another()) send(FrameType::status, status_.begin());
    return true;
  }

  void send(FrameType type, std::uint64_t id, std::span<const std::byte> body = {},
            CancelReason reason = CancelReason::none) {
    if (!channel_ || !watch_ || owner_.foreign()) return;
    FrameHeader header;
    header.type = type;
    header.status = static_cast<std::uint8_t>(reason);
    header.id = id;
    try {
      channel_->queue(header, body);
      flush();
    } catch (const std::bad_alloc&) {
      lost(std::make_error_code(std::errc::not_enough_memory));
    }
  }
  void nonsense(const std::exception_ptr& failure) {
    ended_ = true;
    if (accepted_) fail_status([failure] { return failure; });
    owner_.peer_failed(failure);
  }
  void flush() {
    if (writing_ || owner_.foreign()) return;
    if (const std::error_code error = channel_->flush()) return lost(error);
    if (channel_->short_of_memory()) return await_memory();
    if (!channel_->wants_write()) return;
    watch_->wait(asio::posix::stream_descriptor::wait_write, [this, alive = owner_.keep_alive()](std::error_code ec) {
      const auto held = owner_.lock();
      writing_ = false;
      if (ec) return owner_.socket_failed("cannot watch the control socket of", ec);
      if (channel_ && watch_) flush();
    });
    writing_ = true;  // the handler waits for the mutex
  }
  void lost(std::error_code error) {
    listener_.control_broken();
    if (error != std::errc::broken_pipe && error != std::errc::connection_reset)
      owner_.socket_failed("cannot write to the control socket of", error);
  }

  void await_readable() {
    if (reading_) return;
    watch_->wait(asio::posix::stream_descriptor::wait_read, [this, alive = owner_.keep_alive()](std::error_code ec) {
      auto held = owner_.lock();
      reading_ = false;
      if (ec) return owner_.socket_failed("cannot watch the control socket of", ec);
      read_and_wait();
      owner_.run_completions(std::move(held));
    });
    reading_ = true;  // the handler waits for the mutex
  }
  void read_and_wait() {
    if (reading_ || !is_open()) return;
    read(16);
    if (watch_ && is_open() && !awaiting_memory_) await_readable();
  }
  void await_memory() {
    if (!watch_ || awaiting_memory_) return;
    watch_->wait_for_memory([this, alive = owner_.keep_alive()] {
      auto held = owner_.lock();
      awaiting_memory_ = false;
      if (!channel_ || !watch_) return;
      flush();
      read_and_wait();
      owner_.run_completions(std::move(held));
    });
    awaiting_memory_ = true;
  }

  LinkOwner& owner_;
  Listener& listener_;
  const WorkerErrors& errors_;
  Handshake handshake_;
  StatusRequests status_;
  pid_t child_ = 0;
  bool greeted_ = false;   // HELLO or START_FAILED has come
  bool accepted_ = false;  // it was HELLO, and it came in time
  std::optional<Channel> channel_;
  std::unique_ptr<SocketWatch> watch_;  // empty before the context is known, and once it is destroyed
  bool ended_ = false;                  // nothing more can be read
  bool reading_ = false, writing_ = false, awaiting_memory_ = false;
};

}}}  // namespace drover::v1::detail
