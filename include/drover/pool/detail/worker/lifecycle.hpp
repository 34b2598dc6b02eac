#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include <drover/pool/detail/worker/exit_reason.hpp>
#include <drover/pool/detail/worker/stop_request.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The life of one worker process as the parent sees it: events in, actions out. Pure: no I/O, and the caller brings
/// the time. WorkerSession carries the actions out.
///
/// A worker has four ends, and they come in any order:
///
///     acknowledgement   STOP_REPLY: its calls have ended, and it is about to exit. It has the rest of the budget.
///     end of data       it answers no call any more. It has shutdown_grace to exit.
///     end of control    it behaves as if its parent had died, and exits. It has shutdown_grace, too.
///     exit              the process has been collected. Only this ends the worker.
///
/// Usually the sockets end just before the exit is known. What they still hold is read first, when the exit is
/// processed, because a result that was sent counts. Each end but the exit brings a time (the end of data only before a
/// stop) by which SIGTERM is sent. It may become earlier, never later. Nothing is sent to the process after its exit.
class WorkerLifecycle {
 public:
  struct Limits {
    Duration stop_margin{}, shutdown_grace{};
    /// For a worker that can never get ready.
    Duration hopeless_patience = std::chrono::milliseconds(500);
  };

  enum class State : std::uint8_t {
    created,   ///< start() has not been called
    starting,  ///< until HELLO
    ready,     ///< it takes calls
    leaving,   ///< it takes no more calls, but nobody has asked it to stop: it drains by itself, or has failed
    stopping,  ///< it was asked to stop
    exited,    ///< the exit has been processed; its calls are being completed
    answered,  ///< every call has been completed
    over       ///< and nothing of its process group is left
  };

  /// The actions that the session carries out, in the order of the members.
  struct Actions {
    bool open_calls = false;       ///< connect the data socket, and report `ready`
    bool close_calls = false;      ///< give it no further call
    bool report_stopping = false;  ///< the event `stopping`
    bool begin_stop = false;       ///< refuse new calls of a worker that stands alone
    bool send_stop = false;        ///< send STOP, with the times of stop_request()
    /// Reap the process: SIGTERM at that time if it has not exited by then; an empty Deadline: whenever it exits.
    std::optional<Deadline> reap_by{};
    bool complete_start = false;  ///< those that wait for the start
    bool complete_end = false;    ///< those that wait for the end, and the event `reaped`

    friend constexpr bool operator==(const Actions&, const Actions&) = default;
  };

  explicit WorkerLifecycle(Limits limits) noexcept : limits_(limits) {}

  // ---- events -------------------------------------------------------------------------------------------------------

  /// False if it was started before.
  bool start() noexcept {
    if (state_ != State::created) return false;
    state_ = State::starting;
    return true;
  }
  Actions spawn_failed() noexcept {
    if (has_process_ || (state_ != State::starting && state_ != State::stopping)) return {};
    state_ = State::over;
    reason_ = ExitReason::start_failed;
    return complete(true, true);
  }
  /// The process exists from now on. A stop may have come first.
  Actions spawned(Clock::time_point now) noexcept {
    Actions actions;
    has_process_ = state_ == State::starting || state_ == State::stopping;
    if (state_ == State::stopping) terminate_by(actions, now);
    return actions;
  }
  /// A HELLO that comes too late changes nothing.
  Actions hello() noexcept {
    if (state_ != State::starting || reason_ == ExitReason::start_failed) return {};
    state_ = State::ready;
    was_ready_ = true;
    Actions actions = complete(true, false);
    actions.open_calls = true;
    return actions;
  }
  /// The start deadline has passed, or the process is not a worker of this version.
  Actions start_failed(Clock::time_point now) noexcept {
    if (state_ != State::starting || reason_ == ExitReason::start_failed) return {};
    reason_ = ExitReason::start_failed;
    Actions actions;
    terminate_by(actions, now);
    return actions;
  }

  /// START_FAILED: it says that it cannot get ready, and exits by itself.
  Actions start_refused(Clock::time_point now) noexcept {
    if (state_ != State::starting || reason_ == ExitReason::start_failed) return {};
    reason_ = ExitReason::start_failed;
    Actions actions;
    terminate_by(actions, deadline_after(now, limits_.hopeless_patience));
    return actions;
  }

