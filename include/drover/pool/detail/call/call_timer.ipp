#pragma once

#include <memory>
#include <system_error>

#include <drover/pool/detail/call/call_timer.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline void CallTimer::arm() {
  const auto registry_lock = registry_->lock();
  const Deadline next = earlier(times_.next(), sent_ahead_.next_look());
  if (!timer_ || registry_->closed() || !next || *next == Clock::time_point::max()) return;
  armed_at_.reset();  // until the timer waits
  timer_->expires_at(*next);
  timer_->async_wait([owner = dispatcher_.weak_from_this()](std::error_code ec) {
    if (ec) return;
    if (const auto alive = owner.lock()) alive->on_timer();
  });
  armed_at_ = next;
}

}}}  // namespace drover::v1::detail
