#pragma once

#include <limits>
#include <new>
#include <vector>

#include <asio/error.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/worker/session.hpp>

/// The exit of a worker, and the destruction of its context or its owner.
namespace drover { inline namespace v1 { namespace detail {

inline Event::Kind reported_kind(ChildEvent::Kind kind) noexcept {
  switch (kind) {
    case ChildEvent::Kind::terminate_sent: return Event::Kind::terminate_sent;
    case ChildEvent::Kind::kill_sent: return Event::Kind::kill_sent;
    case ChildEvent::Kind::stopped: return Event::Kind::stopped;
    case ChildEvent::Kind::continued: return Event::Kind::continued;
    case ChildEvent::Kind::ended: return Event::Kind::exited;
    case ChildEvent::Kind::group_over: break;
  }
  return Event::Kind::reaped;
}

/// On any thread, under the child's lock, which comes after the mutex: so the mutex must not be taken here.
inline void WorkerSession::on_child_event(const ChildEvent& event) {
  if (event.kind == ChildEvent::Kind::ended) {
    process_exit_later();
  } else if (event.kind == ChildEvent::Kind::group_over) {
    to_executor_->post([self = shared_from_this()] { self->group_over(); });
  } else {
    events_.emit(reported_kind(event.kind), event.pid, [&](Event& reported) {
      reported.at = event.at;
      if (event.kind == ChildEvent::Kind::stopped) reported.stopped_by = event.signo;
    });
  }
}

/// On the worker's executor. Without the memory for it, again and again.
inline void WorkerSession::process_exit_later() {
  to_executor_->post([self = shared_from_this()] {
    try {
      self->process_exit(true);
    } catch (const std::bad_alloc&) {
      self->process_exit_later();
    }
  });
}

inline void WorkerSession::process_exit(bool on_executor) {
  CallQueue calls;
  Cause cause;
  {
    auto held = lock();
    if (lifecycle_.has_exited()) {
      held.unlock();
      if (!on_executor) calls_answered();  // the worker's executor may never come to it
      return group_over();
    }
    if (!child_ || child_->running()) return;
    // Results that the worker sent before its exit still count. A socket that the program has closed is not read: its
    // number may be another file by now.
    if (control_.is_intact()) control_.read(1000);
    data_.take_calls(false);
    if (lifecycle_.was_ready() && data_.is_intact()) read_results(std::numeric_limits<int>::max());
    // Everything that may need memory comes before the first change, so that all of it can be tried again.
    const Cause exited = errors_.exited(*child_);
    cause = exited;
    if (failure_) cause = [failure = failure_] { return failure; };
    Cause refusal = cause;
    const ReapReport reaped = child_->report();
    if (!lifecycle_.was_ready() && !start_failure_)
      start_failure_ =
          lifecycle_.stop_request().begun() ? aborted() : std::make_exception_ptr(errors_.never_ready(reaped));
    carry_out(lifecycle_.exited());
    exit_was_expected_ = lifecycle_.expected(reaped.exit.success());
    stop_account_.exited(lifecycle_, reaped, data_.slots().in_flight());
    end_calls(calls);
    control_.fail_status(exited);
    if (mode_.owns_dispatcher && !lifecycle_.stop_request().begun()) dispatcher_->refuse(std::move(refusal));
    emit(Event::Kind::exited, reaped.exit);
    calls.append(take_queued());
    dispatcher_->cancel_idle_timer();
    close_links();
  }
  const bool answers_wait = dispatcher_->run_completions(false);
  Dispatcher::complete_all_with_error(std::move(calls), cause);
  // A caller hears of its answer before those who wait for the end hear of that.
  if (answers_wait && on_executor && to_executor_->post([self = shared_from_this()] {
        self->calls_answered();
        self->group_over();
      }))
    return;
  calls_answered();
  group_over();
}

/// Ends the calls in flight; those in `ended` are to be completed without the mutex.
inline void WorkerSession::end_calls(CallQueue& ended) {
  dispatcher_->remove_link(data_);
  data_.slots().for_each([&](const std::shared_ptr<Call>& call) {
    if (dispatcher_->end_in_flight(*call, CallEvent::worker_ended)) ended.push(call);
  });
}

inline void WorkerSession::calls_answered() {
  WorkerLifecycle::Actions actions;
  {
    const auto held = lock();
    if (lifecycle_.state() != State::exited) return;
    actions = lifecycle_.calls_answered();
  }
  complete(actions);
  if (const auto supervision = supervision_.lock()) supervision->worker_exited(*this);
}

inline void WorkerSession::group_over() {
  WorkerLifecycle::Actions actions;
  {
    const auto held = lock();
    if (!child_ || !child_->over_at()) return;
    actions = lifecycle_.group_over();
    carry_out(actions);
  }
  complete(actions);
}

// ---- its context or its owner is destroyed --------------------------------------------------------------------------

inline void WorkerSession::close_links() noexcept {
  if (foreign()) (void)io_.release();  // a forked copy shares the parent's epoll set, which must not be touched
  io_.reset();
  control_.close(foreign());
  data_.close(foreign());
}

inline void WorkerSession::context_destroyed() noexcept {
  // It is kept as the reason why new calls fail, so it must own what it needs, without allocating now.
  detach([self = weak_from_this()] {
    const auto session = self.lock();
    return std::make_exception_ptr(
        Error(Errc::connection_lost,
              "the io_context of worker '" + (session ? session->options_.name.value() : "") + "' is destroyed"));
  });
}

inline void WorkerSession::owner_destroyed() noexcept {
  detach(aborted);
  to_executor_->close();
  std::shared_ptr<ContextBound> self;
  const auto& registry = dispatcher_->registry();
  const auto registry_lock = registry->lock();
  self = registry->remove(*this);
}

/// Hands the process to the reaper thread, and completes all pending operations with `gone`.
inline void WorkerSession::detach(const Cause& gone) noexcept {
  CallQueue calls;
  WorkerLifecycle::Actions actions;
  {
    const auto held = lock();
    context_destroyed_ = true;
    const bool starting = lifecycle_.state() != State::created && !lifecycle_.was_ready() && !lifecycle_.has_exited();
    actions = lifecycle_.detached(Clock::now());
    data_.take_calls(false);
    close_links();
    if (child_) child_->abandon();
    end_calls(calls);
    calls.append(take_queued());
    if (mode_.owns_dispatcher) dispatcher_->refuse(gone);
    if (starting && !start_failure_) start_failure_ = failure_of(gone);
    control_.fail_status(gone);
  }
  Dispatcher::complete_all_with_error(std::move(calls), gone);
  complete(actions);
}

}}}  // namespace drover::v1::detail
