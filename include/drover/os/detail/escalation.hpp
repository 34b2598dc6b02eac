#pragma once

#include <array>
#include <cstddef>
#include <optional>

#include <drover/os/reap.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

enum class Rung { terminate, kill };

/// What a reap does to a process and to its group, and when, as data: it sends nothing, and reads no clock.
///
/// Each rung goes to the whole group. The group outlasts its leader: one that was sent SIGTERM has until SIGKILL is
/// due, whether the leader still lives or not.
class Ladder {
 public:
  /// Begins, or joins what has begun: every step that is still to come may move forward in time, never back.
  void join(const ReapPlan& plan, Clock::time_point now) noexcept {
    const Deadline terminate_at = deadline_after(now, plan.patience);
    const Deadline kill_at = terminate_at ? deadline_after(*terminate_at, plan.term_grace) : std::nullopt;
    steps_[0].at = earlier(steps_[0].at, terminate_at);
    steps_[1].at = earlier(steps_[1].at, kill_at);
  }

  /// When the next step is due; nullopt if there is none to come.
  Deadline next() const noexcept { return done_ < steps_.size() ? steps_[done_].at : std::nullopt; }

  /// The next step if its time has come. Each is handed out once, in order.
  std::optional<Rung> take_due(Clock::time_point now) noexcept {
    const Deadline at = next();
    if (!at || now < *at) return std::nullopt;
    return steps_[done_++].rung;
  }

  /// Why the leader of the group has ended.
  enum class End {
    by_itself,
    cut  // drover or its own watchdog ended it alone, in the middle of its work
  };
  /// The leader has ended. What the rest of its group is sent at once, if anything; next() and take_due() say what
  /// follows. `grace`: for the rest between SIGTERM and SIGKILL, counted from now; zero: no SIGTERM.
  std::optional<Rung> leader_ended(End end, Duration grace, Clock::time_point now) noexcept {
    if (taken(Rung::kill)) return Rung::kill;  // again: it may have forked meanwhile
    if (taken(Rung::terminate)) return std::nullopt;
    if (end == End::by_itself && grace == Duration::zero()) {
      done_ = steps_.size();
      return Rung::kill;
    }
    done_ = 1;
    steps_[1].at = end == End::cut ? earlier(steps_[1].at, deadline_after(now, grace)) : deadline_after(now, grace);
    return Rung::terminate;
  }

  bool taken(Rung rung) const noexcept { return done_ > static_cast<std::size_t>(rung); }

  /// When the last step is due, or was.
  Deadline last() const noexcept { return steps_.back().at; }

 private:
  struct Step {
    Rung rung;
    Deadline at;
  };

  std::array<Step, 2> steps_{Step{Rung::terminate, {}}, Step{Rung::kill, {}}};
  std::size_t done_ = 0;
};

}}}  // namespace drover::v1::detail
