#pragma once

#include <signal.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <drover/os/detail/child_syscalls.hpp>
#include <drover/os/detail/process_figures.hpp>
#include <drover/os/fd.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// True if `ancestor` started `pid`, directly or through wrappers that fork (tracers, debuggers, sandboxes). Follows
/// the chain of parents. If one of them has exited, the process group decides: `ancestor` leads a group of its own,
/// which a process of another session cannot join, see setpgid(2).
inline bool descends_from(pid_t pid, pid_t ancestor) noexcept {
  if (pid <= 0) return false;
  if (::getpgid(pid) == ancestor) return true;
  constexpr int deepest = 64;
  pid_t at = pid;
  for (int depth = 0; depth < deepest && at > 1; ++depth) {
    if (at == ancestor) return true;
    at = parent_of(at).value_or(0);
  }
  return false;
}

/// Sends SIGKILL to a process that `ancestor` has started. Opens the pidfd first and then checks the lineage, so that
/// another process which got the id is not hit. Does nothing without pidfds.
inline void kill_descendant(pid_t pid, pid_t ancestor) noexcept {
  const UniqueFd process = open_pidfd(pid);
  if (process && descends_from(pid, ancestor)) ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0);
}

}}}  // namespace drover::v1::detail
