#pragma once

#include <drover/detail/platform.hpp>

#include <optional>
#include <string>
#include <sys/types.h>

#include <drover/exit_status.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {

/// Something that happened to a worker process, as told to WorkerOptions::on_event.
///
/// Events of one worker come in the order in which they happened: spawned, ready, then either an unexpected `exited` or
/// `stopping`, `terminate_sent` and `kill_sent` if they were needed, and an expected `exited`; `reaped` last. The two
/// signals also come without `stopping`: after a start that failed, kill_after, or bytes that are no message.
/// `stopped` and `continued` come in between, for a process that job control or somebody's SIGSTOP suspends. A pool
/// adds `restarting` before it replaces a worker, `gave_up` when too many workers of a slot have died, and `recovered`
/// when one has proved itself since.
struct Event {
  enum class Kind {
    spawned,         ///< the process exists
    ready,           ///< its handshake is done, it takes calls
    stopping,        ///< it was asked to end
    terminate_sent,  ///< SIGTERM was sent
    kill_sent,       ///< SIGKILL was sent
    exited,          ///< it has ended; see `expected` and `exit`
    reaped,          ///< nothing of it is left, a zombie neither
    restarting,      ///< a pool is about to start another in its place
    gave_up,    ///< too many workers of a pool's slot have died; it is tried again after RestartPolicy::max_backoff
    recovered,  ///< a worker of a slot that was given up has answered a call, or lived for RestartPolicy::within
    stopped,    ///< the process does not run, because of the signal `stopped_by`; seen within a second
    continued   ///< the process runs again
  };

  Kind kind{};
  std::string worker{};              ///< WorkerOptions::name
  pid_t pid{};                       ///< 0 where there is none yet
  bool expected{};                   ///< exited: was it asked to?
  std::optional<ExitStatus> exit{};  ///< exited, reaped, restarting, gave_up: how it ended
  std::optional<int> stopped_by{};   ///< stopped: SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU
  Clock::time_point at{};

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
      case Kind::gave_up: text += "gave up"; break;
      case Kind::recovered: text += "recovered"; break;
      case Kind::stopped: text += "stopped"; break;
      case Kind::continued: text += "continued"; break;
    }
    if (stopped_by) text += " by " + detail::signal_name(*stopped_by);
    if (exit) text += ": " + exit->to_string();
    return text;
  }
};

}}  // namespace drover::v1
