#pragma once

#include <cerrno>
#include <signal.h>
#include <sys/types.h>

/// kill(2) for one process or one group, and for nothing else: the ids 0 and -1, which an object without a process
/// might have, mean this program's own group and every process of the user.
namespace drover { inline namespace v1 { namespace detail {

/// True if the number can be a child's id or its group's. Process 1 is nobody's child, and -1 is no group.
constexpr bool names_a_child(pid_t id) noexcept { return id > 1; }

/// 0 or an errno; ESRCH, without a signal, if the number cannot be a child's.
inline int signal_process(pid_t pid, int signo) noexcept {
  if (!names_a_child(pid)) return ESRCH;
  return ::kill(pid, signo) == 0 ? 0 : errno;
}

/// The same for a whole process group.
inline int signal_group(pid_t group, int signo) noexcept {
  if (!names_a_child(group)) return ESRCH;
  return ::kill(-group, signo) == 0 ? 0 : errno;
}

}}}  // namespace drover::v1::detail
