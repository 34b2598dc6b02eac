#pragma once

#include <drover/detail/platform.hpp>

#include <optional>
#include <string>
#include <sys/types.h>

#include <drover/detail/report_text.hpp>
#include <drover/exit_status.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {

/// Something that happened to a worker process, as passed to WorkerOptions::on_event.
///
/// The events of one worker arrive in the order in which they happened: `spawned` and `ready`; then either an
/// unexpected `exited`, or `stopping`, `terminate_sent` and `kill_sent` if they were needed, and an expected `exited`;
/// `reaped` is the last one. `terminate_sent` and `kill_sent` also arrive without `stopping`: after a failed start,
/// after kill_after, after a stall with kill_stalled, or after bytes that are not a message. `stopped` and `continued`
/// arrive in between, when job control or a SIGSTOP suspends the process; so does `stalled`, with WorkerOptions::stall.
/// A pool adds `restarting` before it replaces a worker that has exited, drains by itself or did not start, `replacing`
/// before it starts the successor of one that is well, `gave_up` when too many workers of a pool slot have crashed, and
/// `recovered` when a worker of that pool slot has proved itself since.
struct Event {
  enum class Kind {
    spawned,         ///< the process exists
    ready,           ///< the handshake is done, the worker takes calls
    stopping,        ///< the worker was asked to stop
    terminate_sent,  ///< SIGTERM was sent
    kill_sent,       ///< SIGKILL was sent
    exited,          ///< the process has exited; see `expected` and `exit`
    reaped,          ///< nothing of the process is left, not even a zombie
    restarting,      ///< a pool is about to start a replacement
    replacing,       ///< a pool is about to start a successor of this worker, which goes on until that is ready
    gave_up,    ///< too many workers of a pool slot have crashed; the pool tries again after RestartPolicy::max_backoff
    recovered,  ///< a worker of a given-up pool slot has answered a call, or lived for RestartPolicy::within
    fork_failed,  ///< workers are executed and not forked, or another fork server is started; see `cause`
    stopped,      ///< the signal `stopped_by` has suspended the process; reported within a second
    continued,    ///< the process runs again
    stalled       ///< the worker's main loop does not turn although it has calls; see `routine`, `age`
  };

  Kind kind{};
  std::string worker{};              ///< WorkerOptions::name
  pid_t pid{};                       ///< 0 if there is no process yet
  bool expected{};                   ///< exited: whether the exit was asked for or announced
  std::optional<ExitStatus> exit{};  ///< exited, reaped, restarting, gave_up: the exit status
  Clock::time_point at{};
  std::string cause{};              ///< fork_failed: why
  std::optional<int> stopped_by{};  ///< stopped: SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU
  /// stalled: the routine that the main thread runs. kill_sent: that of the call for which the worker is killed, by
  /// kill_after or kill_stalled. exited: that of the oldest call that the worker had. The first 100 bytes of its name.
  /// Empty if there is no such call, as in a stall whose call has ended meanwhile.
  std::string routine{};
  std::string context{};  ///< of that call, see CallOptions::context
  Duration age{};         ///< stalled: for how long the main loop has not turned, at least

  /// One line for a log: "hasher (4711): exited unexpectedly: killed by SIGSEGV".
  std::string to_string() const {
    std::string text = worker;
    if (pid != 0) text += " (" + std::to_string(pid) + ")";
    text += ": ";
    switch (kind) {
      case Kind::spawned: text += "spawned"; break;
      case Kind::ready: text += "ready"; break;
      case Kind::stopping: text += "stopping"; break;
      case Kind::terminate_sent: text += "sent SIGTERM"; break;
      case Kind::kill_sent: text += "sent SIGKILL"; break;
      case Kind::exited: text += expected ? "exited" : "exited unexpectedly"; break;
      case Kind::reaped: text += "reaped"; break;
      case Kind::restarting: text += "restarting"; break;
      case Kind::replacing: text += "replacing"; break;
      case Kind::gave_up: text += "gave up"; break;
      case Kind::recovered: text += "recovered"; break;
      case Kind::fork_failed: text += "the fork server failed: " + cause; break;
      case Kind::stopped: text += "stopped"; break;
      case Kind::continued: text += "continued"; break;
      case Kind::stalled: text += "stalled for " + detail::duration_text(age); break;
    }
    if (stopped_by) text += " by " + detail::signal_name(*stopped_by);
    if (exit) text += ": " + exit->to_string();
    if (!routine.empty()) text += " in routine '" + routine + "'";
    return text;
  }
};

}}  // namespace drover::v1
