#pragma once

#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/steady_timer.hpp>

#include <drover/detail/context/registry.hpp>
#include <drover/detail/deadlines.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The times of all calls of a dispatcher, and one timer for them. It calls the dispatcher's on_timer(), which then
/// arms it again. `other`: a time of the dispatcher's own. Guarded by the dispatcher's mutex.
class CallTimer {
 public:
  explicit CallTimer(std::shared_ptr<ContextRegistry> registry) noexcept : registry_(std::move(registry)) {}

  void open(const asio::any_io_executor& executor) { timer_.emplace(executor); }
  /// The context is destroyed.
  void close() noexcept { timer_.reset(); }

  /// The first call that is due. Null if there is none.
  Call* due(Clock::time_point now) const noexcept {
    return !times_.empty() && times_.first().deadline.at <= now ? &times_.first() : nullptr;
  }
  void add(Call& call, Clock::time_point at) { times_.add(call, at); }
  /// A later add() of this call needs no memory. Until then it is never due.
  void reserve(Call& call) { times_.add(call, Clock::time_point::max()); }
  /// The same for a call that may have a time already, which it keeps.
  void reserve_for_later(Call& call) {
    if (!call.deadline.queued()) reserve(call);
  }
  void remove(Call& call) noexcept { times_.remove(call); }

  /// For an earlier time than all so far.
  template <class Owner>
  void arm_by(Clock::time_point at, const Deadline& other, const std::weak_ptr<Owner>& owner) {
    if (!armed_at_ || at < *armed_at_) arm(other, owner);
  }
  template <class Owner>
  void arm(const Deadline& other, const std::weak_ptr<Owner>& owner) {
    const auto registry_lock = registry_->lock();
    const Deadline next = earlier(times_.next(), other);
    if (!timer_ || registry_->closed() || !next || *next == Clock::time_point::max()) return;
    armed_at_.reset();  // until the timer waits
    timer_->expires_at(*next);
    timer_->async_wait([owner](std::error_code ec) {
      if (ec) return;
      if (const auto alive = owner.lock()) alive->on_timer();
    });
    armed_at_ = next;
  }
  void fired() noexcept { armed_at_.reset(); }
  /// Cancels the timer if no time is left, so that it does not keep the context running.
  void cancel_if_idle(const Deadline& other) noexcept {
    if (!timer_ || !times_.empty() || other) return;
    armed_at_.reset();
    timer_->cancel();
  }

 private:
  const std::shared_ptr<ContextRegistry> registry_;
  std::optional<asio::steady_timer> timer_;  // empty once the context is destroyed
  Deadlines<Call> times_;
  Deadline armed_at_;
};

}}}  // namespace drover::v1::detail
