#pragma once

#include <exception>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include <drover/error.hpp>
#include <drover/pool/detail/worker/session.hpp>
#include <drover/pool/detail/worker/spawn_worker.hpp>

/// Start, stop and detach. Messages are in connection.ipp, the exit in worker_exit.ipp.
namespace drover { inline namespace v1 { namespace detail {

inline WorkerSession::WorkerSession(WorkerOptions options, std::shared_ptr<Dispatcher> dispatcher,
                                    std::shared_ptr<EventSink> events, std::shared_ptr<ContextStrand> to_executor,
                                    Mode mode)
    : mode_(mode),
      dispatcher_(std::move(dispatcher)),
      worker_(std::move(options), std::move(events)),
      process_events_(std::move(to_executor), worker_.events),
      connection_(*this, worker_, *dispatcher_),
      exit_(*this, worker_, connection_, *dispatcher_, process_events_) {}

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

// ---- carrying out ---------------------------------------------------------------------------------------------------

inline void WorkerSession::carry_out(const WorkerLifecycle::Actions& actions) {
  if (actions.open_calls) open_calls();
  if (actions.close_calls) connection_.close_calls();
  if (actions.report_stopping) worker_.emit(Event::Kind::stopping);
  if (actions.begin_stop && mode_.owns_dispatcher)
    dispatcher_->refuse([what = worker_.errors.worker() + " is being stopped"] {
      return std::make_exception_ptr(Error(Errc::stopping, what));
    });
  if (actions.send_stop) connection_.send_stop();
  if (actions.reap_by && worker_.child) worker_.child->reap_by(*actions.reap_by, worker_.options.term_grace);
  if (actions.complete_end && worker_.child) worker_.emit(Event::Kind::reaped, worker_.child->exit_status());
}

inline void WorkerSession::complete(const WorkerLifecycle::Actions& actions) {
  if (spawned_->is_set()) spawned_->try_set();  // memory may have been short
  if (actions.complete_start) started_->set();
  if (actions.complete_end) finished_->set();
}

/// Lets the lifecycle decide about something that a caller wants. Calls that are refused because of it are completed
/// without the mutex.
template <class Decide>
void WorkerSession::change(Decide decide) {
  CallQueue refused;
  std::vector<SharedDescriptors> dropped;  // without the mutex
  Cause refusal;
  {
    const auto held = lock();
    const WorkerLifecycle::Actions actions = decide();
    carry_out(actions);
    if (!actions.begin_stop) return;
    take_queued().swap(refused);
    refusal = dispatcher_->refusal();
    dropped = dispatcher_->take_dropped();
  }
  dropped.clear();
  complete_all_with_error(std::move(refused), refusal);
}

inline CallQueue WorkerSession::take_queued() noexcept {
  return mode_.owns_dispatcher ? dispatcher_->take_queued_calls() : CallQueue();
}

// ---- start ----------------------------------------------------------------------------------------------------------

inline void WorkerSession::start(Timeout timeout) {
  check_start_timeout(timeout);
  check(worker_.options);
  {
    const auto held = lock();
    begin_start();
  }
  spawn(timeout);
}

inline void WorkerSession::begin_start() {
  if (worker_.lifecycle.state() != State::created)
    throw std::logic_error("start() may be called once only; this worker was started before");
  if (context_destroyed_) throw Error(Errc::not_running, "the io_context of this worker is destroyed");
  worker_.lifecycle.start();
}

inline void WorkerSession::spawn(Timeout timeout) {
  struct Told {  // however it ends, without the mutex
    ~Told() { event->try_set(); }
    std::shared_ptr<AsyncEvent> event;
  } const told{spawned_};
  SpawnedWorker spawned;
  try {
    const WorkerOrigin origin{.source = source_.get(), .is_fork_server = mode_.is_fork_server};
    spawned = spawn_worker(worker_.options, worker_.slot, origin, [weak = weak_from_this()](const ChildEvent& event) {
      if (const auto session = weak.lock()) session->process_events_.handle(event, session->shared_exit());
    });
    source_.reset();
  } catch (...) {
    WorkerLifecycle::Actions actions;
    {
      const auto held = lock();
      actions = worker_.lifecycle.spawn_failed();
    }
    complete(actions);
    throw;
  }
  const auto held = lock();
  worker_.child = std::move(spawned.child);
  worker_.emit(Event::Kind::spawned);
  if (killed_) kill(*worker_.child);
  if (context_destroyed_) {  // meanwhile
    worker_.child->abandon();
    return;
  }
  carry_out(worker_.lifecycle.spawned(Clock::now()));
  try {
    if (mode_.is_fork_server) fork_server_ = std::make_shared<ForkServer>(std::move(spawned.forks), worker_.child);
    connection_.open(std::move(spawned.control), std::move(spawned.data), timeout);
  } catch (...) {  // it is there, but can't be watched
    connection_.fail_start(std::current_exception());
  }
  // The reaper thread may have reported the exit before this session knew its process.
  if (!worker_.child->running()) process_events_.exit_later(shared_exit());
}

inline void WorkerSession::start_timed_out() {
  const auto held = lock();
  connection_.start_deadline();
}

inline void WorkerSession::became_ready(const WorkerLifecycle::Actions& actions) {
  try {
    carry_out(actions);
  } catch (...) {  // no memory: the worker is ready, but is given up at once
    complete(actions);
    throw;
  }
  complete(actions);  // under the mutex, but on the worker's own context
}

inline void WorkerSession::open_calls() {
  worker_.emit(Event::Kind::ready);
  if (mode_.takes_calls) begin_calls();
  if (const auto supervision = supervision_.lock()) supervision->worker_ready(*this);
}

inline void WorkerSession::begin_calls() {
  connection_.begin_calls();
  if (mode_.owns_dispatcher) dispatcher_->refuse(nullptr);
  dispatcher_->send_queued();
}

inline void WorkerSession::take_slot(std::size_t slot, std::weak_ptr<void> place, const SlotVariables& variables) {
  place_ = std::move(place);
  connection_.take_slot(slot, variables);
  worker_.slot = slot;
  worker_.metadata->slot = slot;
  if (worker_.lifecycle.state() == State::ready) begin_calls();  // its socket may be closed by now
}

inline void WorkerSession::first_answer() {
  if (const auto supervision = supervision_.lock()) supervision->worker_answered(*this);
}

inline void WorkerSession::worn_out() {
  if (const auto supervision = supervision_.lock()) supervision->worker_worn_out(*this);
}

inline void WorkerSession::leaves() {
  if (const auto supervision = supervision_.lock()) supervision->worker_leaving(*this);
}

inline void WorkerSession::report_exit() {
  if (const auto supervision = supervision_.lock()) supervision->worker_exited(*this);
}

// ---- stop -----------------------------------------------------------------------------------------------------------

inline bool WorkerSession::stop(Timeout grace) {
  require_not_negative(grace, "the grace of stop()");
  bool started = false;
  change([&] {
    started = worker_.lifecycle.state() != State::created;
    const bool first = !worker_.lifecycle.stop_request().begun();
    const auto actions = worker_.lifecycle.stop(Clock::now(), grace, worker_.child_runs());
    if (first && worker_.child && worker_.lifecycle.stop_request().came_after_exit())
      worker_.stop_account.stopped_after_exit(worker_.lifecycle);
    return actions;
  });
  return started;
}

inline void WorkerSession::shorten_stop(Clock::time_point at) {
  change([&] { return worker_.lifecycle.shorten(at); });
}

inline void WorkerSession::abort_stop() {
  change([&] { return worker_.lifecycle.abort(Clock::now(), worker_.child_runs()); });
}

inline void WorkerSession::kill() {
  abort_stop();
  std::shared_ptr<ChildProcess> child;
  {
    const auto held = lock();
    killed_ = worker_.lifecycle.state() != State::created;
    child = worker_.child;
  }
  if (child) kill(*child);
}

inline void WorkerSession::kill(ChildProcess& child) {
  child.reap({.patience = Duration::zero(), .term_grace = Duration::zero()});
}

inline bool WorkerSession::reap(Timeout patience) {
  require_not_negative(patience, "the patience of reap()");
  bool started = false;
  change([&] {
    started = worker_.lifecycle.state() != State::created;
    return worker_.lifecycle.reap(Clock::now(), patience, worker_.child_runs());
  });
  return started;
}

// ---- figures --------------------------------------------------------------------------------------------------------

inline std::optional<WorkerFigures> WorkerSession::figures(Clock::time_point now) const {
  const auto held = lock();
  const State state = worker_.lifecycle.state();
  if (state == State::created || worker_.lifecycle.has_exited()) return std::nullopt;
  WorkerFigures figures{.slot = worker_.slot, .name = worker_.options.name, .ready = state == State::ready};
  if (worker_.child) figures.pid = worker_.metadata ? worker_.metadata->pid : worker_.child->pid();
  figures.calls = worker_.answers;
  connection_.describe_calls(figures, now);
  return figures;
}

// ---- status ---------------------------------------------------------------------------------------------------------

inline void WorkerSession::ask_status(const std::shared_ptr<StatusWaiter>& waiter) {
  const auto held = lock();
  const StopRequest& stop = worker_.lifecycle.stop_request();
  if (connection_.answers_status()) return connection_.ask_status(waiter);
  if (worker_.lifecycle.serves() && !stop.begun()) throw worker_.errors.no_control_socket();
  if (worker_.lifecycle.has_exited() && worker_.child &&
      (!stop.begun() || (stop.came_late() && !stop.came_after_exit())))
    std::rethrow_exception(worker_.exited()());
  throw worker_.errors.error(Errc::not_running, "is not running");
}

inline void WorkerSession::end_status(const std::shared_ptr<StatusWaiter>& waiter) {
  const auto held = lock();
  waiter->end_with(std::make_exception_ptr(worker_.errors.late_status(worker_.child.get())));
  connection_.probe();
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
