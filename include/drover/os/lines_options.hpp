#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>

namespace drover { inline namespace v1 {
namespace detail {

inline constexpr std::size_t max_line = 64 * 1024;
inline constexpr std::size_t max_pending_lines = 1024 * 1024;

}  // namespace detail

/// How Stdio::lines() treats a handler that falls behind.
struct LinesOptions {
  enum class WhenBehind {
    drop,  ///< the oldest lines are dropped; ReapReport::lost_lines counts them
    /// Nothing is read while Stdio::max_pending bytes wait for the handler. The child then soon blocks in write(2), for
    /// as long as the handler's executor does not run. The child's exit is still reported in time, and a reap takes no
    /// longer. What is in the pipe at the exit (64 KiB, see pipe(7)) is delivered on top of max_pending.
    wait
  };
  WhenBehind when_behind = WhenBehind::drop;
};

}}  // namespace drover::v1
