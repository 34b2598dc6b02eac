#pragma once

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <optional>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

#include <drover/exit_status.hpp>
#include <drover/os/detail/send_signal.hpp>
#include <drover/os/fd.hpp>

// The same numbers on every architecture; older C libraries do not define them.
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

namespace drover { inline namespace v1 { namespace detail {

/// A descriptor that refers to a process, see pidfd_open(2); close-on-exec. Empty if none is available: an old kernel,
/// a seccomp filter, no such process, no descriptors left.
inline UniqueFd open_pidfd(pid_t pid) noexcept {
  UniqueFd opened(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (opened.get() < 0 || opened.get() > 2) return opened;
  return UniqueFd(::fcntl(opened.get(), F_DUPFD_CLOEXEC, 3));
}

/// Since Linux 6.9 each process has an inode that all its pidfds share, and nothing else has that inode.
inline bool pidfds_have_inodes(int pidfd) noexcept {
  static std::atomic<int> known{-1};
  int answer = known.load(std::memory_order_relaxed);
  if (answer < 0) {
    struct statfs status{};
    if (::fstatfs(pidfd, &status) != 0) return false;
    answer = static_cast<unsigned long>(status.f_type) == 0x50494446 /* PID_FS_MAGIC */ ? 1 : 0;
    known.store(answer, std::memory_order_relaxed);
  }
  return answer != 0;
}

/// The process that a pidfd refers to, according to the kernel: -1 if it has been reaped, 0 if `fd` is not a pidfd or
/// /proc is missing.
inline pid_t pid_of_pidfd(int fd) noexcept {
  char path[48];
  std::snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
  char text[512];
  const ssize_t size = file ? ::read(file.get(), text, sizeof text - 1) : -1;
  if (size <= 0) return 0;
  text[size] = '\0';
  const char* const line = std::strstr(text, "\nPid:");
  return line != nullptr ? static_cast<pid_t>(std::strtol(line + 5, nullptr, 10)) : 0;
}

/// A pidfd that is kept across calls. Its number may have become another process's pidfd, which must never be
/// signalled.
class KeptPidfd {
 public:
  /// likely: on an old kernel, where all pidfds look the same; then only names_process() is certain.
  enum class Standing { lost, likely, proved };

  KeptPidfd() noexcept = default;
  KeptPidfd(UniqueFd fd, pid_t pid) noexcept : fd_(std::move(fd)), pid_(pid) {
    unique_ = fd_ && pidfds_have_inodes(fd_.get());
  }
  KeptPidfd(KeptPidfd&&) noexcept = default;
  KeptPidfd& operator=(KeptPidfd&& other) noexcept {
    reset();
    fd_ = std::move(other.fd_);
    pid_ = other.pid_;
    unique_ = other.unique_;
    return *this;
  }
  ~KeptPidfd() { reset(); }

  int get() const noexcept { return fd_.get(); }
  explicit operator bool() const noexcept { return static_cast<bool>(fd_); }

  Standing standing() const noexcept {
    if (!fd_.ours()) return Standing::lost;
    return unique_ ? Standing::proved : Standing::likely;
  }
  bool names_process() const noexcept {
    const Standing now = standing();
    return now == Standing::proved || (now == Standing::likely && pid_of_pidfd(fd_.get()) == pid_);
  }

  /// 0 or an errno. Call it only while names_process().
  int send(int signo) const noexcept {
    return ::syscall(SYS_pidfd_send_signal, fd_.get(), signo, nullptr, 0) == 0 ? 0 : errno;
  }

  /// Closes the pidfd if it is still the one that was opened.
  void reset() noexcept {
    if (!fd_) return;
    if (standing() == Standing::likely)
      if (const pid_t named = pid_of_pidfd(fd_.get()); named != pid_ && named != -1) return fd_.forget();
    fd_.reset();
  }
  /// Closes a pidfd that is known to be the one that was opened.
  void reset_proved() noexcept { fd_.close(); }

 private:
  KeptFd fd_;
  pid_t pid_ = 0;
  bool unique_ = false;
};

/// The system calls about one child that has not been reaped. The caller requests nothing about the process after
/// collect().
class ChildSyscalls {
 public:
  struct ExitPoll {
    enum class Seen { running, ended, lost } seen;  // lost: not our child any more, its status was collected elsewhere
    ExitStatus status{};
  };

  void adopt(pid_t pid) noexcept { pid_ = pid; }
  pid_t pid() const noexcept { return pid_; }

  /// False if no pidfd is available, or if it may be another process's: the child must still exist after it was opened.
  bool open() noexcept {
    pidfd_ = KeptPidfd(open_pidfd(pid_), pid_);
    if (!pidfd_) return false;
    siginfo_t info{};
    if (wait(P_PID, pid_, info, WEXITED | WNOHANG | WNOWAIT) == 0) return true;
    close();
    return false;
  }

  int pidfd() const noexcept { return pidfd_.get(); }
  /// The pidfd was closed, or its number is another file's now.
  bool lost_pidfd() const noexcept { return pidfd_ && pidfd_.standing() == KeptPidfd::Standing::lost; }
  /// As lost_pidfd(), at the time of the last poll_exit().
  bool pidfd_was_lost() const noexcept { return pidfd_ && seen_ == KeptPidfd::Standing::lost; }
  /// Leaves an exited child as a zombie. Only ECHILD means that its status was stolen; other errors mean nothing.
  ExitPoll poll_exit() noexcept {
    siginfo_t info{};
    seen_ = pidfd_.standing();
    const bool proved = seen_ == KeptPidfd::Standing::proved;
    if (seen_ != KeptPidfd::Standing::lost && !by_pid_) {
      // By pidfd where that works: the pid of a child whose status was stolen may be another child's by now.
      const int error = wait(static_cast<idtype_t>(3 /* P_PIDFD */), pidfd_.get(), info, WEXITED | WNOHANG | WNOWAIT);
      pidfd_ended_ = error == 0 && info.si_pid == pid_;
      if (pidfd_ended_) return {ExitPoll::Seen::ended, to_exit_status(info)};
      if (error == 0 && proved) return {ExitPoll::Seen::running, {}};
      if (error == ECHILD && pidfd_.names_process()) return {ExitPoll::Seen::lost, {}};
      if (error == EINVAL) by_pid_ = true;  // before Linux 5.4
    }
    info.si_pid = 0;
    const int error = wait(P_PID, pid_, info, WEXITED | WNOHANG | WNOWAIT);
    if (error == ECHILD) return {ExitPoll::Seen::lost, {}};
    if (error != 0 || info.si_pid == 0) return {ExitPoll::Seen::running, {}};
    return {ExitPoll::Seen::ended, to_exit_status(info)};
  }

  /// Blocks until the process has exited or its status has been stolen, for use without a pidfd. Leaves a zombie.
  static void await_end(pid_t pid) noexcept {
    siginfo_t info{};
    (void)wait(P_PID, pid, info, WEXITED | WNOWAIT);
  }

  /// The signal that has suspended the process, if it is suspended now.
  std::optional<int> stopped() const noexcept {
    siginfo_t info{};
    if (wait(P_PID, pid_, info, WSTOPPED | WNOHANG | WNOWAIT) != 0 || info.si_pid != pid_) return std::nullopt;
    return info.si_status;
  }

  /// 0 or an errno. ESRCH: there was no process left to signal.
  int send(int signo) noexcept {
    // An error from a filter or a lost descriptor says nothing about the process; kill() reports a real refusal.
    if (pidfd_.names_process())
      if (const int error = pidfd_.send(signo); error == 0 || error == ESRCH) return error;
    if (poll_exit().seen != ExitPoll::Seen::running) return ESRCH;
    return signal_process(pid_, signo);
  }

  /// Signals the whole group. Call it only while the child exists, running or as a zombie: no other process has its id
  /// then.
  int send_group(int signo) noexcept { return signal_group(pid_, signo); }

  /// Collects the zombie that poll_exit() has seen.
  void collect() noexcept {
    siginfo_t info{};
    // Only ECHILD means that there is nothing to collect; another error must not leave a zombie.
    for (int tries = 0; tries < 10; ++tries)
      if (const int error = wait(P_PID, pid_, info, WEXITED | WNOHANG); error == 0 || error == ECHILD) return;
  }

  void close() noexcept { pidfd_ended_ ? pidfd_.reset_proved() : pidfd_.reset(); }

 private:
  /// 0 or an errno.
  static int wait(idtype_t type, int id, siginfo_t& info, int options) noexcept {
    while (::waitid(type, static_cast<id_t>(id), &info, options) != 0)
      if (errno != EINTR) return errno;
    return 0;
  }

  pid_t pid_ = 0;
  KeptPidfd pidfd_;
  bool by_pid_ = false;
  KeptPidfd::Standing seen_{};
  bool pidfd_ended_ = false;  // the last poll_exit() used the pidfd and saw the exit
};

}}}  // namespace drover::v1::detail
