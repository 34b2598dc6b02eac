#pragma once

#include <drover/detail/platform.hpp>

#include <memory>
#include <optional>
#include <sys/types.h>
#include <utility>

#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/exit_status.hpp>
#include <drover/os/command.hpp>
#include <drover/os/detail/program_exit.hpp>
#include <drover/os/reap.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {
namespace detail {
class ChildProcess;
}

/// A child process that can't be leaked: not by a cancelled coroutine, a destroyed io_context or an error on the way.
///
/// It runs in a process group of its own, with default signal dispositions, nothing blocked, and no descriptors but 0,
/// 1 and 2. However it ends, nothing of its group is left: what outlasts it is sent SIGKILL at once, or after
/// Command::group_grace; what the reap has sent SIGTERM has the rest of term_grace. What left the group (setsid,
/// setpgid) is not covered. drover's background thread waits for it (and the context of whoever awaits wait() or
/// reap(), which takes a descriptor more); the host must not: a status taken by somebody else (waitpid(-1), SIGCHLD
/// ignored) is told as ExitStatus::Kind::unknown.
///
/// Destroying a running one ends it: SIGTERM at once, SIGKILL after 5 s, without blocking; its lines (Stdio::lines) go
/// nowhere from then on. A normal end of the program ends it too, and then lasts until its processes are gone, but no
/// longer than term_grace + 1 s. An exec of the program leaves it running and owned by nobody: see prepare_for_exec().
/// In a forked copy of the program destructors do nothing.
///
/// Any thread may call any member, but not move, assign or destroy it meanwhile. Moving disturbs nothing that waits. An
/// empty one, default-constructed or moved from, does not run.
class Process {
 public:
  Process() = default;

  /// Returns when the program has been executed. Throws std::system_error with the errno and a text that tells what is
  /// at fault (ENOENT: no such program, working directory or input file; EACCES: not executable; EMFILE: no descriptors
  /// left), std::invalid_argument for what no program can be given. Then nothing was started and nothing is left open.
  /// Also throws, with ECANCELED, once the program is ending. See posix_spawn(3).
  static Process spawn(const Command& command);

  Process(Process&&) noexcept = default;
  Process& operator=(Process&& other) noexcept {
    Process old(std::move(*this));
    child_ = std::move(other.child_);
    return *this;
  }
  ~Process();

  /// Good for messages and for comparing, not for kill(2): once it has ended the number may be another process's. 0 if
  /// empty.
  pid_t pid() const noexcept;

  /// False once it has been reaped, which comes within moments of its end.
  bool running() const noexcept;

  /// Set once it has been reaped.
  std::optional<ExitStatus> exit_status() const;

  /// The signal that has stopped it (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU), if it is stopped now. Asks the kernel;
  /// nothing tells of a stop by itself, see wait(2).
  std::optional<int> stopped() const;

  /// Sends a signal to the process, not to its group. No-op once it has ended. Throws std::system_error: EPERM if
  /// refused, EINVAL if there is no such signal.
  void signal(int signo);

  /// Waits for its end, whatever is left of its group, any number of coroutines at a time. Cancelling ends this wait
  /// and nothing else. Throws Error(Errc::not_running) if empty.
  [[nodiscard]] asio::awaitable<ExitStatus> wait();

  /// Brings it to its end: see ReapPlan. The reap begins when this is called and goes on whatever becomes of the
  /// awaitable, of its context or of this object; cancelling ends only the waiting. A second reap joins the first and
  /// may only shorten it; all get the same report, also later. If it is empty an empty report comes at once.
  ///
  /// Throws std::invalid_argument if something is negative. The awaitable throws std::system_error (EPERM) if SIGKILL
  /// is refused, as by a set-user-ID program; it is then still waited for in the background.
  [[nodiscard]] asio::awaitable<ReapReport> reap() { return reap(ReapPlan{}); }
  [[nodiscard]] asio::awaitable<ReapReport> reap(Timeout patience) { return reap(ReapPlan{.patience = patience}); }
  [[nodiscard]] asio::awaitable<ReapReport> reap(ReapPlan plan);

 private:
  explicit Process(std::shared_ptr<detail::ChildProcess> child) : child_(std::move(child)) {}

  std::shared_ptr<detail::ChildProcess> child_;
};

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/os/process.ipp>
#endif
