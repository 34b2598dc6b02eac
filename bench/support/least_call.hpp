#pragma once

#include <array>
#include <cstddef>
#include <exception>
#include <new>
#include <string>
#include <sys/socket.h>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/awaitable.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/use_awaitable.hpp>

#include "raw.hpp"

namespace bench {

/// The least that a call in the shape of drover's needs on public Asio: it begins at once, an asio::awaitable is the
/// receipt, and a handler that waits for the socket completes it. One call at a time, no frame, no name, no codec, no
/// lock, no deadline and no cancellation.
class LeastCaller {
 public:
  LeastCaller(const asio::any_io_executor& executor, int fd) : socket_(executor, fd) {}
  LeastCaller(const LeastCaller&) = delete;
  LeastCaller& operator=(const LeastCaller&) = delete;
  ~LeastCaller() { socket_.release(); }

  asio::awaitable<std::string> call(const std::string& text) {
    checked(::send(socket_.native_handle(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT), "send");
    return asio::async_initiate<const asio::use_awaitable_t<>, void(std::exception_ptr, std::string)>(
        [this](auto handler) {
          using Handler = decltype(handler);
          static_assert(sizeof(Typed<Handler>) <= sizeof memory_);
          completion_ = ::new (static_cast<void*>(memory_)) Typed<Handler>(std::move(handler));
          await_reply();
        },
        asio::use_awaitable);
  }

 private:
  struct Completion {
    virtual ~Completion() = default;
    virtual void complete(std::string text) = 0;
  };
  template <class Handler>
  struct Typed final : Completion {
    explicit Typed(Handler handler) : handler_(std::move(handler)) {}
    void complete(std::string text) override {
      Handler handler(std::move(handler_));
      this->~Typed();
      std::move(handler)(nullptr, std::move(text));
    }
    Handler handler_;
  };

  void await_reply() {
    socket_.async_wait(asio::posix::stream_descriptor::wait_read, [this](std::error_code) {
      const auto size = checked(::recv(socket_.native_handle(), buffer_.data(), buffer_.size(), MSG_DONTWAIT), "recv");
      std::exchange(completion_, nullptr)->complete(std::string(buffer_.data(), static_cast<std::size_t>(size)));
    });
  }

  asio::posix::stream_descriptor socket_;
  Completion* completion_ = nullptr;
  alignas(std::max_align_t) std::byte memory_[128];
  std::array<char, 4096> buffer_;
};

}  // namespace bench
