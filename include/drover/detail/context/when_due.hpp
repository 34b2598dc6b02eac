#pragma once

#include <functional>
#include <system_error>
#include <utility>

#include <asio/steady_timer.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Calls the function when the timer expires, and not if the wait is cancelled. Its type is erased, because each type
/// of handler takes the compiler long.
inline void when_due(asio::steady_timer& timer, std::function<void()> function) {
  timer.async_wait([function = std::move(function)](std::error_code ec) {
    if (!ec) function();
  });
}

}}}  // namespace drover::v1::detail
