#pragma once

#include <concepts>
#include <memory>
#include <mutex>
#include <system_error>
#include <utility>

#include <asio/basic_waitable_timer.hpp>
#include <asio/execution_context.hpp>
#include <asio/io_context.hpp>

#include <drover/detail/context_executor.hpp>
#include <drover/detail/home.hpp>
#include <drover/timeout.hpp>

namespace drover::inline v1::detail::resource_pool {

class TimerTarget {
 public:
  /// On a thread of the context, but not on any executor of the pool's.
  virtual void timer_fired() = 0;

 protected:
  ~TimerTarget() = default;
};

/// The scheduler that every context of Asio's runs on, as far as this file needs it. It and its name are all that
/// drover uses of Asio's internals; where it has changed, the timer counts as work.
template <class S>
concept CountsWork = requires(S& scheduler) {
  scheduler.work_started();
  scheduler.work_finished();
  { scheduler.can_dispatch() } -> std::convertible_to<bool>;
};

/// A steady timer whose pending wait is not work: it does not keep run() or join() from returning. The Asio timer is
/// owned by its own pending handler, so that it goes silently when the context does.
///
/// A pending wait counts one unit of work in the scheduler. That unit is taken back as soon as the wait is armed, and
/// given again first thing in its completion, whose end takes it a second time. Taking back the last unit would stop
/// the context, so it is only done from inside a handler of the context, which is a unit itself.
class IdleTimer {
 public:
  IdleTimer(asio::execution_context& context, std::shared_ptr<Home> home)
      : context_(&context), home_(std::move(home)) {}
  IdleTimer(const IdleTimer&) = delete;
  IdleTimer& operator=(const IdleTimer&) = delete;
  ~IdleTimer() { cancel(); }

  /// Any thread. Not to be called while an earlier wait is pending. Does nothing if the context is gone.
  void arm(Clock::time_point at, std::weak_ptr<TimerTarget> target) {
    const auto held = home_->lock();
    if (home_->down()) return;
    auto wait = std::make_shared<Wait>(*context_, home_, std::move(target));
    wait_ = wait;
    start(std::move(wait), at);
  }

  void cancel() noexcept {
    const auto held = home_->lock();
    if (home_->down()) return;
    if (const auto wait = wait_.lock()) wait->timer.cancel();
  }

 private:
  using Scheduler = asio::detail::io_context_impl;
  static constexpr bool silent = CountsWork<Scheduler>;

  struct Wait {
    Wait(asio::execution_context& context, std::shared_ptr<Home> h, std::weak_ptr<TimerTarget> t)
        : timer(ContextExecutor(context)),
          scheduler(&asio::use_service<Scheduler>(context)),
          home(std::move(h)),
          target(std::move(t)) {}

    asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, ContextExecutor> timer;  // under the home's lock
    Scheduler* scheduler;
    std::shared_ptr<Home> home;
    std::weak_ptr<TimerTarget> target;
  };

  /// With the home's lock held and the home up.
  static void start(std::shared_ptr<Wait> wait, Clock::time_point at) {
    Wait& w = *wait;
    if constexpr (silent) {
      if (!w.scheduler->can_dispatch()) return enter(std::move(wait), at);
    }
    w.timer.expires_at(at);
    w.timer.async_wait([wait = std::move(wait)](std::error_code ec) {
      if constexpr (silent) wait->scheduler->work_started();
      if (ec) return;
      if (const auto target = wait->target.lock()) target->timer_fired();
    });
    if constexpr (silent) w.scheduler->work_finished();
  }

  /// From outside the context: a wait that is already due takes us inside, where the real one can be armed.
  static void enter(std::shared_ptr<Wait> wait, Clock::time_point at) {
    Wait& w = *wait;
    w.timer.expires_at(Clock::time_point{});
    w.timer.async_wait([wait = std::move(wait), at](std::error_code) {
      const auto held = wait->home->lock();
      if (!wait->home->down() && !wait->target.expired()) start(wait, at);
    });
  }

  asio::execution_context* context_;  // not to be used once the home is down
  std::shared_ptr<Home> home_;
  std::weak_ptr<Wait> wait_;
};

}  // namespace drover::inline v1::detail::resource_pool
