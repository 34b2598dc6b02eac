#pragma once

#include <cstdint>

namespace drover { inline namespace v1 { namespace detail {

/// Why a worker process exits, as far as the parent knows.
enum class ExitReason : std::uint8_t {
  unexpected,
  drained,         ///< by itself, after it had said so
  stop,            ///< it was asked to
  start_failed,    ///< it did not get ready
  protocol_error,  ///< it sent what makes no sense, or cannot be reached any more
  kill_after,      ///< CallOptions::kill_after had passed
  stalled          ///< WorkerOptions::kill_stalled
};

/// Whether somebody wanted the exit, or it went as announced. `success`: with code 0.
constexpr bool is_expected(ExitReason reason, bool success) noexcept {
  switch (reason) {
    case ExitReason::stop:
    case ExitReason::start_failed:
    case ExitReason::kill_after:
    case ExitReason::stalled: return true;
    case ExitReason::drained: return success;
    case ExitReason::unexpected:
    case ExitReason::protocol_error: break;
  }
  return false;
}

}}}  // namespace drover::v1::detail
