#pragma once

#include <cstdint>
#include <poll.h>

#include <drover/worker/detail/call_arrivals.hpp>
#include <drover/worker/detail/running_call.hpp>
#include <drover/worker/detail/shared_state.hpp>
#include <drover/worker/detail/stall_watch.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Lets the control thread observe the main loop, for StallWatch. It takes no lock and reads nothing from the data
/// socket, and once it exists it allocates nothing.
class LoopProbe {
 public:
  /// Throws std::system_error.
  explicit LoopProbe(WorkerState& state)
      : state_(state), arrivals_(state.stall ? CallArrivals(state.data_fd) : CallArrivals()) {}

  /// Readable when calls have arrived, or may have; -1 if nobody wants to know.
  int arrivals_fd() const noexcept { return arrivals_.fd(); }
  void take_arrivals() noexcept { arrivals_.take(); }

  /// Asks the loop to turn: CallLoop::notified() answers. One that is unanswered is replaced.
  void ask() noexcept {
    state_.probe.store(++asked_);
    state_.main_wakeup.notify();
  }

  StallWatch::Sight look() noexcept {
    const bool arrived = arrivals_.take();
    const std::uint64_t ended = state_.ended.load(), last_read = state_.last_read.load();
    const bool went_on = ended != ended_ || last_read != last_read_;
    ended_ = ended;
    last_read_ = last_read;
    return {.arrived = arrived,
            .busy = in_progress() != 0 || state_.owes_results.load() || has_unread(),
            .turned = went_on || state_.probe_answered.load() == asked_};
  }

  /// The call whose routine the main thread runs at this moment; 0 if it runs none.
  std::uint64_t running_call() const noexcept {
    if (const std::uint64_t coroutine = running_coroutine.load()) return coroutine;
    // A call in progress that is no coroutine runs a plain routine, and the last call is the only one that can.
    return in_progress() > state_.coroutines.load() ? state_.last_read.load() : 0;
  }

 private:
  /// The main thread changes these meanwhile. Read in this order, their difference is not below zero.
  std::uint64_t in_progress() const noexcept {
    const std::uint64_t ended = state_.ended.load();
    const std::uint64_t read = state_.read.load();
    return read > ended ? read - ended : 0;
  }
  bool has_unread() const noexcept {
    pollfd data{state_.data_fd, POLLIN, 0};
    return ::poll(&data, 1, 0) > 0 && (data.revents & POLLIN) != 0;
  }

  WorkerState& state_;
  CallArrivals arrivals_;
  std::uint64_t asked_ = 0, ended_ = 0, last_read_ = 0;
};

}}}  // namespace drover::v1::detail
