#pragma once

#include <cerrno>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

#include <drover/os/exit_status.hpp>
#include <drover/os/fd.hpp>

// The same numbers on every architecture; older C libraries do not name them.
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

namespace drover::inline v1::detail {

/// A descriptor that stands for a process, see pidfd_open(2); close-on-exec. Empty if there is none to have: an old
/// kernel, a seccomp filter, no such process, no descriptors left.
inline UniqueFd open_pidfd(pid_t pid) noexcept {
  UniqueFd opened(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (opened.get() < 0 || opened.get() > 2) return opened;
  return UniqueFd(::fcntl(opened.get(), F_DUPFD_CLOEXEC, 3));
}

/// The system calls about one child that is not reaped yet. The caller sees to it that nothing is asked after
/// collect().
class ChildHandle {
 public:
  struct Look {
    enum class Seen { running, ended, lost } seen;  // lost: no longer our child to wait for, somebody took its status
    ExitStatus status{};
  };

  void adopt(pid_t pid) noexcept { pid_ = pid; }
  pid_t pid() const noexcept { return pid_; }

  /// False if there is no pidfd to have, or if it may be a stranger's: the child must be known after it was opened.
  bool open() noexcept {
    pidfd_ = open_pidfd(pid_);
    if (!pidfd_) return false;
    siginfo_t info{};
    if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0) return true;
    pidfd_.reset();
    return false;
  }

  int pidfd() const noexcept { return pidfd_.get(); }

  /// Leaves an ended child as a zombie.
  Look look() noexcept {
    siginfo_t info{};
    if (!wait(info, WEXITED | WNOHANG | WNOWAIT)) return {Look::Seen::lost, {}};
    if (info.si_pid == 0) return {Look::Seen::running, {}};
    return {Look::Seen::ended, to_exit_status(info)};
  }

  /// Blocks until it has ended or its status has been stolen, for use without a pidfd. It is left as a zombie.
  static void await_end(pid_t pid) noexcept {
    siginfo_t info{};
    while (::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) continue;
  }

  /// 0 or an errno. ESRCH: there was nobody left to signal.
  int send(int signo) noexcept {
    if (pidfd_) {
      if (::syscall(SYS_pidfd_send_signal, pidfd_.get(), signo, nullptr, 0) == 0) return 0;
      // Filters answer ENOSYS or EPERM; kill() tells the latter from a real refusal.
      if (errno != ENOSYS && errno != EPERM) return errno;
    }
    if (look().seen != Look::Seen::running) return ESRCH;
    return ::kill(pid_, signo) == 0 ? 0 : errno;
  }

  /// To all of its group. Only while the child is known to be there, running or a zombie: its id is then nobody else's.
  int send_group(int signo) noexcept { return ::kill(-pid_, signo) == 0 ? 0 : errno; }

  /// Takes the zombie away.
  void collect() noexcept {
    siginfo_t info{};
    wait(info, WEXITED | WNOHANG);
  }

  void close() noexcept { pidfd_.reset(); }

 private:
  bool wait(siginfo_t& info, int options) noexcept {
    for (;;) {
      // By pidfd where that works (Linux 5.4): a pid whose status was stolen may be another child's by now.
      const bool by_pidfd = pidfd_ && !by_pid_;
      const int result =
          by_pidfd ? ::waitid(static_cast<idtype_t>(3 /* P_PIDFD */), static_cast<id_t>(pidfd_.get()), &info, options)
                   : ::waitid(P_PID, static_cast<id_t>(pid_), &info, options);
      if (result == 0) return true;
      if (errno == EINVAL && by_pidfd)
        by_pid_ = true;
      else if (errno != EINTR)
        return false;
    }
  }

  pid_t pid_ = 0;
  UniqueFd pidfd_;
  bool by_pid_ = false;
};

}  // namespace drover::inline v1::detail
