#pragma once

#include <functional>
#include <memory>
#include <new>
#include <utility>

#include <asio/steady_timer.hpp>

#include <drover/detail/context/when_due.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Runs functions on the executor of a pool. Does nothing once its context is destroyed. With the dispatcher's mutex
/// held.
class PoolExecutor {
 public:
  explicit PoolExecutor(Dispatcher& dispatcher) noexcept : dispatcher_(dispatcher) {}

  /// False if there is no memory for it.
  template <class F>
  bool try_post(F function) noexcept {
    try {
      return dispatcher_.post(std::function<void()>(std::move(function)));
    } catch (const std::bad_alloc&) {
      return false;
    }
  }
  /// Not if the timer is destroyed before.
  void after(std::unique_ptr<asio::steady_timer>& timer, Duration delay, std::function<void()> function) {
    const auto registry_lock = dispatcher_.registry()->lock();
    const auto executor = dispatcher_.executor();
    if (!executor || dispatcher_.registry()->closed()) return;
    const auto at = deadline_after(Clock::now(), delay).value_or(Clock::time_point::max());
    timer = std::make_unique<asio::steady_timer>(*executor, at);
    when_due(*timer, std::move(function));
  }

 private:
  Dispatcher& dispatcher_;
};

}}}  // namespace drover::v1::detail
