#pragma once

#include <exception>
#include <memory>
#include <utility>

#include <drover/error.hpp>
#include <drover/pool/detail/worker/session.hpp>
#include <drover/pool/detail/worker/worker_exit.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline void WorkerExit::process_exit(bool on_executor) {
  CallQueue calls;
  Cause cause;
  {
    auto held = session_.lock();
    if (worker_.lifecycle.has_exited()) {
      if (held.owns_lock()) held.unlock();
      if (!on_executor) calls_answered();  // the worker's executor may never come to it
      return group_over();
    }
    if (!worker_.child || worker_.child->running()) return;
    connection_.read_rest();
    // Everything that may need memory comes before the first change, so that all of it can be tried again.
    const Cause exited = worker_.exited();
    cause = exited;
    if (worker_.failure) cause = [failure = worker_.failure] { return failure; };
    Cause refusal = cause;
    const ReapReport reaped = worker_.child->report();
    CallNames oldest = connection_.oldest_call();
    if (!worker_.lifecycle.was_ready() && !worker_.start_failure)
      worker_.start_failure = worker_.lifecycle.stop_request().begun()
                                  ? aborted()
                                  : std::make_exception_ptr(worker_.errors.never_ready(reaped));
    session_.carry_out(worker_.lifecycle.exited());
    worker_.exit_was_expected = worker_.lifecycle.expected(reaped.exit.success());
    worker_.stop_account.exited(worker_.lifecycle, reaped, connection_.in_flight());
    connection_.end_calls(calls);
    connection_.fail_status(exited);
    if (session_.owns_dispatcher() && !worker_.lifecycle.stop_request().begun()) dispatcher_.refuse(std::move(refusal));
    worker_.emit(Event::Kind::exited, reaped.exit, std::move(oldest));
    calls.append(session_.take_queued());
    dispatcher_.cancel_idle_timer();
    connection_.close();
  }
  const bool answers_wait = dispatcher_.run_completions(false);
  complete_all_with_error(std::move(calls), cause);
  // A caller is completed before those who wait for the end.
  if (answers_wait && on_executor && process_events_.post([this, session = session_.shared_from_this()] {
        calls_answered();
        group_over();
      }))
    return;
  calls_answered();
  group_over();
}

inline void WorkerExit::calls_answered() {
  WorkerLifecycle::Actions actions;
  {
    const auto held = session_.lock();
    if (worker_.lifecycle.state() != WorkerLifecycle::State::exited) return;
    actions = worker_.lifecycle.calls_answered();
  }
  session_.complete(actions);
  session_.report_exit();
}

inline void WorkerExit::group_over() {
  WorkerLifecycle::Actions actions;
  {
    const auto held = session_.lock();
    if (!worker_.child || !worker_.child->over_at()) return;
    actions = worker_.lifecycle.group_over();
    session_.carry_out(actions);
  }
  session_.complete(actions);
}

}}}  // namespace drover::v1::detail