  /// Somebody wants it to stop. However many ask, there is one stop with one absolute budget, which later ones may only
  /// shorten. `running`: the process has not exited yet, as far as the reaper knows.
  Actions stop(Clock::time_point now, Timeout grace, bool running) noexcept {
    Actions actions;
    const bool first = !stop_.begun();
    if (!begin_stop(actions, now, running)) return actions;
    const bool shorter = stop_.allow(now, grace, limits_.stop_margin);
    if (!was_ready_)
      terminate_by(actions, now);
    else if (first || shorter)
      send_stop(actions, stop_.end_by());
    return actions;
  }
  /// A bound on the graceful part that comes from elsewhere: calls are cancelled then, and SIGTERM is sent.
  Actions shorten(Clock::time_point at) noexcept {
    Actions actions;
    if (stop_.begun() && !has_exited() && stop_.cut(at)) send_stop(actions, at);
    return actions;
  }
  /// The caller was cancelled: no more patience.
  Actions abort(Clock::time_point now, bool running) noexcept {
    Actions actions;
    if (has_exited() || !begin_stop(actions, now, running)) return actions;
    stop_.abort(now);
    send_stop(actions, now);
    return actions;
  }
  /// Its exit is wanted, but it gets no STOP: SIGTERM once `patience` is over.
  Actions reap(Clock::time_point now, Timeout patience, bool running) noexcept {
    Actions actions;
    if (has_exited() || !begin_stop(actions, now, running)) return actions;
    terminate_by(actions, was_ready_ ? deadline_after(now, patience) : Deadline(now));
    return actions;
  }

  /// STOP_REPLY.
  Actions acknowledged(Clock::time_point now) noexcept {
    Actions actions;
    stop_.acknowledged(now, limits_.shutdown_grace);
    if (stop_.end_by()) terminate_by(actions, stop_.end_by());
    return actions;
  }
  /// End of the control socket.
  Actions control_closed(Clock::time_point now) noexcept {
    Actions actions;
    if (state_ == State::created || has_exited()) return actions;
    stop_.lost(now, limits_.shutdown_grace);
    if (state_ == State::starting) {
      // Usually the process has just exited, and its status is about to arrive. If it runs on it can never get ready.
      if (reason_ != ExitReason::start_failed) terminate_by(actions, deadline_after(now, limits_.hopeless_patience));
    } else if (stop_.begun()) {
      if (stop_.end_by()) terminate_by(actions, stop_.end_by());
    } else {
      close_calls(actions);
      terminate_by(actions, deadline_after(now, limits_.shutdown_grace));
    }
    return actions;
  }
  /// End of the data socket.
  Actions data_closed(Clock::time_point now) noexcept {
    Actions actions;
    if (!serves()) return actions;
    close_calls(actions);
    if (!stop_.begun()) terminate_by(actions, deadline_after(now, limits_.shutdown_grace));
    return actions;
  }
  /// A frame for the control socket was lost. The worker can still say how it ends.
  Actions control_broken(Clock::time_point now) noexcept {
    stop_.lost(now, limits_.shutdown_grace);
    return data_broken();
  }
  /// A frame for the data socket was lost.
  Actions data_broken() noexcept {
    Actions actions;
    if (serves()) close_calls(actions);
    return actions;
  }
  /// It has sent what makes no sense, or cannot be reached any more: it is of no use.
  Actions failed(Clock::time_point now) noexcept {
    if (!serves()) return {};
    Actions actions;
    if (!stop_.begun() && !was_killed()) reason_ = ExitReason::protocol_error;
    close_calls(actions);
    terminate_by(actions, now);
    return actions;
  }
  /// DRAINING: it ends by itself.
  Actions draining() noexcept {
    if (!serves()) return {};
    Actions actions;
    if (reason_ == ExitReason::unexpected) reason_ = ExitReason::drained;
    close_calls(actions);
    return actions;
  }
  /// SIGKILL has been sent because of CallOptions::kill_after.
  Actions killed_for_call() noexcept {
    if (!serves()) return {};
    Actions actions;
    if (!was_killed()) reason_ = ExitReason::kill_after;
    close_calls(actions);
    return actions;
  }
  /// SIGKILL has been sent because of WorkerOptions::kill_stalled.
  Actions killed_for_stall() noexcept {
    if (!serves()) return {};
    Actions actions;
    if (!was_killed()) reason_ = ExitReason::stalled;
    close_calls(actions);
    return actions;
  }

