#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

#include <drover/os/life_lock.hpp>
#include <drover/os/signals.hpp>
#include <drover/worker/detail/shared_state.hpp>

/// What a worker needs, beside the parent's pidfd and the control socket that ControlThread watches, to notice its
/// parent's death; and how the rest of its process group is killed after that.
namespace drover { inline namespace v1 { namespace detail {

/// Wakes a worker that SIGSTOP has suspended when its parent dies, so that it notices. The kernel sends this signal
/// when the *thread* that started the worker exits, see PR_SET_PDEATHSIG(2const), so it must be a signal that is
/// harmless when early.
inline void wake_when_parent_dies() noexcept { ::prctl(PR_SET_PDEATHSIG, SIGCONT); }

/// For kernels without pidfds: a thread waits for the parent's record lock.
inline void watch_lock(WorkerState& state) {
  const BlockAllSignals blocked;
  std::thread([&state] {
    if (!wait_for_life_lock(state.lock.get())) return;  // the end of the control socket is still watched
    state.parent_ended.store(true);
    state.control_wakeup.notify();
  }).detach();
}

namespace group_end {

/// The body of the copy that kills the group. It uses raw system calls only, since it shares nothing with the threads
/// of the worker and may have been copied in the middle of any operation.
[[noreturn]] inline void run(pid_t worker, pid_t group) noexcept {
  // Requests SIGTERM for when the thread that made this copy dies: the control thread, which lives as long as the
  // process. SIGTERM is sent again if the worker's last threads die one after another. Signals are blocked here, so it
  // stays pending.
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

/// There is no parent to clean up after this worker. So from now on its group ends with it, however it exits. If the
/// worker killed its own group, its exit status would be lost. Instead a copy of this process in the same group waits
/// for the worker's exit and then kills the group. The group's id cannot be reused meanwhile, since the copy is in the
/// group. Called on the control thread.
inline void end_group_with_this_process() noexcept {
  const pid_t worker = ::getpid();
  if (::getpgrp() != worker || worker <= 1) return;  // kill(-1) would reach every process
#if defined(__s390__) || defined(__s390x__) || defined(__CRIS__)
  const long copy = ::syscall(SYS_clone, nullptr, 0ul);
#else
  // No termination signal: the worker's own waitpid() cannot see such a child, see __WCLONE in wait(2).
  const long copy = ::syscall(SYS_clone, 0ul, nullptr, nullptr, nullptr, nullptr);
#endif
  if (copy == 0) group_end::run(worker, worker);
}

}}}  // namespace drover::v1::detail
