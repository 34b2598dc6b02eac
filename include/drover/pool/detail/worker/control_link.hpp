#pragma once

#include <cerrno>
#include <cstddef>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <sys/socket.h>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>

#include <drover/error.hpp>
#include <drover/os/fd.hpp>
#include <drover/pool/detail/worker/socket_watch.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/protocol.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The control socket of one worker, from the parent's side: STOP, CANCEL and STATUS go out, HELLO, DRAINING and the
/// replies come in. Every error either is retried or is reported to the listener. Guarded by the dispatcher's mutex.
class ControlLink {
 public:
  class Listener {
   public:
    /// Receives once: by Channel::receive(), or by a Handshake as long as HELLO has not come.
    virtual Channel::Received receive_control(Channel& channel, bool& short_of_memory) = 0;
    /// Throws Error if it does not belong here.
    virtual void control_frame(const Frame& frame) = 0;
    /// The worker has closed the socket. `mid_frame`: in the middle of a frame.
    virtual void control_closed(bool mid_frame) = 0;
    /// Nothing more can be read from it, because what came makes no sense.
    virtual void replies_lost(const std::exception_ptr& failure) = 0;
    /// The worker does not read it any more, and a frame was lost. What it has sent can still be read.
    virtual void control_broken() = 0;

   protected:
    ~Listener() = default;
  };

  ControlLink(LinkOwner& owner, Listener& listener) noexcept : owner_(owner), listener_(listener) {}

  void open(UniqueFd socket) {
    constexpr std::size_t buffer = 4096;  // its frames are small
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

  void send(const FrameHeader& header, std::span<const std::byte> body = {}) {
    if (!channel_ || !watch_) return;
    try {
      channel_->queue(header, body);
    } catch (const std::bad_alloc&) {
      return lost(std::make_error_code(std::errc::not_enough_memory));
    }
    flush();
  }

  /// Finds out whether the worker has stopped reading: the kernel tells that only to those who write.
  void probe() {
    if (!channel_ || !watch_ || writing_ || !channel_->is_intact()) return;
    if (::send(channel_->fd(), nullptr, 0, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EPIPE)
      lost(std::make_error_code(std::errc::broken_pipe));
  }

  /// Reads at most so many times, or until nothing is left. Bounded: a worker that never stops sending would keep this
  /// thread for ever.
  void read(int times) {
    if (!is_open()) return;
    try {
      for (; times > 0; --times) {
        bool short_of_memory = false;
        const auto received = listener_.receive_control(*channel_, short_of_memory);
        while (const auto frame = channel_->next()) listener_.control_frame(*frame);
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
  void nonsense(const std::exception_ptr& failure) {
    ended_ = true;
    listener_.replies_lost(failure);
    owner_.peer_failed(failure);
  }
  void flush() {
    if (writing_) return;
    if (const std::error_code error = channel_->flush()) return lost(error);
    if (channel_->short_of_memory()) return await_memory();
    if (!channel_->wants_write()) return;
    writing_ = true;
    watch_->wait(asio::posix::stream_descriptor::wait_write, [this, alive = owner_.keep_alive()](std::error_code ec) {
      const auto held = owner_.lock();
      writing_ = false;
      if (ec) return owner_.socket_failed("cannot watch the control socket of", ec);
      if (channel_ && watch_) flush();
    });
  }
  void lost(std::error_code error) {
    listener_.control_broken();
    if (error != std::errc::broken_pipe && error != std::errc::connection_reset)
      owner_.socket_failed("cannot write to the control socket of", error);
  }

  void await_readable() {
    if (std::exchange(reading_, true)) return;
    watch_->wait(asio::posix::stream_descriptor::wait_read, [this, alive = owner_.keep_alive()](std::error_code ec) {
      {
        const auto held = owner_.lock();
        reading_ = false;
        if (ec) return owner_.socket_failed("cannot watch the control socket of", ec);
        read_and_wait();
      }
      owner_.run_completions();
    });
  }
  void read_and_wait() {
    if (reading_ || !is_open()) return;
    read(16);
    if (watch_ && is_open() && !awaiting_memory_) await_readable();
  }
  void await_memory() {
    if (!watch_ || std::exchange(awaiting_memory_, true)) return;
    watch_->wait_for_memory([this, alive = owner_.keep_alive()] {
      {
        const auto held = owner_.lock();
        awaiting_memory_ = false;
        if (!channel_ || !watch_) return;
        flush();
        read_and_wait();
      }
      owner_.run_completions();
    });
  }

  LinkOwner& owner_;
  Listener& listener_;
  std::optional<Channel> channel_;
  std::unique_ptr<SocketWatch> watch_;  // empty before the context is known, and once it is destroyed
  bool ended_ = false;                  // nothing more can be read
  bool reading_ = false, writing_ = false, awaiting_memory_ = false;
};

}}}  // namespace drover::v1::detail
