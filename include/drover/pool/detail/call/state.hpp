#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace drover { inline namespace v1 { namespace detail {

/// The state of a call in the parent. Every event (a result, a cancellation, the deadline, the exit of its worker) goes
/// through step(), so that its caller is completed exactly once and its slot in the worker is released exactly once.
enum class CallState : std::uint8_t {
  queued,     ///< waits for a slot in a worker
  resting,    ///< its worker has exited, and it waits before it is queued again
  ahead,      ///< sent to a worker that runs another call and begins this one only afterwards
  running,    ///< sent; the caller waits
  abandoned,  ///< sent; the caller has been completed, the routine has not ended yet and keeps its slot
  ended
};

enum class CallEvent : std::uint8_t {
  sent,          ///< it got a slot in a worker
  sent_ahead,    ///< it got a place behind the call that the worker runs
  turn_came,     ///< the call before it has ended: the worker begins it, or has begun it
  answered,      ///< the worker's RESULT has arrived
  cancelled,     ///< the caller does not want it any more
  expired,       ///< its deadline has passed
  worker_ended,  ///< the process it was sent to has exited
  retried,       ///< the same, and it is to be run again
  rested,        ///< its rest is over
  returned,      ///< its worker has not begun it and never will
  refused        ///< it will never be sent: a stop, or a pool that gave up
};

struct CallStep {
  CallState next{};
  bool answers_caller{};  ///< with what belongs to the event
  bool leaves_queue{};
  bool enters_queue{};  ///< at its front
  bool releases_slot{};
  bool cancels_in_worker{};  ///< sends CANCEL, and from now on `kill_after` runs

  friend constexpr bool operator==(const CallStep&, const CallStep&) = default;
};

/// Pure. An event that comes too late, or has no meaning in a state, changes nothing.
constexpr CallStep step(CallState state, CallEvent event) noexcept {
  using enum CallState;
  using enum CallEvent;
  switch (state) {
    case queued:
      switch (event) {
        case sent: return {.next = running, .leaves_queue = true};
        case sent_ahead: return {.next = ahead, .leaves_queue = true};
        case cancelled:
        case expired:
        case refused: return {.next = ended, .answers_caller = true, .leaves_queue = true};
        case turn_came:
        case answered:
        case worker_ended:
        case retried:
        case rested:
        case returned: return {.next = queued};
      }
      break;
    case resting:
      switch (event) {
        case rested: return {.next = queued, .enters_queue = true};
        case cancelled:
        case expired:
        case refused: return {.next = ended, .answers_caller = true};
        case sent:
        case sent_ahead:
        case turn_came:
        case answered:
        case worker_ended:
        case retried:
        case returned: return {.next = resting};
      }
      break;
    case ahead:
      switch (event) {
        case turn_came: return {.next = running};
        case answered: return {.next = ended, .answers_caller = true, .releases_slot = true};
        case cancelled:
        case expired: return {.next = abandoned, .answers_caller = true, .cancels_in_worker = true};
        case worker_ended:
        case returned: return {.next = queued, .enters_queue = true, .releases_slot = true};
        case sent:
        case sent_ahead:
        case retried:
        case rested:
        case refused: return {.next = ahead};
      }
      break;
    case running:
      switch (event) {
        case retried: return {.next = resting, .releases_slot = true};
        case answered:
        case worker_ended: return {.next = ended, .answers_caller = true, .releases_slot = true};
        case cancelled:
        case expired: return {.next = abandoned, .answers_caller = true, .cancels_in_worker = true};
        case returned: return {.next = queued, .enters_queue = true, .releases_slot = true};
        case sent:
        case sent_ahead:
        case turn_came:
        case rested:
        case refused: return {.next = running};
      }
      break;
    case abandoned:
      switch (event) {
        case answered:
        case worker_ended:
        case returned: return {.next = ended, .releases_slot = true};
        case sent:
        case sent_ahead:
        case turn_came:
        case cancelled:
        case expired:
        case retried:
        case rested:
        case refused: return {.next = abandoned};
      }
      break;
    case ended: break;
  }
  return {.next = ended};
}

/// How many calls are in a worker.
struct CallCounts {
  std::size_t awaited = 0;  ///< their callers wait; those that were sent ahead included
  std::size_t ahead = 0;

  constexpr void changed(CallState before, CallState after) noexcept {
    const auto is_awaited = [](CallState state) { return state == CallState::running || state == CallState::ahead; };
    awaited = awaited - is_awaited(before) + is_awaited(after);
    ahead = ahead - (before == CallState::ahead) + (after == CallState::ahead);
  }
};

}}}  // namespace drover::v1::detail
