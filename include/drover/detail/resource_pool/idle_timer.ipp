#pragma once

#include <concepts>
#include <memory>
#include <system_error>
#include <utility>

#include <asio/basic_waitable_timer.hpp>
#include <asio/execution_context.hpp>
#include <asio/io_context.hpp>

#include <drover/detail/context/executor.hpp>
#include <drover/detail/context/registry.hpp>
#include <drover/detail/resource_pool/idle_timer.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The scheduler of every Asio context, as far as this file needs it. If the interface has changed, the timer counts as
/// work.
template <class S>
concept CountsWork = requires(S& scheduler) {
  scheduler.work_started();
  scheduler.work_finished();
  { scheduler.can_dispatch() } -> std::convertible_to<bool>;
};

using Scheduler = asio::detail::io_context_impl;
inline constexpr bool silent_timers = CountsWork<Scheduler>;

struct IdleTimer::Wait {
  Wait(asio::execution_context& context, std::shared_ptr<ContextRegistry> contexts_registry,
       std::weak_ptr<TimerTarget> timer_target)
      : timer(ContextExecutor(context)),
        scheduler(&asio::use_service<Scheduler>(context)),
        registry(std::move(contexts_registry)),
        target(std::move(timer_target)) {}

  asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, ContextExecutor> timer;  // used under the registry's lock
  Scheduler* scheduler;
  std::shared_ptr<ContextRegistry> registry;
  std::weak_ptr<TimerTarget> target;
};

DROVER_INLINE void IdleTimer::arm(Clock::time_point at, std::weak_ptr<TimerTarget> target) {
  const auto held = registry_->lock();
  if (registry_->closed()) return;
  auto wait = std::make_shared<Wait>(*context_, registry_, std::move(target));
  wait_ = wait;
  start(std::move(wait), at);
}

DROVER_INLINE void IdleTimer::cancel() noexcept {
  const auto held = registry_->lock();
  if (registry_->closed()) return;
  if (const auto wait = wait_.lock()) wait->timer.cancel();
}

/// With the registry's lock held and the registry not closed.
DROVER_INLINE void IdleTimer::start(std::shared_ptr<Wait> wait, Clock::time_point at) {
  Wait& w = *wait;
  if constexpr (silent_timers) {
    if (!w.scheduler->can_dispatch()) return start_from_outside(std::move(wait), at);
  }
  w.timer.expires_at(at);
  w.timer.async_wait([wait = std::move(wait)](std::error_code ec) {
    if constexpr (silent_timers) wait->scheduler->work_started();
    if (ec) return;
    if (const auto target = wait->target.lock()) target->timer_fired();
  });
  if constexpr (silent_timers) w.scheduler->work_finished();
}

/// Called from outside the context: a wait that is already due runs a handler inside it, where the real wait can be
/// armed.
DROVER_INLINE void IdleTimer::start_from_outside(std::shared_ptr<Wait> wait, Clock::time_point at) {
  Wait& w = *wait;
  w.timer.expires_at(Clock::time_point{});
  w.timer.async_wait([wait = std::move(wait), at](std::error_code) {
    try {
      const auto held = wait->registry->lock();
      if (!wait->registry->closed() && !wait->target.expired()) start(wait, at);
    } catch (...) {  // without the lock: the target may arm the timer again
      if (const auto target = wait->target.lock()) target->timer_failed();
    }
  });
}

}}}}  // namespace drover::v1::detail::resource_pool
