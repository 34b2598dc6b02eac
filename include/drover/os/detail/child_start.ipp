#pragma once

#include <drover/os/detail/child_process.hpp>
#include <drover/os/detail/spawn_mark.hpp>

/// The start of a process, the watch for its exit, and the requests of its owner.
namespace drover { inline namespace v1 { namespace detail {

inline std::shared_ptr<ChildProcess> ChildProcess::spawn(const Command& command, SpawnOptions extras) {
  ReaperThread& reaper = ReaperThread::get();
  SpawnRequest launch(command, extras.descriptors, extras.env);
  const auto child = std::make_shared<ChildProcess>(Private{}, reaper, launch, extras);
  child->id_ = reaper.add(child);
  try {
    child->start(launch, extras.is_worker);
  } catch (...) {
    child->close_readers();
    reaper.remove(child->id_);
    throw;
  }
  return child;
}

// The lock is held throughout: the program may end, and require this child to be ended, at any moment.
inline void ChildProcess::start(SpawnRequest& launch, bool is_worker) {
  const Lock held(mutex_);
  try {
    for (unsigned i = 0; i < 2; ++i) {
      if (!readers_[i]) continue;
      const auto watch = [this, i](int fd, bool on) noexcept {
        if (on && !foreign()) return reaper_.watch(fd, id_, i + 1, EPOLLIN);
        if (!foreign()) reaper_.unwatch(fd);
        return 0;
      };
      if (const int error = readers_[i]->start(watch)) throw_errno("cannot watch a process's output", error);
    }
    {
      const MarkSpawns mark(is_worker);
      handle_.adopt(launch.run());
    }
    terminal_ = launch.take_terminal();
    terminal_.hand_over(pid());
    watch_end();
    const auto now = Clock::now();
    look_again_.reset();
    look_for_stop(now);
    if (look_again_) reaper_.arm(id_, look_again_);
  } catch (...) {
    terminal_.release(pid());
    phase_ = Phase::over;
    throw;
  }
}

inline void ChildProcess::watch_end() {
  // One shot: a forked copy of the program that holds the pidfd open would otherwise keep it reporting for ever.
  if (handle_.open() && reaper_.watch(handle_.pidfd(), id_, end_channel, EPOLLIN | EPOLLONESHOT) == 0) return;
  handle_.close();
  // No pidfd is available: a thread waits. If the child's status is stolen, the wait ends as well.
  const auto undo = [this] {
    handle_.send_group(SIGKILL);
    ChildSyscalls::await_end(pid());
    handle_.collect();
  };
  try {
    const BlockAllSignals blocked;
    std::thread([self = shared_from_this()] {
      ChildSyscalls::await_end(self->pid());
      self->on_event(end_channel);
    }).detach();
    has_thread_ = true;
  } catch (const std::system_error& error) {
    undo();
    throw_errno("cannot watch a new process: neither a pidfd nor a thread is available", error.code().value());
  } catch (...) {
    undo();
    throw;
  }
}

/// Watches for the exit and for output again, after the descriptors that report them may have been lost. The lock is
/// held.
inline void ChildProcess::watch_again() noexcept {
  for (const auto& reader : readers_)
    if (reader) reader->watch_again();
  if (has_thread_) return;
  if (handle_.pidfd() < 0 || handle_.lost_pidfd()) {
    handle_.close();
    handle_.open();
  }
  blind_ = handle_.pidfd() < 0 || reaper_.watch(handle_.pidfd(), id_, end_channel, EPOLLIN | EPOLLONESHOT) != 0;
}

inline void ChildProcess::check(bool anew) noexcept {
  Lock held(mutex_);
  if (anew && phase_ == Phase::running) watch_again();
  if (anew) watched_member_ = -1;
  for (const auto& reader : readers_)
    if (reader) reader->check();
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
  Lock held(mutex_);
  if (phase_ != Phase::running) return;
  cut_ = true;
  if (const int error = handle_.send(SIGKILL); error != 0 && error != ESRCH) {
    cut_ = false;
    throw_errno("cannot kill process " + std::to_string(pid()), error);
  }
}

inline void ChildProcess::reap(const ReapPlan& plan) {
  if (foreign()) return;
  Lock held(mutex_);
  if (phase_ == Phase::over) return;
  const auto now = Clock::now();
  if (!reap_began_) reap_began_ = now;
  attended_ = true;
  escalation_.join(plan, now);
  advance(std::move(held));
}

inline void ChildProcess::reap_by(Deadline terminate_by, Duration term_grace) {
  if (foreign()) return;
  Lock held(mutex_);
  if (phase_ == Phase::over) return;
  if (!reap_began_) reap_began_ = Clock::now();
  const bool moved = escalation_.join(terminate_by, term_grace);
  if (!std::exchange(attended_, true) || moved) advance(std::move(held));
}

inline KeptPidfd ChildProcess::borrow_pidfd() noexcept {
  const Lock held(mutex_);
  if (lent_ || phase_ != Phase::running || handle_.pidfd() < 0 || handle_.lost_pidfd()) return KeptPidfd();
  KeptPidfd copy(UniqueFd(::fcntl(handle_.pidfd(), F_DUPFD_CLOEXEC, 3)), pid());
  lent_ = static_cast<bool>(copy);
  return copy;
}

inline void ChildProcess::abandon() noexcept {
  if (foreign() || over_at()) return;
  for (const auto& reader : readers_)
    if (reader) reader->silence();
  reap_now();
  const Lock held(mutex_);
  if (phase_ == Phase::running) terminal_.release(pid());
}

inline void ChildProcess::reap_now() noexcept {
  const Duration none = Duration::zero();
  reap({.patience = none, .term_grace = ProgramExit::over() ? none : term_grace_});
}

inline Clock::time_point ChildProcess::at_exit() noexcept {
  reap_now();
  const Lock held(mutex_);
  return escalation_.last().value_or(Clock::now());
}

inline void ChildProcess::on_event(unsigned channel) noexcept {
  if (channel == end_channel) {
    Lock held(mutex_);
    end_announced_ = true;
    advance(std::move(held));
  } else if (channel == member_channel) {
    advance(Lock(mutex_));
  } else {
    const auto& reader = readers_[channel - 1];
    if (!reader->read_some()) reader->close();
    if (!reader->announced()) advance(Lock(mutex_));
  }
}

}}}  // namespace drover::v1::detail
