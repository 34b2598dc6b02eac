#pragma once

#include <sys/prctl.h>

/// A mark that a worker carries from its spawn until it knows that it is a worker. It survives whatever a wrapper does
/// to a worker's other signs: clear the environment, close descriptors, fork, execute. So a worker that has lost all of
/// those still does not take itself for the parent program, whose workers would lose them too, without end.
///
/// The mark is in the last three digits of a thread's timer slack (in nanoseconds): the one property that fork(2) and
/// execve(2) preserve and that no program resets, see PR_SET_TIMERSLACK in prctl(2).
namespace drover { inline namespace v1 { namespace detail {

inline constexpr long slack_unit = 1000, spawn_mark = 643;

/// True if this process is a worker that does not know it yet, or was started by one.
inline bool has_spawn_mark() noexcept {
  const long slack = ::prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
  return slack > 0 && slack % slack_unit == spawn_mark;
}

/// Call it on a worker's main thread, before that creates others.
inline void clear_spawn_mark() noexcept {
  const long slack = ::prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
  if (slack > 0 && slack % slack_unit == spawn_mark)
    ::prctl(PR_SET_TIMERSLACK, slack - spawn_mark > 0 ? slack - spawn_mark : 1, 0, 0, 0);
}

/// Processes that this thread spawns in its scope carry the mark.
class MarkSpawns {
 public:
  explicit MarkSpawns(bool on) noexcept : before_(on ? ::prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0) : -1) {
    if (before_ > 0) ::prctl(PR_SET_TIMERSLACK, before_ / slack_unit * slack_unit + spawn_mark, 0, 0, 0);
  }
  MarkSpawns(const MarkSpawns&) = delete;
  MarkSpawns& operator=(const MarkSpawns&) = delete;
  ~MarkSpawns() {
    if (before_ > 0) ::prctl(PR_SET_TIMERSLACK, before_, 0, 0, 0);
  }

 private:
  const long before_;
};

}}}  // namespace drover::v1::detail
