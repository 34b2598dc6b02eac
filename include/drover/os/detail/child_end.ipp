#pragma once

#include <drover/os/detail/child_process.hpp>

/// The end of a process and of its group.
namespace drover { inline namespace v1 { namespace detail {

/// Does everything that is due now. Called after every event, on any thread.
inline void ChildProcess::advance(Lock lock) noexcept {
  const auto now = Clock::now();
  look_again_.reset();
  if (phase_ == Phase::running) send_due_signals(now);
  if (phase_ == Phase::survivors) tend_survivors(now);
  if (phase_ == Phase::killed) look_at_group(now);
  const bool over = phase_ == Phase::over;
  if (!over) {
    if (attended_) look_again_ = earlier(look_again_, now + between_looks);
    reaper_.arm(id_, earlier(escalation_.next(), look_again_));
  }
  if (over) close_readers();
  const auto self = shared_from_this();
  // After SIGKILL the exit is reported only once the group is over, which takes moments: a coroutine that waits for the
  // exit then finds the group empty.
  if ((phase_ == Phase::survivors || over) && !std::exchange(told_end_, true)) tell(ChildEvent::Kind::ended);
  if (over && !std::exchange(told_over_, true)) {
    over_at_ = Clock::now();
    over_.store(true, std::memory_order_release);
    tell(ChildEvent::Kind::group_over);
  }
  bool told = pass_on();
  const bool ended = told_end_;
  if (told && (ended || refused_)) {
    lock.unlock();
    told = (!ended || ended_->try_set()) && (!(over || refused_) || settled_->try_set());
    if (told && over) return reaper_.remove(id_);
    lock.lock();
  }
  if (!told) reaper_.arm(id_, earlier(earlier(escalation_.next(), look_again_), now + between_tries));
}

/// Delivers pending lines and events. False if one could not be delivered because memory was short. The lock is held.
inline bool ChildProcess::pass_on() noexcept {
  bool all = true;
  for (const auto& reader : readers_)
    if (reader && !reader->announced()) all = false;
  while (all && untold_count_ != 0) {
    try {
      observer_(untold_[0]);
    } catch (...) {
      return false;
    }
    std::move(untold_.begin() + 1, untold_.end(), untold_.begin());
    --untold_count_;
  }
  return all;
}

inline void ChildProcess::send_due_signals(Clock::time_point now) noexcept {
  // Poll once more before each step: the process may have exited in time without our having noticed.
  while (!try_collect(now)) {
    const auto step = escalation_.take_due(now);
    if (!step) {
      // The exit is announced, but no status is available yet: a debugger may get it first, see ptrace(2).
      if (!end_announced_ && handle_.pidfd_was_lost()) watch_again();
      if (end_announced_ || blind_) look_again_ = now + std::chrono::milliseconds(20);
      return look_for_stop(now);
    }
    send(*step);
    // The exit will be announced, so there is no need to poll now, unless the descriptor that announces it was lost.
    if (!handle_.pidfd_was_lost() && !blind_ && (!escalation_.next() || now < *escalation_.next())) return;
  }
}

inline void ChildProcess::look_for_stop(Clock::time_point now) noexcept {
  if (!terminal_ && !observes_stops_) return;
  const std::optional<int> stopped = handle_.stopped();
  // Leave room for the other events.
  if (observes_stops_ && stopped != stopped_by_ && untold_count_ < untold_.size() / 2) {
    stopped_by_ = stopped;
    tell(stopped ? ChildEvent::Kind::stopped : ChildEvent::Kind::continued, stopped.value_or(0));
  }
  // At full seconds, so that many processes are checked in one turn.
  if (observes_stops_)
    look_again_ = earlier(look_again_, std::chrono::floor<std::chrono::seconds>(now) + std::chrono::seconds(1));
  if (!terminal_) return;
  terminal_.look(pid(), stopped);
  look_again_ = earlier(look_again_, now + ChildTerminal::between_looks);
}

/// Collects the process if it has exited, and returns true then.
inline bool ChildProcess::try_collect(Clock::time_point now) noexcept {
  const ChildSyscalls::ExitPoll seen = handle_.poll_exit();
  if (seen.seen == ChildSyscalls::ExitPoll::Seen::running) return false;
  const bool ours = seen.seen == ChildSyscalls::ExitPoll::Seen::ended;
  terminal_.release(pid());
  if (ours) {
    const bool code_says_cut = reap_began_ && cut_off_code_ && seen.status.kind == ExitStatus::Kind::exited &&
                               seen.status.value == *cut_off_code_;
    const Escalation::End end = cut_ || code_says_cut ? Escalation::End::cut : Escalation::End::by_itself;
    const auto step = escalation_.leader_ended(end, end == Escalation::End::cut ? term_grace_ : group_grace_, now);
    // While the process is a zombie, no other process can have its id, nor another group the group's.
    if (step) send_to_rest(*step);
    handle_.collect();
    status_ = seen.status;
    group_ = LeaderlessGroup(pid());
    phase_ = escalation_.taken(EscalationStep::kill) ? Phase::killed : Phase::survivors;
  } else {
    phase_ = Phase::over;
  }
  handle_.close();
  // Processes that outlast the leader may still write while they have time to exit.
  if (phase_ == Phase::survivors)
    read_rest();
  else
    close_readers();
  reaped_.store(true, std::memory_order_release);
  return true;
}

inline void ChildProcess::send(EscalationStep step) noexcept {
  if (step == EscalationStep::terminate) {
    const bool leads = ::getpgid(pid()) == pid();
    send_to_rest(step);
    if (!leads) {  // the leader has left its group
      handle_.send(SIGTERM);
      handle_.send(SIGCONT);
    }
    terminated_ = true;
    tell(ChildEvent::Kind::terminate_sent);
    return;
  }
  handle_.send_group(SIGKILL);
  // To the process itself too: it may have left its group, and only this call reports whether the signal is refused.
  const int error = handle_.send(SIGKILL);
  if (error != 0 && error != ESRCH) refused_.assign(error, std::system_category());
  killed_ = true;
  tell(ChildEvent::Kind::kill_sent);
}

/// Signals the group while the leader lives or is a zombie.
inline void ChildProcess::send_to_rest(EscalationStep step) noexcept {
  if (step == EscalationStep::kill) {
    handle_.send_group(SIGKILL);
    return;
  }
  handle_.send_group(SIGTERM);
  handle_.send_group(SIGCONT);  // a suspended process handles SIGTERM only when it continues
}

/// The rest of the group has been sent SIGTERM and has time to act on that.
inline void ChildProcess::tend_survivors(Clock::time_point now) noexcept {
  if (!group_.hold_member()) {
    phase_ = Phase::over;
    return;
  }
  if (escalation_.take_due(now)) {
    group_.kill();
    killed_ = true;
    tell(ChildEvent::Kind::kill_sent);
    phase_ = Phase::killed;
    group_looks_ = 0;  // the looks at survivors do not count
    return;
  }
  if (group_.member() >= 0 && (group_.member() == watched_member_ ||
                               reaper_.watch(group_.member(), id_, member_channel, EPOLLIN | EPOLLONESHOT) == 0)) {
    watched_member_ = group_.member();
    return;
  }
  // Without pidfds: look again, at growing intervals.
  look_again_ = now + std::chrono::milliseconds(1 << std::min(group_looks_++, 7));
}

/// The group has been sent SIGKILL. Its living processes only wait to be scheduled. Wait for that, so that a group that
/// is reported as over is over.
inline void ChildProcess::look_at_group(Clock::time_point now) noexcept {
  const auto gone = [this] {
    if (!group_exists(pid())) return true;
    if (adopts_orphans()) {
      collect_group(pid());
      if (!group_exists(pid())) return true;
    }
    if (group_looks_ >= most_group_looks) return true;
    // Scan /proc only if the quick looks were not enough.
    if (group_looks_ < 2 || group_has_living(pid())) return false;
    if (adopts_orphans()) collect_group(pid());  // members that have exited since the scan
    return true;
  };
  if (gone()) {
    phase_ = Phase::over;
    return;
  }
  look_again_ = now + std::chrono::milliseconds(1 << group_looks_++);
}

inline void ChildProcess::read_rest() noexcept {
  for (const auto& reader : readers_)
    if (reader) reader->read_rest();
}

inline void ChildProcess::close_readers() noexcept {
  read_rest();
  for (const auto& reader : readers_)
    if (reader) reader->close();
}

inline ReapReport ChildProcess::report() const {
  const Lock held(mutex_);
  ReapReport report{.exit = status_, .terminated = terminated_, .killed = killed_};
  for (const auto& reader : readers_) {
    if (!reader) continue;
    const LostLines lost = reader->lost();
    report.lost_lines += lost.lines;
    report.lost_bytes += lost.bytes;
  }
  if (reap_began_ && told_over_ && over_at_ > *reap_began_) report.elapsed = over_at_ - *reap_began_;
  return report;
}

inline std::error_code ChildProcess::refused() const {
  const Lock held(mutex_);
  return refused_;
}

}}}  // namespace drover::v1::detail
