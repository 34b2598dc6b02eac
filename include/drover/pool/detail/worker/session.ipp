#pragma once

#include <algorithm>
#include <stdexcept>
#include <vector>

#include <asio/execution.hpp>
#include <asio/prefer.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/worker/session.hpp>
#include <drover/pool/detail/worker/spawn_worker.hpp>

/// Start and stop. Messages are in session_messages.ipp, the exit in session_exit.ipp.
namespace drover { inline namespace v1 { namespace detail {

inline WorkerSession::Io::Io(const asio::any_io_executor& executor)
    : work(asio::prefer(executor, asio::execution::outstanding_work.tracked)),
      start_timer(executor),
      exit_timer(executor) {}

inline WorkerSession::WorkerSession(WorkerOptions options, std::shared_ptr<Dispatcher> dispatcher,
                                    std::shared_ptr<EventSink> events, std::shared_ptr<ContextStrand> to_executor,
                                    Mode mode)
    : options_(std::move(options)),
      mode_(mode),
      dispatcher_(std::move(dispatcher)),
      errors_(options_),
      events_(std::move(events), options_.name),
      to_executor_(std::move(to_executor)),
      lifecycle_({.stop_margin = options_.stop_margin, .shutdown_grace = options_.shutdown_grace}),
      control_(*this, *this, errors_),
      data_(*this, *this, options_.max_in_flight) {
  events_.reserve(most_events);
}

inline std::shared_ptr<WorkerSession> WorkerSession::create(const asio::any_io_executor& executor,
                                                            WorkerOptions options,
                                                            std::shared_ptr<Dispatcher> dispatcher,
                                                            std::shared_ptr<EventSink> events, Mode mode) {
  std::shared_ptr<WorkerSession> session(new WorkerSession(std::move(options), std::move(dispatcher), std::move(events),
                                                           ContextStrand::create(executor), mode));
  const auto& registry = session->dispatcher_->registry();
  const auto registry_lock = registry->lock();
  if (registry->closed())
    session->context_destroyed_ = true;
  else
    registry->add(session);
  return session;
}

inline WorkerSession::~WorkerSession() { close_links(); }

// ---- carrying out ---------------------------------------------------------------------------------------------------

inline void WorkerSession::carry_out(const WorkerLifecycle::Actions& actions) {
  if (actions.open_calls) open_calls();
  if (actions.close_calls) data_.take_calls(false);
  if (actions.report_stopping) emit(Event::Kind::stopping);
  if (actions.begin_stop && mode_.owns_dispatcher)
    dispatcher_->refuse([what = errors_.worker() + " is being stopped"] {
      return std::make_exception_ptr(Error(Errc::stopping, what));
    });
  if (actions.send_stop) send_stop();
  if (actions.reap_by && child_) child_->reap_by(*actions.reap_by, options_.term_grace);
  if (actions.complete_end && child_) emit(Event::Kind::reaped, child_->exit_status());
}

/// The rest of it, without the mutex: a coroutine that is resumed, or destroyed, may own the worker.
inline void WorkerSession::complete(const WorkerLifecycle::Actions& actions) {
  if (actions.complete_start) started_->set();
  if (actions.complete_end) finished_->set();
}

/// Lets the lifecycle decide about something that a caller wants. Calls that are refused because of it are completed
/// without the mutex.
template <class Decide>
void WorkerSession::change(Decide decide) {
  CallQueue refused;
  Cause refusal;
  {
    const auto held = lock();
    const WorkerLifecycle::Actions actions = decide();
    carry_out(actions);
    if (!actions.begin_stop) return;
    take_queued().swap(refused);
    refusal = dispatcher_->refusal();
  }
  Dispatcher::complete_all_with_error(std::move(refused), refusal);
}

/// If nobody else could take them.
inline CallQueue WorkerSession::take_queued() noexcept {
  return mode_.owns_dispatcher ? dispatcher_->take_queued_calls() : CallQueue();
}

// ---- start ----------------------------------------------------------------------------------------------------------

inline void WorkerSession::start(Timeout timeout) {
  check_start_timeout(timeout);
  check(options_);
  {
    const auto held = lock();
    begin_start();
  }
  spawn(timeout);
}

inline void WorkerSession::begin_start() {
  if (lifecycle_.state() != State::created)
    throw std::logic_error("start() may be called once only; this worker was started before");
  if (context_destroyed_) throw Error(Errc::not_running, "the io_context of this worker is destroyed");
  lifecycle_.start();
}

inline void WorkerSession::spawn(Timeout timeout) {
  SpawnedWorker spawned;
  try {
    spawned = spawn_worker(options_, [weak = weak_from_this()](const ChildEvent& event) {
      if (const auto session = weak.lock()) session->on_child_event(event);
    });
  } catch (...) {
    WorkerLifecycle::Actions actions;
    {
      const auto held = lock();
      actions = lifecycle_.spawn_failed();
    }
    complete(actions);
    throw;
  }
  const auto held = lock();
  child_ = std::move(spawned.child);
  emit(Event::Kind::spawned);
  if (context_destroyed_) {  // meanwhile
    child_->abandon();
    return;
  }
  carry_out(lifecycle_.spawned(Clock::now()));
  try {
    connect(std::move(spawned.control), std::move(spawned.data), timeout);
  } catch (...) {  // it is there, but can't be watched
    fail_start(std::current_exception());
  }
  // The reaper thread may have reported the exit before this session knew its process.
  if (!child_->running()) process_exit_later();
}

inline void WorkerSession::connect(UniqueFd control, UniqueFd data, Timeout timeout) {
  const auto& registry = dispatcher_->registry();
  const auto registry_lock = registry->lock();
  control_.open(std::move(control), child_->pid());
  data_.open(std::move(data), std::max(options_.max_message_size, least_max_body));
  const auto executor = dispatcher_->executor();
  if (!executor || registry->closed()) return;
  io_ = std::make_unique<Io>(*executor);
  start_by_ = deadline_after(Clock::now(), timeout);
  if (start_by_) after(io_->start_timer, *start_by_, [](WorkerSession& session) { session.start_deadline(); });
  data_.attach(*executor);  // now, so that a failure is one of the start
  control_.watch(*executor);
}

/// Calls `then` with this session, under the mutex, unless the timer is cancelled or set anew.
template <class Then>
void WorkerSession::after(asio::steady_timer& timer, Clock::time_point at, Then then) {
  timer.expires_at(at);
  timer.async_wait([weak = weak_from_this(), then = std::move(then)](std::error_code ec) {
    const auto session = ec ? nullptr : weak.lock();
    if (!session) return;
    const auto held = session->lock();
    then(*session);
  });
}

inline void WorkerSession::start_timed_out() {
  const auto held = lock();
  start_deadline();
}

inline void WorkerSession::start_deadline() {
  if (!lifecycle_.awaits_hello()) return;
  control_.read(16);  // before it is declared late: this process may have been the one that slept
  if (lifecycle_.awaits_hello()) fail_start(std::make_exception_ptr(errors_.late_start(*child_)));
}

inline void WorkerSession::fail_start(std::exception_ptr failure) {
  if (!lifecycle_.awaits_hello()) return;
  start_failure_ = std::move(failure);
  carry_out(lifecycle_.start_failed(Clock::now()));
}

inline bool WorkerSession::hello(const Frame& frame) {
  if (!lifecycle_.awaits_hello()) return false;  // it was asked to end before it was ready
  metadata_ = control_.handshake().metadata(frame, options_, child_->pid());
  if (io_) io_->start_timer.cancel();
  const auto actions = lifecycle_.hello();
  try {
    carry_out(actions);
  } catch (...) {  // no memory: the worker is ready, but is given up at once
    complete(actions);
    throw;
  }
  complete(actions);  // under the mutex, but on the worker's own context
  return true;
}

inline void WorkerSession::open_calls() {
  emit(Event::Kind::ready);
  if (mode_.takes_calls) {
    data_.take_calls(child_->running());  // what waits is not for one that has exited already
    dispatcher_->add_link(data_);
    if (io_) data_.begin_reading();
    if (mode_.owns_dispatcher) dispatcher_->refuse(nullptr);
    dispatcher_->send_queued();
  }
  if (const auto supervision = supervision_.lock()) supervision->worker_ready(*this);
}

// ---- stop -----------------------------------------------------------------------------------------------------------

inline bool WorkerSession::stop(Timeout grace) {
  require_not_negative(grace, "the grace of stop()");
  bool started = false;
  change([&] {
    started = lifecycle_.state() != State::created;
    const bool first = !lifecycle_.stop_request().begun();
    const auto actions = lifecycle_.stop(Clock::now(), grace, child_runs());
    if (first && child_ && lifecycle_.stop_request().came_after_exit()) stop_account_.stopped_after_exit(lifecycle_);
    return actions;
  });
  return started;
}

inline void WorkerSession::shorten_stop(Clock::time_point at) {
  change([&] { return lifecycle_.shorten(at); });
}

inline void WorkerSession::abort_stop() {
  change([&] { return lifecycle_.abort(Clock::now(), child_runs()); });
}

inline void WorkerSession::kill() {
  abort_stop();
  const auto child = this->child();
  if (child) child->reap({.patience = Duration::zero(), .term_grace = Duration::zero()});
}

inline bool WorkerSession::reap(Timeout patience) {
  require_not_negative(patience, "the patience of reap()");
  bool started = false;
  change([&] {
    started = lifecycle_.state() != State::created;
    return lifecycle_.reap(Clock::now(), patience, child_runs());
  });
  return started;
}

inline void WorkerSession::send_stop() {
  const auto nanoseconds = [](Deadline at) {
    return at ? std::chrono::duration_cast<std::chrono::nanoseconds>(at->time_since_epoch()).count() : never;
  };
  const StopRequest& stop = lifecycle_.stop_request();
  StopBody body;
  body.drain_until = nanoseconds(stop.drain_until());
  // One whose stop was cut short still has the time between SIGTERM and SIGKILL, for its calls to clean up.
  const Deadline end_by = stop.end_by();
  body.end_by = nanoseconds(end_by && stop.was_cut_short() ? deadline_after(*end_by, options_.term_grace) : end_by);
  control_.send_stop(body, data_.slots().last_id());
}

// ---- status ---------------------------------------------------------------------------------------------------------

inline void WorkerSession::ask_status(const std::shared_ptr<StatusWaiter>& waiter) {
  const auto held = lock();
  const StopRequest& stop = lifecycle_.stop_request();
  if (lifecycle_.serves() && control_.is_open()) return control_.ask_status(waiter);
  if (lifecycle_.serves() && !stop.begun()) throw errors_.no_control_socket();
  if (lifecycle_.has_exited() && child_ && (!stop.begun() || (stop.came_late() && !stop.came_after_exit())))
    std::rethrow_exception(errors_.exited(*child_)());
  throw errors_.error(Errc::not_running, "is not running");
}

inline void WorkerSession::end_status(const std::shared_ptr<StatusWaiter>& waiter) {
  const auto held = lock();
  waiter->end_with(std::make_exception_ptr(errors_.late_status(child_.get())));
  control_.probe();
}

// ---- events ---------------------------------------------------------------------------------------------------------

inline void WorkerSession::emit(Event::Kind kind, std::optional<ExitStatus> exit) {
  events_.emit(kind, child_ ? child_->pid() : 0, [&](Event& event) {
    event.exit = exit;
    event.expected = exit && exit_was_expected_;
  });
}

}}}  // namespace drover::v1::detail
