#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <system_error>
#include <utility>

#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>

#include <drover/detail/context/spin.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/channel.hpp>
#include <drover/worker/detail/shared_state.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Waits, on the main thread of a worker, for calls, for room for results, and for the control thread. Each function
/// does nothing if its wait is already pending.
class CallWaits {
 public:
  /// Called on the main thread, from the context.
  class Listener {
   public:
    /// The control thread has changed its flags.
    virtual void notified() = 0;
    virtual void readable() = 0;
    virtual void writable() = 0;
    /// After go_on_later().
    virtual void turn_came() = 0;
    /// Waiting is impossible. The function of the wait follows, except notified().
    virtual void wait_failed() = 0;

   protected:
    ~Listener() = default;
  };

  CallWaits(asio::io_context& context, Listener& listener, const WakeupFd& wakeup, Channel& data, Duration spin)
      : listener_(listener), wakeup_(wakeup), data_(data), context_(context), spin_(spin) {
    data_watch_.assign(data_.fd());
    wakeup_watch_.assign(wakeup_.fd());
  }
  CallWaits(const CallWaits&) = delete;
  CallWaits& operator=(const CallWaits&) = delete;
  ~CallWaits() {
    try {
      data_watch_.release();  // the descriptors belong to the state
      wakeup_watch_.release();
    } catch (const std::exception&) {
    }
  }

  void watch_wakeup() {
    wakeup_watch_.async_wait(asio::posix::stream_descriptor::wait_read, [this](std::error_code ec) {
      if (ec == asio::error::operation_aborted) return;
      if (ec) return listener_.wait_failed();  // it must not continue without flags
      wakeup_.consume();
      watch_wakeup();
      listener_.notified();
    });
  }

  /// `spins`: it may poll for a while before it sleeps.
  void watch_data(bool spins) {
    if (std::exchange(waiting_for_data_, true)) return;
    data_watch_.async_wait(asio::posix::stream_descriptor::wait_read, [this](std::error_code ec) {
      if (ec == asio::error::operation_aborted) return;
      waiting_for_data_ = false;
      if (ec) listener_.wait_failed();
      listener_.readable();
    });
    if (spins && spin_.enabled() && spin_.expect(Clock::now())) poll_for_calls();
  }

  void watch_writable() {
    if (std::exchange(waiting_for_room_, true)) return;
    const auto on_room = [this](std::error_code ec) {
      if (ec == asio::error::operation_aborted) return;
      waiting_for_room_ = false;
      if (ec) listener_.wait_failed();
      listener_.writable();
    };
    if (data_.short_of_memory()) {
      memory_timer_.expires_after(Channel::memory_pause);
      return memory_timer_.async_wait(on_room);
    }
    data_watch_.async_wait(asio::posix::stream_descriptor::wait_write, on_room);
  }

  /// Gives the handlers that wait already their turn first.
  void go_on_later() {
    if (std::exchange(going_on_later_, true)) return;
    asio::post(context_, [this] {
      going_on_later_ = false;
      listener_.turn_came();
    });
  }

 private:
  /// Keeps this thread from sleeping, see Spin.
  void poll_for_calls() noexcept {
    try {
      asio::post(context_, [this] {
        if (spin_.goes_on(Clock::now(), waiting_for_data_)) poll_for_calls();
      });
    } catch (...) {  // no memory: the thread sleeps
      spin_.stop();
    }
  }

  Listener& listener_;
  const WakeupFd& wakeup_;
  Channel& data_;
  asio::io_context& context_;
  asio::posix::stream_descriptor data_watch_{context_};
  asio::posix::stream_descriptor wakeup_watch_{context_};
  asio::steady_timer memory_timer_{context_};
  Spin spin_;
  bool waiting_for_data_ = false, waiting_for_room_ = false, going_on_later_ = false;
};

}}}  // namespace drover::v1::detail
