#pragma once

#include <cerrno>
#include <optional>
#include <signal.h>
#include <system_error>
#include <unistd.h>

#include <drover/exit_status.hpp>
#include <drover/os/detail/child_events.hpp>
#include <drover/os/detail/child_syscalls.hpp>
#include <drover/os/detail/escalation.hpp>
#include <drover/os/detail/group_collector.hpp>
#include <drover/os/reap.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Carries out the escalation of one child: sends what is due to the child and its group, and remembers what it has
/// sent. Guarded by the child's lock.
class EscalationDriver {
 public:
  struct Settings {
    Duration term_grace;              ///< of a reap that nobody requested, and of the rest of a cut off leader's group
    Duration group_grace;             ///< of the rest of the group, if its leader exited by itself
    std::optional<int> cut_off_code;  ///< see SpawnOptions
  };

  EscalationDriver(ChildSyscalls& handle, ChildEvents& events, const Settings& settings) noexcept
      : handle_(handle), events_(events), settings_(settings) {}
  EscalationDriver(const EscalationDriver&) = delete;
  EscalationDriver& operator=(const EscalationDriver&) = delete;

  /// As Escalation::join(): the reap begins now, unless it has begun.
  void join(const ReapPlan& plan, Clock::time_point now) noexcept {
    if (!began_) began_ = now;
    escalation_.join(plan, now);
  }
  bool join(Deadline terminate_at, Duration term_grace) noexcept {
    if (!began_) began_ = Clock::now();
    return escalation_.join(terminate_at, term_grace);
  }

  Duration term_grace() const noexcept { return settings_.term_grace; }
  Deadline next() const noexcept { return escalation_.next(); }
  Deadline last() const noexcept { return escalation_.last(); }

  /// Sends the next step to the child and its group. False if none is due.
  bool send_due(Clock::time_point now) noexcept {
    const auto step = escalation_.take_due(now);
    if (step) send(*step);
    return step.has_value();
  }

  /// Sends SIGKILL to the leader alone, which is then cut off. 0 or an errno.
  int kill_leader() noexcept {
    const int error = handle_.send(SIGKILL);
    if (error != 0 && error != ESRCH) return error;
    cut_ = true;
    return 0;
  }

  /// The leader has exited and is a zombie: no other process can have its id, nor another group the group's. Sends what
  /// is due to the rest of the group.
  void leader_exited(const ExitStatus& status, Clock::time_point now) noexcept {
    const bool code_says_cut = began_ && settings_.cut_off_code && status.kind == ExitStatus::Kind::exited &&
                               status.value == *settings_.cut_off_code;
    const bool cut = cut_ || code_says_cut;
    const auto step = escalation_.leader_ended(cut ? Escalation::End::cut : Escalation::End::by_itself,
                                               cut ? settings_.term_grace : settings_.group_grace, now);
    if (step) send_to_group(*step);
  }

  /// True once SIGKILL has been sent to the group, or to what the leader has left of it.
  bool group_killed() const noexcept { return escalation_.taken(EscalationStep::kill); }

  /// The leader has been reaped. Kills the rest of its group if that is due.
  void kill_if_due(GroupCollector& group, Clock::time_point now) noexcept {
    if (!group.hold_survivor() || !escalation_.take_due(now)) return;
    group.kill();
    killed_ = true;
    events_.add(ChildEvent::Kind::kill_sent, handle_.pid());
  }

  /// When the reap began, if it was requested.
  std::optional<Clock::time_point> began() const noexcept { return began_; }
  bool terminated() const noexcept { return terminated_; }
  bool killed() const noexcept { return killed_; }
  /// Why SIGKILL was refused, if it was.
  std::error_code refused() const noexcept { return refused_; }

 private:
  void send(EscalationStep step) noexcept {
    const pid_t pid = handle_.pid();
    if (step == EscalationStep::terminate) {
      const bool leads = ::getpgid(pid) == pid;
      send_to_group(step);
      if (!leads) {  // the leader has left its group
        handle_.send(SIGTERM);
        handle_.send(SIGCONT);
      }
      terminated_ = true;
      events_.add(ChildEvent::Kind::terminate_sent, pid);
      return;
    }
    send_to_group(step);
    // To the process itself too: it may have left its group, and only this call reports whether the signal is refused.
    const int error = handle_.send(SIGKILL);
    if (error != 0 && error != ESRCH) refused_.assign(error, std::system_category());
    killed_ = true;
    events_.add(ChildEvent::Kind::kill_sent, pid);
  }

  // The leader lives or is a zombie.
  void send_to_group(EscalationStep step) noexcept {
    if (step == EscalationStep::kill) {
      handle_.send_group(SIGKILL);
      return;
    }
    handle_.send_group(SIGTERM);
    handle_.send_group(SIGCONT);  // a suspended process handles SIGTERM only when it continues
  }

  ChildSyscalls& handle_;
  ChildEvents& events_;
  const Settings settings_;
  Escalation escalation_;
  std::optional<Clock::time_point> began_;
  bool cut_ = false;                          // by kill_leader()
  bool terminated_ = false, killed_ = false;  // by the escalation
  std::error_code refused_;
};

}}}  // namespace drover::v1::detail
