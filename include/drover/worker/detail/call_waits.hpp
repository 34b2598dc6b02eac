#pragma once

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <exception>
#include <poll.h>
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
///
/// As long as no coroutine needs the io_context, the main thread waits by poll(2) itself: that saves a system call
/// (epoll_ctl) and a quarter of the instructions of a call. From share_context() on it runs the io_context.
class CallWaits {
 public:
  /// Called on the main thread, from run().
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

  /// Others use the io_context, too: from now on all waits are its. Throws std::bad_alloc; then nothing has changed,
  /// but that some waits are pending there already.
  void share_context() {
    if (shared_) return;
    if (awaits_wakeup_ && !wakeup_shared_) wait_for_wakeup();
    wakeup_shared_ = awaits_wakeup_;
    if (awaits_data_) wait_for_data();
    if (awaits_room_) wait_for_room();
    if (going_on_later_) post_turn();
    spin_.stop();
    shared_ = true;
  }

  /// Calls the listener, until stop(). Throws the exceptions of others' handlers on the io_context.
  void run() {
    context_.restart();
    // From a handler, so that a coroutine which a call spawns begins at once, as ever.
    if (!shared_)
      asio::post(context_, [this] {
        while (!stopped_ && !shared_) wait_here();
      });
    context_.run();
  }
  void stop() noexcept {
    stopped_ = true;
    context_.stop();
  }

  void watch_wakeup() {
    if (std::exchange(awaits_wakeup_, true)) return;
    if (shared_) wait_for_wakeup();
  }

  /// `spins`: it may poll for a while before it sleeps.
  void watch_data(bool spins) {
    if (std::exchange(awaits_data_, true)) return;
    if (shared_) wait_for_data();
    if (spins && spin_.enabled() && spin_.expect(Clock::now()) && shared_) poll_for_calls();
  }

  void watch_writable() {
    if (std::exchange(awaits_room_, true)) return;
    if (shared_) wait_for_room();
  }

  /// Gives what waits already its turn first.
  void go_on_later() {
    if (std::exchange(going_on_later_, true)) return;
    if (shared_) post_turn();
  }

 private:
  // On the io_context.

  void wait_for_wakeup() {
    wakeup_watch_.async_wait(asio::posix::stream_descriptor::wait_read, [this](std::error_code ec) {
      if (ec == asio::error::operation_aborted) return;
      if (ec) return listener_.wait_failed();  // it must not continue without flags
      wakeup_.consume();
      wait_for_wakeup();
      listener_.notified();
    });
  }
  void wait_for_data() {
    data_watch_.async_wait(asio::posix::stream_descriptor::wait_read, [this](std::error_code ec) {
      if (ec == asio::error::operation_aborted) return;
      awaits_data_ = false;
      if (ec) listener_.wait_failed();
      listener_.readable();
    });
  }
  void wait_for_room() {
    const auto on_room = [this](std::error_code ec) {
      if (ec == asio::error::operation_aborted) return;
      awaits_room_ = false;
      if (ec) listener_.wait_failed();
      listener_.writable();
    };
    if (data_.short_of_memory()) {
      memory_timer_.expires_after(Channel::memory_pause);
      return memory_timer_.async_wait(on_room);
    }
    data_watch_.async_wait(asio::posix::stream_descriptor::wait_write, on_room);
  }
  void post_turn() {
    asio::post(context_, [this] {
      going_on_later_ = false;
      listener_.turn_came();
    });
  }
  /// Keeps this thread from sleeping, see Spin.
  void poll_for_calls() noexcept {
    try {
      asio::post(context_, [this] {
        if (spin_.goes_on(Clock::now(), awaits_data_)) poll_for_calls();
      });
    } catch (...) {  // no memory: the thread sleeps
      spin_.stop();
    }
  }

  // Without it.

  void wait_here() {
    const bool pauses = awaits_room_ && data_.short_of_memory();
    pollfd watched[2] = {{awaits_wakeup_ ? wakeup_.fd() : -1, POLLIN, 0}, {-1, 0, 0}};
    const int events = (awaits_data_ ? POLLIN : 0) | (awaits_room_ && !pauses ? POLLOUT : 0);
    if (events != 0)  // otherwise poll(2) would report a hang-up again and again
      watched[1] = {data_.fd(), static_cast<short>(events), 0};
    const int patience = milliseconds_to_wait(pauses);
    const int found = ::poll(watched, 2, patience);
    if (found < 0) {
      if (errno != EINTR) share_context();  // the kernel has no memory for poll(2)
      return;
    }
    if ((watched[0].revents & POLLNVAL) != 0) {  // the program has closed it
      awaits_wakeup_ = false;
      listener_.wait_failed();
    } else if (watched[0].revents != 0) {
      wakeup_.consume();
      listener_.notified();
    }
    const int data = watched[1].revents;
    constexpr int end = POLLHUP | POLLERR | POLLNVAL;  // the next system call reports which
    if (!shared_ && awaits_room_ && ((data & (POLLOUT | end)) != 0 || (pauses && found == 0 && patience != 0))) {
      awaits_room_ = false;
      listener_.writable();
    }
    if (!shared_ && awaits_data_ && (data & (POLLIN | end)) != 0) {
      awaits_data_ = false;
      listener_.readable();
    }
    if (!shared_ && std::exchange(going_on_later_, false)) listener_.turn_came();
  }
  int milliseconds_to_wait(bool pauses) {
    if (going_on_later_ || (spin_.polls() && spin_.goes_on(Clock::now(), awaits_data_))) return 0;
    return pauses ? static_cast<int>(Channel::memory_pause.count()) : -1;
  }

  Listener& listener_;
  const WakeupFd& wakeup_;
  Channel& data_;
  asio::io_context& context_;
  asio::posix::stream_descriptor data_watch_{context_};
  asio::posix::stream_descriptor wakeup_watch_{context_};
  asio::steady_timer memory_timer_{context_};
  Spin spin_;
  bool shared_ = false, stopped_ = false;
  bool wakeup_shared_ = false;  // that wait is pending on the io_context
  bool awaits_wakeup_ = false, awaits_data_ = false, awaits_room_ = false, going_on_later_ = false;
};

}}}  // namespace drover::v1::detail
