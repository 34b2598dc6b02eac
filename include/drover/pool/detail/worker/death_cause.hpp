#pragma once

#include <cstdint>

#include <drover/exit_status.hpp>
#include <drover/pool/detail/worker/exit_reason.hpp>
#include <drover/pool/stats.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// How the death of a worker counts, see WorkerDeaths.
enum class DeathCause : std::uint8_t {
  asked_for,  ///< a stop: it does not count
  crashed,
  exited,
  drained,
  killed_for_call,
  stalled,
  failed_start,
  protocol_error,
  unknown
};

/// Pure. What drover knows of the reason comes before the exit status, which then is of a signal that drover sent.
constexpr DeathCause death_cause_of(ExitReason reason, bool was_ready, const ExitStatus& exit) noexcept {
  switch (reason) {
    case ExitReason::stop: return DeathCause::asked_for;
    case ExitReason::kill_after: return DeathCause::killed_for_call;
    case ExitReason::stalled: return DeathCause::stalled;
    case ExitReason::start_failed: return DeathCause::failed_start;
    case ExitReason::protocol_error: return DeathCause::protocol_error;
    case ExitReason::drained:
      if (exit.success()) return DeathCause::drained;
      break;
    case ExitReason::unexpected: break;
  }
  if (!was_ready) return DeathCause::failed_start;
  switch (exit.kind) {
    case ExitStatus::Kind::signaled: return DeathCause::crashed;
    case ExitStatus::Kind::exited: return DeathCause::exited;
    case ExitStatus::Kind::unknown: break;
  }
  return DeathCause::unknown;
}

constexpr void count_death(WorkerDeaths& deaths, DeathCause cause) noexcept {
  switch (cause) {
    case DeathCause::asked_for: return;
    case DeathCause::crashed: ++deaths.crashed; return;
    case DeathCause::exited: ++deaths.exited; return;
    case DeathCause::drained: ++deaths.drained; return;
    case DeathCause::killed_for_call: ++deaths.killed_for_call; return;
    case DeathCause::stalled: ++deaths.stalled; return;
    case DeathCause::failed_start: ++deaths.failed_start; return;
    case DeathCause::protocol_error: ++deaths.protocol_error; return;
    case DeathCause::unknown: ++deaths.unknown; return;
  }
}

}}}  // namespace drover::v1::detail
