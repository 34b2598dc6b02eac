#pragma once

#include <drover/os/detail/child_process.hpp>
#include <drover/os/detail/spawn_mark.hpp>

/// The start of a process, the watch for its exit, and the requests of its owner.
namespace drover { inline namespace v1 { namespace detail {

inline std::shared_ptr<ChildProcess> ChildProcess::spawn(const Command& command, SpawnOptions extras) {
  ReaperThread& reaper = ReaperThread::get();
  SpawnRequest launch(command, extras.descriptors, extras.env);
  const auto child = std::make_shared<ChildProcess>(Private{}, reaper, launch, extras);
  // From the registration on, the end of the program or prepare_for_exec() on another thread may require that this
  // child is ended. Those threads wait for the lock, until there is a process to signal or the start has failed.
  const Lock held(child->mutex_);
  child->entry_.add(child);
  try {
    child->start(launch, extras);
  } catch (...) {
    child->forget_start();
    throw;
  }
  return child;
}

/// The lock is held.
inline void ChildProcess::start(SpawnRequest& launch, const SpawnOptions& extras) {
  lines_.start();
  const std::optional<pid_t> made = extras.source != nullptr ? extras.source->start(launch) : std::nullopt;
  if (made) {
    handle_.adopt(*made);
  } else {
    const MarkSpawns mark(extras.is_worker);
    handle_.adopt(launch.run());
  }
  suspension_.hand_over(launch.take_terminal());
  if (!exit_notice_.watch_pidfd()) exit_notice_.wait_in_thread(shared_from_this());
  if (const Deadline look_again = suspension_.look(Clock::now())) entry_.arm(look_again);
}

/// The start has failed. A thread that waits for the lock finds nothing to do: there is no process, and no exit is
/// reported. The lock is held.
inline void ChildProcess::forget_start() noexcept {
  suspension_.release_terminal();
  phase_ = Phase::over;
  told_end_ = told_over_ = true;
  lines_.close();
  entry_.remove();
}

/// Watches for output again, and for the exit if the process is `running`, after the descriptors that report them may
/// have been lost. Survivors of the group write on. The lock is held.
inline void ChildProcess::watch_again(bool running) noexcept {
  lines_.watch_again();
  if (running) exit_notice_.watch_again();
}

inline void ChildProcess::check(bool anew) noexcept {
  Lock held(mutex_);
  if (anew && phase_ != Phase::over) watch_again(phase_ == Phase::running);
  lines_.check();
  advance(std::move(held));
}

inline std::optional<int> ChildProcess::stopped() const {
  if (foreign()) return std::nullopt;
  const Lock held(mutex_);
  return phase_ == Phase::running ? handle_.stopped() : std::nullopt;
}

inline void ChildProcess::signal(int signo) {
  if (foreign()) return;
  const Lock held(mutex_);
  if (phase_ != Phase::running) return;
  const int error = handle_.send(signo);
  if (error != 0 && error != ESRCH)
    throw_errno("cannot send " + signal_name(signo) + " to process " + std::to_string(pid()), error);
}

inline void ChildProcess::kill_leader() {
  if (foreign()) return;
  const Lock held(mutex_);
  if (phase_ != Phase::running) return;
  if (const int error = escalation_.kill_leader()) throw_errno("cannot kill process " + std::to_string(pid()), error);
}

inline void ChildProcess::reap(const ReapPlan& plan) {
  if (foreign()) return;
  Lock held(mutex_);
  if (phase_ == Phase::over) return;
  attended_ = true;
  escalation_.join(plan, Clock::now());
  advance(std::move(held));
}

inline void ChildProcess::reap_by(Deadline terminate_by, Duration term_grace) {
  if (foreign()) return;
  Lock held(mutex_);
  if (phase_ == Phase::over) return;
  const bool moved = escalation_.join(terminate_by, term_grace);
  if (!std::exchange(attended_, true) || moved) advance(std::move(held));
}

inline void ChildProcess::abandon() noexcept {
  if (foreign() || over_at()) return;
  lines_.silence();
  reap_now();
  const Lock held(mutex_);
  if (phase_ == Phase::running) suspension_.release_terminal();
}

inline void ChildProcess::reap_now() noexcept {
  const Duration none = Duration::zero();
  reap({.patience = none, .term_grace = ProgramExit::over() ? none : escalation_.term_grace()});
}

inline Clock::time_point ChildProcess::at_exit() noexcept {
  reap_now();
  const Lock held(mutex_);
  return escalation_.last().value_or(Clock::now());
}

inline void ChildProcess::on_event(unsigned channel) noexcept {
  if (channel == ReaperEntry::exit_channel) {
    Lock held(mutex_);
    exit_notice_.announce();
    advance(std::move(held));
  } else if (channel == ReaperEntry::member_channel) {
    advance(Lock(mutex_));
  } else if (!lines_.on_readable(channel)) {
    advance(Lock(mutex_));
  }
}

}}}  // namespace drover::v1::detail
