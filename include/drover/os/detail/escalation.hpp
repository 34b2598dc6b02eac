#pragma once

#include <array>
#include <cstddef>
#include <optional>

#include <drover/os/reap.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

enum class EscalationStep { terminate, kill };

/// Decides what a reap sends to a process and its group, and when. Pure data: it sends nothing and reads no clock.
///
/// Each step is for the whole group. The group may outlast its leader: after SIGTERM it has until SIGKILL is due,
/// whether or not the leader still lives.
class Escalation {
 public:
  /// Begins, or joins what has begun: each pending step may move to an earlier time, never to a later one.
  void join(const ReapPlan& plan, Clock::time_point now) noexcept {
    join(deadline_after(now, plan.patience), plan.term_grace);
  }
  /// The same with an absolute time. True if a step moved.
  bool join(Deadline terminate_at, Duration term_grace) noexcept {
    const Deadline kill_at = terminate_at ? deadline_after(*terminate_at, term_grace) : std::nullopt;
    const Deadline before[] = {steps_[0].at, steps_[1].at};
    steps_[0].at = earlier(steps_[0].at, terminate_at);
    steps_[1].at = earlier(steps_[1].at, kill_at);
    return steps_[0].at != before[0] || steps_[1].at != before[1];
  }

  /// When the next step is due; nullopt if none is pending.
  Deadline next() const noexcept { return done_ < steps_.size() ? steps_[done_].at : std::nullopt; }

  /// The next step if it is due. Each is returned once, in order.
  std::optional<EscalationStep> take_due(Clock::time_point now) noexcept {
    const Deadline at = next();
    if (!at || now < *at) return std::nullopt;
    return steps_[done_++].step;
  }

  /// Why the leader of the group has exited.
  enum class End {
    by_itself,
    cut  // drover or its own control thread ended it alone, in the middle of its work
  };
  /// The leader has exited. Returns the step that the rest of its group gets at once, if any; next() and take_due()
  /// return what follows. `grace` is the time of the rest between SIGTERM and SIGKILL, counted from now. If it is zero
  /// and the leader exited by itself, there is no SIGTERM.
  std::optional<EscalationStep> leader_ended(End end, Duration grace, Clock::time_point now) noexcept {
    if (taken(EscalationStep::kill)) return EscalationStep::kill;  // again: the leader may have forked meanwhile
    if (taken(EscalationStep::terminate)) return std::nullopt;
    if (end == End::by_itself && grace == Duration::zero()) {
      done_ = steps_.size();
      return EscalationStep::kill;
    }
    done_ = 1;
    steps_[1].at = end == End::cut ? earlier(steps_[1].at, deadline_after(now, grace)) : deadline_after(now, grace);
    return EscalationStep::terminate;
  }

  bool taken(EscalationStep step) const noexcept { return done_ > static_cast<std::size_t>(step); }

  /// When the last step is due, or was.
  Deadline last() const noexcept { return steps_.back().at; }

 private:
  struct Step {
    EscalationStep step;
    Deadline at;
  };

  std::array<Step, 2> steps_{Step{EscalationStep::terminate, {}}, Step{EscalationStep::kill, {}}};
  std::size_t done_ = 0;
};

}}}  // namespace drover::v1::detail
