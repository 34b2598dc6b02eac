#pragma once

#include <drover/detail/platform.hpp>

#include <memory>
#include <optional>
#include <sys/types.h>
#include <utility>

#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/detail/context/as_async.hpp>
#include <drover/exit_status.hpp>
#include <drover/os/command.hpp>
#include <drover/os/detail/program_exit.hpp>
#include <drover/os/reap.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {
namespace detail {
class ChildProcess;
}

/// A child process that cannot be leaked: not by a cancelled coroutine, a destroyed io_context or an error.
///
/// It runs in a process group of its own, with default signal dispositions, no blocked signals, and no descriptors but
/// 0, 1 and 2. However it exits, nothing of its group is left. Processes that outlast it get SIGKILL at once, or after
/// Command::group_grace; if the reap has sent them SIGTERM, they have the rest of term_grace. Processes that left the
/// group (setsid, setpgid) are not covered.
///
/// The reaper thread collects the exit status. The program must not: if waitpid(-1) or an ignored SIGCHLD takes it
/// first, the status is ExitStatus::Kind::unknown. While a coroutine awaits wait() or reap(), its context also watches
/// the process, which uses one more descriptor.
///
/// A normal end of the program ends the process too, and then lasts until the program's processes have exited, but no
/// longer than term_grace + 1 s. An exec of the program leaves the process running without an owner: see
/// prepare_for_exec(). In a forked copy of the program destructors do nothing.
///
/// *Lifetime:* destroying the object of a running process ends the process without blocking: SIGTERM at once, SIGKILL
/// after 5 s; its lines (Stdio::lines) are discarded from then on. Moving the object disturbs no waiting coroutine. An
/// empty object, default-constructed or moved from, is not running.
/// *Threads:* any thread may call any member, but not move, assign or destroy the object at the same time.
class Process {
 public:
  Process() = default;

  /// Starts a process; returns when the program has been executed. See posix_spawn(3).
  /// *Errors:* std::system_error with the errno and a text that names the cause (ENOENT: no such program, working
  /// directory or input file; EACCES: not executable; EMFILE: no descriptors left; ECANCELED: the program is ending);
  /// std::invalid_argument for a command that no program can be given. Then nothing was started and nothing is left
  /// open.
  static Process spawn(const Command& command);

  Process(Process&&) noexcept = default;
  Process& operator=(Process&& other) noexcept {
    Process old(std::move(*this));
    child_ = std::move(other.child_);
    return *this;
  }
  ~Process();

  /// The process id; 0 if empty. Use it in messages and comparisons, not for kill(2): after the exit the number may be
  /// another process's.
  pid_t pid() const noexcept;

  /// False once the process has been reaped, which is moments after its exit.
  bool running() const noexcept;

  /// Set once the process has been reaped.
  std::optional<ExitStatus> exit_status() const;

  /// The signal that has suspended the process (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU), if it is suspended now. Asks the
  /// kernel, which does not report a suspension by itself, see wait(2).
  std::optional<int> stopped() const;

  /// Sends a signal to the process, not to its group; does nothing after its exit.
  /// *Errors:* std::system_error: EPERM if refused, EINVAL if there is no such signal.
  void signal(int signo);

  /// Waits for the process's exit, whatever is left of its group. Any number of coroutines may wait at a time.
  /// *Errors:* Error(Errc::not_running) if empty.
  /// *Cancellation:* ends this wait and nothing else.
  [[nodiscard]] asio::awaitable<ExitStatus> wait();
  /// The same for a completion token: a handler void(std::exception_ptr, ExitStatus), which is never invoked by this
  /// function and runs on its own executor, or on an asio::system_executor if it has none.
  template <class Token>
  auto async_wait(Token&& token) {
    return detail::as_async(wait(), asio::system_executor(), std::forward<Token>(token));
  }

  /// Ends the process as described by ReapPlan. The reap begins with this call and continues whatever happens to the
  /// awaitable, its context or this object. A second reap joins the first and may only shorten it; all get the same
  /// report, also later. An empty object yields an empty report at once.
  /// *Errors:* std::invalid_argument if a duration is negative. The awaitable throws std::system_error (EPERM) if
  /// SIGKILL is refused, as by a set-user-ID program; the reaper thread then still waits for the process.
  /// *Cancellation:* ends only the waiting.
  [[nodiscard]] asio::awaitable<ReapReport> reap() { return reap(ReapPlan{}); }
  [[nodiscard]] asio::awaitable<ReapReport> reap(Timeout patience) { return reap(ReapPlan{.patience = patience}); }
  [[nodiscard]] asio::awaitable<ReapReport> reap(ReapPlan plan);
  /// The same for a completion token: a handler void(std::exception_ptr, ReapReport), as with async_wait(). The reap
  /// begins at once, whatever the token.
  template <class Token>
  auto async_reap(ReapPlan plan, Token&& token) {
    return detail::as_async(reap(plan), asio::system_executor(), std::forward<Token>(token));
  }
  template <class Token>
  auto async_reap(Timeout patience, Token&& token) {
    return detail::as_async(reap(patience), asio::system_executor(), std::forward<Token>(token));
  }
  template <class Token>
  auto async_reap(Token&& token) {
    return detail::as_async(reap(), asio::system_executor(), std::forward<Token>(token));
  }

 private:
  explicit Process(std::shared_ptr<detail::ChildProcess> child) : child_(std::move(child)) {}

  std::shared_ptr<detail::ChildProcess> child_;
};

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/os/process.ipp>
#endif
