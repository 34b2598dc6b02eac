#pragma once

#include <drover/os/detail/child_process.hpp>

/// The end of a process and of its group.
namespace drover { inline namespace v1 { namespace detail {

/// Does everything that is due now. Called after every event, on any thread.
inline void ChildProcess::advance(Lock lock) noexcept {
  const auto now = Clock::now();
  Deadline look_again;
  if (phase_ == Phase::running) look_again = tend_running(now);
  if (phase_ == Phase::reaped) look_again = tend_group(now);
  const bool over = phase_ == Phase::over;
  if (!over) {
    if (attended_) look_again = earlier(look_again, now + between_looks);
    entry_.arm(earlier(escalation_.next(), look_again));
  }
  if (over) lines_.close();
  const auto self = shared_from_this();
  // After SIGKILL the exit is reported only once the group is over, which takes moments: a coroutine that waits for the
  // exit then finds the group empty.
  const bool exit_final = over || (phase_ == Phase::reaped && group_->has_time());
  if (exit_final && !std::exchange(told_end_, true)) events_.add(ChildEvent::Kind::ended, pid());
  if (over && !std::exchange(told_over_, true)) {
    over_at_ = Clock::now();
    over_.store(true, std::memory_order_release);
    events_.add(ChildEvent::Kind::group_over, pid());
  }
  bool told = lines_.announced() && events_.deliver();  // the lines first
  const bool ended = told_end_;
  const bool refused = static_cast<bool>(escalation_.refused());
  if (told && (ended || refused)) {
    lock.unlock();
    told = (!ended || ended_->try_set()) && (!(over || refused) || settled_->try_set());
    if (told && over) return entry_.remove();
    lock.lock();
  }
  if (told) return;
  const Deadline try_again = now + between_tries;
  entry_.arm(over ? try_again : earlier(earlier(escalation_.next(), look_again), try_again));
}

/// Sends what is due until the process has been reaped. Returns when to look again, beside the times of the escalation.
inline Deadline ChildProcess::tend_running(Clock::time_point now) noexcept {
  // Poll once more before each step: the process may have exited in time without our having noticed.
  while (!try_collect(now)) {
    const bool sent = escalation_.send_due(now);
    const bool more_due = escalation_.next() && *escalation_.next() <= now;
    // After a signal, poll once more only for the next step, or if the descriptor that announces the exit was lost.
    if (sent && (more_due || !exit_notice_.will_come())) continue;
    if (exit_notice_.lost()) watch_again(true);
    Deadline look_again = suspension_.look(now);
    if (exit_notice_.must_poll()) look_again = earlier(look_again, now + between_polls);
    return look_again;
  }
  return std::nullopt;
}

/// Collects the process if it has exited, and returns true then.
inline bool ChildProcess::try_collect(Clock::time_point now) noexcept {
  const ChildSyscalls::ExitPoll seen = handle_.poll_exit();
  if (seen.seen == ChildSyscalls::ExitPoll::Seen::running) return false;
  const bool ours = seen.seen == ChildSyscalls::ExitPoll::Seen::ended;
  suspension_.release_terminal();
  if (ours) {
    escalation_.leader_exited(seen.status, now);  // while it is a zombie
    handle_.collect();
    status_ = seen.status;
    group_.emplace(entry_, pid(), escalation_.group_killed(), makes_siblings_ || adopts_orphans());
  }
  phase_ = ours ? Phase::reaped : Phase::over;
  handle_.close();
  // Processes that outlast the leader may still write while they have time to exit.
  if (ours && group_->has_time())
    lines_.read_rest();
  else
    lines_.close();
  reaped_.store(true, std::memory_order_release);
  return true;
}

/// The process has been reaped, the rest of its group is not over yet. Returns when to look again.
inline Deadline ChildProcess::tend_group(Clock::time_point now) noexcept {
  escalation_.kill_if_due(*group_, now);
  const Deadline look_again = group_->look(now);
  if (group_->over()) phase_ = Phase::over;
  return look_again;
}

inline ReapReport ChildProcess::report() const {
  const Lock held(mutex_);
  const LostLines lost = lines_.lost();
  ReapReport report{.exit = status_, .terminated = escalation_.terminated(), .killed = escalation_.killed()};
  report.lost_lines = lost.lines;
  report.lost_bytes = lost.bytes;
  const auto began = escalation_.began();
  if (began && told_over_ && over_at_ > *began) report.elapsed = over_at_ - *began;
  return report;
}

inline std::error_code ChildProcess::refused() const {
  const Lock held(mutex_);
  return escalation_.refused();
}

}}}  // namespace drover::v1::detail
