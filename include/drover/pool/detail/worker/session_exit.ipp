#pragma once

#include <limits>
#include <new>
#include <vector>

#include <asio/error.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/worker/session.hpp>

/// The exit of a worker, and the destruction of its context or its owner.
namespace drover { inline namespace v1 { namespace detail {

inline void WorkerSession::process_exit(bool on_executor) {
  CallQueue calls;
  Cause cause;
  {
    auto held = lock();
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
    carry_out(worker_.lifecycle.exited());
    worker_.exit_was_expected = worker_.lifecycle.expected(reaped.exit.success());
    worker_.stop_account.exited(worker_.lifecycle, reaped, connection_.in_flight());
    connection_.end_calls(calls);
    connection_.fail_status(exited);
    if (mode_.owns_dispatcher && !worker_.lifecycle.stop_request().begun()) dispatcher_->refuse(std::move(refusal));
    worker_.emit(Event::Kind::exited, reaped.exit, std::move(oldest));
    calls.append(take_queued());
    dispatcher_->cancel_idle_timer();
    connection_.close();
  }
  const bool answers_wait = dispatcher_->run_completions(false);
  complete_all_with_error(std::move(calls), cause);
  // A caller is completed before those who wait for the end.
  if (answers_wait && on_executor && process_events_.post([self = shared_from_this()] {
        self->calls_answered();
        self->group_over();
      }))
    return;
  calls_answered();
  group_over();
}

inline void WorkerSession::calls_answered() {
  WorkerLifecycle::Actions actions;
  {
    const auto held = lock();
    if (worker_.lifecycle.state() != State::exited) return;
    actions = worker_.lifecycle.calls_answered();
  }
  complete(actions);
  if (const auto supervision = supervision_.lock()) supervision->worker_exited(*this);
}

inline void WorkerSession::group_over() {
  WorkerLifecycle::Actions actions;
  {
    const auto held = lock();
    if (!worker_.child || !worker_.child->over_at()) return;
    actions = worker_.lifecycle.group_over();
    carry_out(actions);
  }
  complete(actions);
}

// ---- its context or its owner is destroyed --------------------------------------------------------------------------

inline void WorkerSession::context_destroyed() noexcept {
  // It is kept as the reason why new calls fail, so it must own what it needs, without allocating now.
  detach([self = weak_from_this()] {
    const auto session = self.lock();
    return std::make_exception_ptr(
        Error(Errc::connection_lost,
              "the io_context of worker '" + (session ? session->options().name.value() : "") + "' is destroyed"));
  });
}

inline void WorkerSession::owner_destroyed() noexcept {
  detach(aborted);
  process_events_.close();
  std::shared_ptr<ContextBound> self;
  const auto& registry = dispatcher_->registry();
  const auto registry_lock = registry->lock();
  self = registry->remove(*this);
}

/// Hands the process to the reaper thread, and completes all pending operations with `gone`.
inline void WorkerSession::detach(const Cause& gone) noexcept {
  CallQueue calls;
  std::vector<SharedDescriptors> dropped;  // without the mutex
  WorkerLifecycle::Actions actions;
  {
    const auto held = lock();
    context_destroyed_ = true;
    const bool starting = worker_.lifecycle.state() != State::created && !worker_.lifecycle.was_ready() &&
                          !worker_.lifecycle.has_exited();
    actions = worker_.lifecycle.detached(Clock::now());
    connection_.close_calls();
    connection_.close();
    if (worker_.child) worker_.child->abandon();
    connection_.end_calls(calls);
    calls.append(take_queued());
    if (mode_.owns_dispatcher) dispatcher_->refuse(gone);
    if (starting && !worker_.start_failure) worker_.start_failure = failure_of(gone);
    connection_.fail_status(gone);
    dropped = dispatcher_->take_dropped();
  }
  dropped.clear();
  complete_all_with_error(std::move(calls), gone);
  complete(actions);
}

}}}  // namespace drover::v1::detail
