#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

#include <drover/os/life_lock.hpp>
#include <drover/os/signals.hpp>
#include <drover/worker/detail/shared_state.hpp>

/// How a worker learns of its parent's death, and what it leaves behind after it.
namespace drover { inline namespace v1 { namespace detail {

/// A worker that is stopped by SIGSTOP when its parent dies wakes up to see it. The kernel sends this signal when the
/// *thread* dies that started the worker, see PR_SET_PDEATHSIG(2const), so it must be one that harms nothing if it is
/// early.
inline void wake_when_parent_dies() noexcept { ::prctl(PR_SET_PDEATHSIG, SIGCONT); }

/// Where there are no pidfds: a thread waits for the parent's record lock.
inline void watch_lock(WorkerState& state) {
  const BlockAllSignals blocked;
  std::thread([&state] {
    if (!wait_for_life_lock(state.lock.get())) return;  // the end of the control socket is still watched
    state.parent_ended.store(true);
    state.control_wakeup.notify();
  }).detach();
}

namespace group_end {

/// The body of the copy that ends the group: raw system calls only, as it shares nothing with the threads of the worker
/// and may have been copied in the middle of anything.
[[noreturn]] inline void run(pid_t worker, pid_t group) noexcept {
  // SIGTERM once the thread that made this copy has died: that is the control thread, which lives as long as the
  // process. It is sent again if the worker's last threads die one after another. Signals are blocked here, so it is
  // kept.
  ::syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
#ifdef SYS_close_range
  long closed = ::syscall(SYS_close_range, 0u, ~0u, 0u);
#else
  long closed = -1;
#endif
  for (int fd = 0; closed != 0 && fd < 4096; ++fd) ::syscall(SYS_close, fd);
  const unsigned long term = 1ul << (SIGTERM - 1);
  while (::syscall(SYS_getppid) == worker) ::syscall(SYS_rt_sigtimedwait, &term, nullptr, nullptr, sizeof term);
  ::syscall(SYS_kill, -group, SIGKILL);
  for (;;) ::syscall(SYS_exit_group, 0);
}

}  // namespace group_end

/// Nobody is left to clean up behind this worker, so from now on its group ends with it, however it ends. Killing the
/// own group would take the worker's exit status along; a copy of this process in the same group, which waits for the
/// worker's end, does not. The group's id can't be reused meanwhile, as the copy is in it. Called on the control
/// thread.
inline void end_group_with_this_process() noexcept {
  const pid_t worker = ::getpid();
  if (::getpgrp() != worker) return;
#if defined(__s390__) || defined(__s390x__) || defined(__CRIS__)
  const long copy = ::syscall(SYS_clone, nullptr, 0ul);
#else
  // No termination signal: the copy is no child that the worker's own waitpid() could see, see __WCLONE in wait(2).
  const long copy = ::syscall(SYS_clone, 0ul, nullptr, nullptr, nullptr, nullptr);
#endif
  if (copy == 0) group_end::run(worker, worker);
}

}}}  // namespace drover::v1::detail
