#pragma once

#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/error.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/steady_timer.hpp>

#include <drover/wire/channel.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The services that both sockets of a worker need from the session that owns them.
class LinkOwner {
 public:
  /// The dispatcher's mutex, which guards the links.
  virtual std::unique_lock<std::mutex> lock() const = 0;
  /// True in a forked copy of the program: nothing is sent to workers of the original.
  virtual bool foreign() const noexcept = 0;
  /// Keeps the context from being destroyed meanwhile, so that it can be waited on from another context's thread. Not
  /// locked once it has been destroyed.
  virtual std::unique_lock<std::mutex> lock_context() const = 0;
  /// Keeps the links alive while a handler is pending.
  virtual std::shared_ptr<void> keep_alive() = 0;
  /// Waiting, reading or writing has failed for a reason that lies in this process. With the mutex held.
  virtual void socket_failed(const char* what, std::error_code error) = 0;
  /// A message was malformed, or there was no memory for it. With the mutex held.
  virtual void peer_failed(std::exception_ptr failure) = 0;
  /// Runs the completions of calls that have ended, on the worker's executor. `held`: the mutex, which is unlocked
  /// meanwhile.
  virtual void run_completions(std::unique_lock<std::mutex> held) = 0;

 protected:
  ~LinkOwner() = default;
};

/// Waits on the worker's context until a socket is readable or writable, or until the kernel may have memory again. The
/// channel owns the descriptor. Handlers run without the mutex, and never after the context is destroyed.
class SocketWatch {
 public:
  SocketWatch(const asio::any_io_executor& executor, int fd) : descriptor_(executor), memory_timer_(executor) {
    descriptor_.assign(fd);
  }
  SocketWatch(const SocketWatch&) = delete;
  SocketWatch& operator=(const SocketWatch&) = delete;
  ~SocketWatch() {
    if (descriptor_.is_open()) descriptor_.release();
  }

  /// `handler`: void(std::error_code). It is not called once the watch is destroyed.
  template <class Handler>
  void wait(asio::posix::stream_descriptor::wait_type type, Handler handler) {
    descriptor_.async_wait(type, [handler = std::move(handler)](std::error_code ec) mutable {
      if (ec != asio::error::operation_aborted) handler(ec);
    });
  }
  /// `handler`: void().
  template <class Handler>
  void wait_for_memory(Handler handler) {
    memory_timer_.expires_after(Channel::memory_pause);
    memory_timer_.async_wait([handler = std::move(handler)](std::error_code ec) mutable {
      if (!ec) handler();
    });
  }

 private:
  asio::posix::stream_descriptor descriptor_;
  asio::steady_timer memory_timer_;
};

}}}  // namespace drover::v1::detail