  /// The process has been collected, and what its sockets held has been read.
  Actions exited() noexcept {
    if (!has_process_ || has_exited()) return {};
    state_ = State::exited;
    return {.close_calls = true};
  }
  /// Every call that it had has been completed.
  Actions calls_answered() noexcept {
    if (state_ != State::exited) return {};
    state_ = State::answered;
    return complete(true, false);
  }
  /// Nothing of its process group is left. Comes again if it came too early.
  Actions group_over() noexcept {
    if (state_ != State::answered) return {};
    state_ = State::over;
    return complete(false, true);
  }
  /// Its owner or its context is destroyed: the reaper ends the process, and nobody waits for it here.
  Actions detached(Clock::time_point now) noexcept {
    if (!has_process_ && state_ == State::starting) {
      Actions ignored;
      begin_stop(ignored, now, true);  // being spawned on another thread
    }
    Actions actions = complete(true, true);
    actions.close_calls = true;
    return actions;
  }

  // ---- what it knows ------------------------------------------------------------------------------------------------

  State state() const noexcept { return state_; }
  ExitReason exit_reason() const noexcept { return reason_; }
  bool was_ready() const noexcept { return was_ready_; }
  /// It answers status requests, and gets STOP and CANCEL.
  bool serves() const noexcept { return was_ready_ && !has_exited(); }
  bool has_exited() const noexcept { return state_ >= State::exited; }
  /// SIGKILL has been sent to it for a call or for a stall.
  bool was_killed() const noexcept { return reason_ == ExitReason::kill_after || reason_ == ExitReason::stalled; }
  /// HELLO may still come.
  bool awaits_hello() const noexcept { return state_ == State::starting && reason_ != ExitReason::start_failed; }

  const StopRequest& stop_request() const noexcept { return stop_; }

  /// Whether the exit was to be expected. `success`: with code 0.
  bool expected(bool success) const noexcept { return is_expected(reason_, success); }

 private:
  /// False if there is nothing to stop.
  bool begin_stop(Actions& actions, Clock::time_point now, bool running) noexcept {
    if (state_ == State::created) return false;
    const auto process = has_exited() ? StopRequest::Process::processed
                         : running    ? StopRequest::Process::running
                                      : StopRequest::Process::exited;
    if (stop_.begin(now, process) && !has_exited()) {
      if (running && reason_ != ExitReason::start_failed && !was_killed()) reason_ = ExitReason::stop;
      state_ = State::stopping;
      actions.close_calls = actions.begin_stop = true;
      actions.report_stopping = running;
    }
    return !has_exited();
  }
  /// Each is completed once.
  Actions complete(bool start, bool end) noexcept {
    return {.complete_start = start && !std::exchange(start_completed_, start_completed_ || start),
            .complete_end = end && !std::exchange(end_completed_, end_completed_ || end)};
  }
  void send_stop(Actions& actions, Deadline by) noexcept {
    actions.send_stop = was_ready_ && !stop_.came_late();
    terminate_by(actions, by);
  }
  void close_calls(Actions& actions) noexcept {
    actions.close_calls = true;
    if (state_ == State::ready) state_ = State::leaving;
  }
  void terminate_by(Actions& actions, Deadline by) noexcept {
    if (!has_process_ || has_exited()) return;
    if (reap_by_ && earlier(*reap_by_, by) == *reap_by_) return;
    reap_by_ = reap_by_ ? earlier(*reap_by_, by) : by;
    actions.reap_by = reap_by_;
  }

  Limits limits_;
  State state_ = State::created;
  ExitReason reason_ = ExitReason::unexpected;
  StopRequest stop_;
  bool has_process_ = false, was_ready_ = false, start_completed_ = false, end_completed_ = false;
  std::optional<Deadline> reap_by_;  // empty: no reap has begun
};

}}}  // namespace drover::v1::detail
