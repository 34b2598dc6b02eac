#pragma once

#include <drover/worker/detail/running_call.hpp>
#include <drover/worker/this_call.hpp>

namespace drover { inline namespace v1 {
namespace detail {

/// Null if there is none.
inline RunningCall* running_call() noexcept {
  RunningCall* const call = static_cast<RunningCall*>(current_call);  // nothing else sets it
  return call != nullptr && !call->has_ended() ? call : nullptr;
}

}  // namespace detail

namespace this_call {

DROVER_INLINE std::optional<Clock::time_point> deadline() noexcept {
  const auto* const call = detail::running_call();
  return call != nullptr ? call->deadline : std::nullopt;
}

DROVER_INLINE CancelReason reason() {
  auto* const call = detail::running_call();
  return call != nullptr ? call->reason_now() : CancelReason::none;
}

DROVER_INLINE std::string_view context() noexcept {
  const auto* const call = detail::running_call();
  return call != nullptr ? call->context : std::string_view();
}

DROVER_INLINE unsigned attempt() noexcept {
  const auto* const call = detail::running_call();
  return call != nullptr ? call->attempt : 0;
}

}  // namespace this_call
}}  // namespace drover::v1
