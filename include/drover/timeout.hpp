#pragma once

#include <drover/detail/platform.hpp>

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

/// Time in drover: a steady clock, absolute times inside, relative times in the public interface.
namespace drover { inline namespace v1 {

using Clock = std::chrono::steady_clock;
using Duration = Clock::duration;

/// A bound on how long an operation may take; nullopt is no bound. A function that receives a negative bound throws
/// std::invalid_argument.
using Timeout = std::optional<Duration>;

namespace detail {

/// The time at which a Timeout has passed; nullopt is never.
using Deadline = std::optional<Clock::time_point>;

/// A bound beyond the range of the clock counts as no bound.
inline Deadline deadline_after(Clock::time_point now, Timeout timeout) {
  if (!timeout || *timeout > Clock::time_point::max() - now) return std::nullopt;
  return now + *timeout;
}

/// The earlier of two deadlines, where nullopt is later than any.
inline Deadline earlier(Deadline a, Deadline b) {
  if (!a) return b;
  if (!b) return a;
  return *a < *b ? a : b;
}

inline void require_not_negative(Timeout timeout, std::string_view what) {
  if (timeout && *timeout < Duration::zero())
    throw std::invalid_argument(std::string(what) + " must not be negative; use std::nullopt for no bound");
}

inline void require_not_negative(Duration duration, std::string_view what) {
  if (duration < Duration::zero()) throw std::invalid_argument(std::string(what) + " must not be negative");
}

}  // namespace detail
}}  // namespace drover::v1
