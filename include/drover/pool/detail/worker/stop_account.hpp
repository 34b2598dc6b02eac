#pragma once

#include <cstddef>

#include <drover/error.hpp>
#include <drover/os/detail/child_process.hpp>
#include <drover/os/reap.hpp>
#include <drover/pool/detail/worker/lifecycle.hpp>
#include <drover/pool/options.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Collects the facts for the StopReport of a worker. Guarded by the dispatcher's mutex.
class StopAccount {
 public:
  /// A RESULT has come.
  void result(const StopRequest& stop, bool cancelled) noexcept {
    if (stop.begun()) ++(cancelled ? report_.cancelled : report_.drained);
  }
  /// A stop was asked for after the exit.
  void stopped_after_exit(const WorkerLifecycle& lifecycle) noexcept {
    report_.rpc = lifecycle.stop_request().result(lifecycle.was_ready(), false);
    report_.terminated = report_.killed = false;
  }
  /// The exit is processed. `cut_off`: calls in flight.
  void exited(const WorkerLifecycle& lifecycle, const ReapReport& reaped, std::size_t cut_off) noexcept {
    const StopRequest& stop = lifecycle.stop_request();
    add(reaped);
    if (!stop.begun()) return;
    report_.rpc = stop.result(lifecycle.was_ready(), reaped.terminated);
    report_.elapsed = Clock::now() - stop.begun_at();
    report_.cancelled += cut_off;
  }

  StopReport report(const WorkerLifecycle& lifecycle, const ChildProcess* child) const {
    if (!child || !child->exit_status()) return report_;
    StopAccount account = *this;
    StopReport& report = account.report_;
    const StopRequest& stop = lifecycle.stop_request();
    if (!lifecycle.has_exited()) {  // the worker's context was destroyed first
      const ReapReport reaped = child->report();
      account.add(reaped);
      report.rpc = make_error_code(Errc::connection_lost);
      report.elapsed = reaped.elapsed;
    } else if (stop.begun() && !stop.came_after_exit()) {
      const ReapReport reaped = child->report();  // what was left of its group may have been signalled since
      report.terminated = reaped.terminated;
      report.killed = reaped.killed;
      if (const auto over_at = child->over_at(); over_at && *over_at > stop.begun_at())
        report.elapsed = *over_at - stop.begun_at();
    }
    return report;
  }

 private:
  void add(const ReapReport& reaped) noexcept {
    report_.exit = reaped.exit;
    report_.terminated = reaped.terminated;
    report_.killed = reaped.killed;
    report_.lost_lines = reaped.lost_lines;
    report_.lost_bytes = reaped.lost_bytes;
  }

  StopReport report_;  // counts, as far as they are known
};

}}}  // namespace drover::v1::detail
