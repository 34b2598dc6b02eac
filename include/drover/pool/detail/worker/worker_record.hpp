#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include <drover/os/detail/child_process.hpp>
#include <drover/pool/detail/event_sink.hpp>
#include <drover/pool/detail/event_source.hpp>
#include <drover/pool/detail/worker/death_cause.hpp>
#include <drover/pool/detail/worker/lifecycle.hpp>
#include <drover/pool/detail/worker/stall_reports.hpp>
#include <drover/pool/detail/worker/stop_account.hpp>
#include <drover/pool/detail/worker/worker_errors.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// All knowledge about one worker. Its session and its connection share it, under the dispatcher's mutex.
struct WorkerRecord {
  WorkerRecord(WorkerOptions worker_options, std::shared_ptr<EventSink> sink)
      : options(std::move(worker_options)),
        events(std::move(sink), options.name),
        lifecycle({.stop_margin = options.stop_margin, .shutdown_grace = options.shutdown_grace}) {
    events.reserve(most_events);
  }
  WorkerRecord(const WorkerRecord&) = delete;
  WorkerRecord& operator=(const WorkerRecord&) = delete;

  bool answered_a_call() const noexcept { return answers != 0; }
  bool child_runs() const { return !child || child->running(); }
  std::optional<ExitStatus> exit_status() const { return child ? child->exit_status() : std::nullopt; }
  /// It said that it drains, and then exited with code 0.
  bool exited_gracefully() const {
    return lifecycle.exit_reason() == ExitReason::drained && exit_status().value_or(ExitStatus{}).success();
  }

  /// How it counts in WorkerDeaths. After its exit.
  DeathCause death_cause() const noexcept {
    return death_cause_of(lifecycle.exit_reason(), lifecycle.was_ready(), exit_status().value_or(ExitStatus{}));
  }

  /// For operations on it after its exit.
  Cause exited() const { return stall ? errors.killed_for_stall(*child, *stall) : errors.exited(*child); }

  StopReport stop_report() const { return stop_account.report(lifecycle, child.get()); }

  /// `call`: of what the event is about.
  void emit(Event::Kind kind, std::optional<ExitStatus> exit = std::nullopt, CallNames call = {}) {
    events.emit(kind, child ? child->pid() : 0, [&](Event& event) {
      event.routine = std::move(call.routine);
      event.context = std::move(call.context);
      event.exit = exit;
      event.expected = exit && exit_was_expected;
    });
  }

  /// Any number of these may come, and they leave the memory that was set aside to the others. Without memory for
  /// another one it is dropped.
  void emit_stalled(const Stall& found) {
    try {
      events.reserve(most_events + 1);
      events.emit(Event::Kind::stalled, child ? child->pid() : 0, [&](Event& event) {
        event.routine = found.call.routine;
        event.context = found.call.context;
        event.age = found.age;
      });
    } catch (const std::bad_alloc&) {
    }
  }

  static constexpr std::size_t most_events = 8;  // of a life: SIGKILL may be sent twice

  const WorkerOptions options;
  const WorkerErrors errors{options};
  EventSource events;
  std::size_t slot = 0;  // of the pool
  WorkerLifecycle lifecycle;
  StopAccount stop_account;
  std::shared_ptr<ChildProcess> child;     // null before the process exists
  std::optional<WorkerMetadata> metadata;  // from its HELLO
  std::exception_ptr start_failure;        // until it is thrown
  std::exception_ptr failure;              // why it was given up
  std::optional<Stall> stall;              // why it was killed, see WorkerOptions::kill_stalled
  std::uint64_t answers = 0;
  std::uint64_t wears_out_at = 0;  // number of answers; 0: never
  std::size_t rss_limit = 0;       // that it must be below when it is ready; 0: none
  bool exit_was_expected = false;
  bool cannot_fork = false;  // a fork server that has said so
};

}}}  // namespace drover::v1::detail
