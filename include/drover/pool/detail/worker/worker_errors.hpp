#pragma once

#include <exception>
#include <string>
#include <utility>

#include <drover/error.hpp>
#include <drover/os/detail/child_process.hpp>
#include <drover/os/reap.hpp>
#include <drover/os/signals.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/worker/stall_reports.hpp>
#include <drover/pool/options.hpp>
#include <drover/wire/fork_request.hpp>
#include <drover/wire/protocol.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The errors about one worker. Every text names the worker. `child` may be null where it is a pointer: no process has
/// been spawned.
class WorkerErrors {
 public:
  explicit WorkerErrors(const WorkerOptions& options) noexcept : options_(options) {}

  /// "worker 'name'"
  std::string worker() const { return "worker '" + options_.name + "'"; }
  /// "worker 'name' (pid)"
  std::string worker(const ChildProcess* child) const {
    return child ? worker() + " (" + std::to_string(child->pid()) + ")" : worker();
  }
  /// "worker 'name' (program)"
  std::string worker_and_program() const { return worker() + " (" + options_.command.program.string() + ")"; }

  /// The text begins with the name of the worker.
  Error error(Errc code, const std::string& predicate) const { return Error(code, worker() + " " + predicate); }

  Error late_start(const ChildProcess& child) const {
    return Error(Errc::start_timeout,
                 worker_and_program() + " was not ready in time" +
                     (child.stopped() ? remark(&child) : "; does its main() reach drover::serve()?"));
  }
  Error late_status(const ChildProcess* child) const {
    return error(Errc::deadline_exceeded, "did not answer status() in time" + remark(child));
  }
  Error no_control_socket() const { return error(Errc::connection_lost, "has closed its control socket"); }

  /// For operations on a worker that has exited.
  Cause exited(const ChildProcess& child) const {
    return [what = worker(&child) + " ended", status = child.exit_status()] {
      return std::make_exception_ptr(Error(Errc::worker_exited, what, status));
    };
  }

  /// The same for one that WorkerOptions::kill_stalled has ended.
  Cause killed_for_stall(const ChildProcess& child, const Stall& stall) const {
    return [what = worker(&child) + " was killed because it had stalled: " + stall_text(stall),
            status = child.exit_status()] { return std::make_exception_ptr(Error(Errc::worker_exited, what, status)); };
  }

  /// An on_start() of its routines threw.
  Error failed_hook(const StartFailure& failure) const {
    if (failure.type == cannot_fork)
      return Error(Errc::start_failed, worker_and_program() + " cannot make copies of itself: " + failure.text);
    const bool prepares = failure.type.starts_with(from_prepare);
    const std::string type = prepares ? failure.type.substr(from_prepare.size()) : failure.type;
    return Error(Errc::start_failed, worker_and_program() +
                                         " could not start: " + (prepares ? "what it prepares" : "its on_start()") +
                                         " threw " + type + (failure.text.empty() ? "" : ": " + failure.text));
  }

  /// Why it exited before HELLO.
  Error never_ready(const ReapReport& reaped) const {
    const ExitStatus& exit = reaped.exit;
    if (reaped.terminated && exit.kind != ExitStatus::Kind::exited)
      return Error(Errc::protocol_error, worker_and_program() +
                                             " closed its control socket before it was ready; does its command close "
                                             "descriptors above 2, as wrappers do?");
    std::string text = worker_and_program() + " exited before it was ready";
    if (exit.kind == ExitStatus::Kind::exited && exit.value == exit_without_descriptors)
      text +=
          ": its descriptors 3 to 5 did not reach it, or it was given others in their place; a command that is a "
          "wrapper may not close descriptors; its stderr says which are missing";
    else if (exit.kind == ExitStatus::Kind::exited && exit.value == exit_without_resources)
      text += ": it could not get a thread, a descriptor or memory that it needs; its stderr says which";
    else if (exit.kind == ExitStatus::Kind::exited && exit.value == exit_start_failed)
      text += ": its on_start() threw";
    else
      text += "; does its main() reach drover::serve()?";
    return Error(Errc::start_failed, text, exit);
  }

 private:
  /// About a process that does not answer: it may be stopped by a signal.
  static std::string remark(const ChildProcess* child) {
    const auto signo = child ? child->stopped() : std::nullopt;
    return signo ? "; its process is stopped by " + signal_name(*signo) : std::string();
  }

  const WorkerOptions& options_;
};

}}}  // namespace drover::v1::detail
