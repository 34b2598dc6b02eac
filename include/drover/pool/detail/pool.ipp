#pragma once

#include <algorithm>
#include <string>

#include <asio/use_awaitable.hpp>

#include <drover/detail/what_of.hpp>
#include <drover/error.hpp>
#include <drover/pool/detail/pool.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline std::shared_ptr<PoolImpl> PoolImpl::create(const asio::any_io_executor& executor, PoolOptions options) {
  check(options);
  options.worker.spin = options.spin = std::max(options.spin, options.worker.spin);
  auto dispatcher = Dispatcher::create(executor, options.worker, options.max_queued);
  dispatcher->record_times();
  auto events = EventSink::create(executor, options.worker.on_event.value());
  std::shared_ptr<PoolImpl> pool(new PoolImpl(std::move(options), std::move(dispatcher), std::move(events)));
  {
    const auto& registry = pool->dispatcher_->registry();
    const auto registry_lock = registry->lock();
    if (!registry->closed()) registry->add(pool);
  }
  return pool;
}

inline std::shared_ptr<WorkerSession> PoolImpl::make_worker(std::size_t slot) {
  constexpr std::size_t events_per_replacement = 3;  // gave_up, restarting, recovered
  events_.reserve(events_per_replacement * options_.size);
  const auto executor = dispatcher_->executor();
  if (!executor) throw Error(Errc::not_running, "the io_context of this pool is destroyed");
  auto session = WorkerSession::create(*executor, options_.worker, dispatcher_, events_.sink(),
                                       {.takes_calls = true, .owns_dispatcher = false});
  session->supervise(weak_from_this(), slot);
  return session;
}

// ---- start ----------------------------------------------------------------------------------------------------------

inline bool PoolImpl::start_first(std::size_t slot) {
  std::shared_ptr<WorkerSession> session;
  {
    const auto held = lock();
    if (first_start_.failed()) return false;
    session = make_worker(slot);
    slots_.push_back({session, nullptr, Supervisor(options_.restart)});
  }
  session->start(options_.start_timeout);
  return true;
}

inline std::shared_ptr<AsyncEvent> PoolImpl::await_start_room() {
  const auto held = lock();
  return first_start_.await_room(slots_.size());
}

inline std::exception_ptr PoolImpl::end_start() {
  const auto held = lock();
  return first_start_.end();
}

inline asio::awaitable<void> start_pool(std::shared_ptr<PoolImpl> pool, bool leaves) {
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  bool cancelled = false;
  std::exception_ptr failure;
  const asio::any_io_executor here = co_await asio::this_coro::executor;
  try {
    for (std::size_t i = 0; i < pool->options().size && !cancelled; ++i) {
      for (auto room = pool->await_start_room(); room; room = pool->await_start_room()) co_await AsyncEvent::wait(room);
      if (!pool->start_first(i)) break;
      // A spawn takes up to a millisecond. Other handlers run in between.
      co_await asio::post(here, asio::use_awaitable);
      const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
      cancelled = state.cancelled() != asio::cancellation_type::none;
    }
    if (!cancelled) co_await AsyncEvent::wait(pool->start_settled());
  } catch (const std::system_error& error) {
    cancelled = error.code() == asio::error::operation_aborted;
    failure = std::current_exception();
  } catch (...) {
    failure = std::current_exception();
  }
  const std::exception_ptr of_a_worker = pool->end_start();
  if (!failure) failure = of_a_worker;
  if (failure || cancelled) {
    pool->abort_stop();
    try {
      co_await PoolImpl::await_stop(pool, leaves, cancelled ? 1 : 0);
    } catch (const std::system_error&) {  // cancelled again: the reaper thread goes on alone
    }
  }
  co_await asio::this_coro::throw_if_cancelled(throws);
  if (cancelled) throw std::system_error(std::error_code(asio::error::operation_aborted));
  if (failure) std::rethrow_exception(failure);
}

// ---- supervision ----------------------------------------------------------------------------------------------------

inline void PoolImpl::worker_ready(WorkerSession& session) {
  if (first_start_.under_way()) return first_start_.one_is_ready();
  Slot& slot = slots_[session.slot()];
  start_is_over(slot);
  slot.down = false;
  if (!slot.supervisor.gave_up()) return;
  // Half-open: it gets calls, and has to prove itself.
  if (std::exchange(failed_, false) && !unawaited_) dispatcher_->refuse(nullptr);
  if (options_.restart.within > Duration::zero())
    start_timer(session.slot(), options_.restart.within, &PoolImpl::has_lived);
}

inline void PoolImpl::worker_answered(WorkerSession& session) {
  if (session.slot() >= slots_.size() || slots_[session.slot()].session.get() != &session) return;
  if (slots_[session.slot()].supervisor.proved_itself()) emit(Event::Kind::recovered, std::nullopt);
}

inline void PoolImpl::has_lived(std::size_t at) {
  const auto held = lock();
  Slot& slot = slots_[at];  // its timer may be another one by now
  if (!slot.down && slot.supervisor.proved_itself()) emit(Event::Kind::recovered, std::nullopt);
}

inline void PoolImpl::worker_exited(WorkerSession& session) {
  auto cause = session.take_start_failure();
  CallQueue dropped;
  Cause refusal;
  {
    const auto held = lock();
    if (stopping_) return;
    const WorkerRecord& worker = session.record();
    const auto exit = worker.exit_status();
    const Supervisor::Death death{.served = worker.answered_a_call,
                                  .graceful = worker.exited_gracefully(),
                                  .asked_for = worker.lifecycle.exit_reason() == ExitReason::kill_after};
    if (first_start_.under_way()) {
      if (!cause)
        cause = std::make_exception_ptr(Error(
            Errc::start_failed, "worker '" + options_.worker.name + "' exited while the others were started", exit));
      return first_start_.one_failed(std::move(cause));
    }
    count_death(deaths_, worker.death_cause());
    Slot& slot = slots_[session.slot()];
    if (slot.session.get() == &session) start_is_over(slot);
    if (slot.session.get() == &session && !slot.successor_due)
      replace(session.slot(), cause, exit, death, dropped);
    else if (!death.graceful && !death.asked_for)
      ++crashes_;  // of one that was draining
    if (slot.session.get() != &session)
      start_successor(session.slot(), dropped);  // its worker may have waited for this exit
    refusal = dispatcher_->refusal();
  }
  complete_all_with_error(std::move(dropped), refusal);
}

/// A worker that drains keeps its calls, and its slot gets another worker at once. One such predecessor a slot: a
/// worker that says that it drains, and does not, must not make the pool grow without bound.
inline void PoolImpl::worker_leaving(WorkerSession& session) {
  if (stopping_ || first_start_.under_way() || slots_[session.slot()].session.get() != &session) return;
  CallQueue dropped;
  start_successor(session.slot(), dropped);
}

inline void PoolImpl::start_successor(std::size_t at, CallQueue& dropped) {
  Slot& slot = slots_[at];
  const auto drains = [](const WorkerSession& session) {
    const WorkerLifecycle& life = session.record().lifecycle;
    return life.exit_reason() == ExitReason::drained && !life.has_exited();
  };
  if (slot.successor_due || slot.supervisor.gave_up() || !drains(*slot.session) || retired_.runs_in(at)) return;
  slot.successor_due = true;
  replace(at, nullptr, std::nullopt, {.served = slot.session->record().answered_a_call, .graceful = true}, dropped);
}

inline void PoolImpl::replace(std::size_t at, const std::exception_ptr& cause, std::optional<ExitStatus> exit,
                              Supervisor::Death death, CallQueue& dropped) {
  Slot& slot = slots_[at];
  if (!death.asked_for && !death.graceful) ++crashes_;
  const Supervisor::Decision decision = slot.supervisor.died(Clock::now(), death);
  if (decision.gives_up) emit(Event::Kind::gave_up, exit);
  slot.down = slot.supervisor.gave_up();
  if (slot.down) fail_if_all_are_down(cause, exit, dropped);
  emit(Event::Kind::restarting, exit);
  start_timer(at, decision.delay, &PoolImpl::start_again);
}

inline std::string all_are_down_text(const RestartPolicy& restart, const std::exception_ptr& cause) {
  std::string why = "in every slot more than " + std::to_string(restart.max_restarts) +
                    " workers ended within RestartPolicy::within and had answered no call; others are tried after "
                    "RestartPolicy::max_backoff; the last one";
  try {
    if (cause) std::rethrow_exception(cause);
    return why + " ended";
  } catch (const std::exception& error) {
    return why + ": " + what_of(error);
  }
}

inline void PoolImpl::fail_if_all_are_down(const std::exception_ptr& cause, std::optional<ExitStatus> exit,
                                           CallQueue& dropped) {
  if (!std::all_of(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.down; })) return;
  const std::string why = all_are_down_text(options_.restart, cause);
  failed_ = true;
  dispatcher_->refuse([why, exit] { return std::make_exception_ptr(Error(Errc::pool_failed, why, exit)); });
  dropped.append(dispatcher_->take_queued_calls());
}

/// With the mutex held.
inline void PoolImpl::start_timer(std::size_t at, Duration delay, void (PoolImpl::*then)(std::size_t)) {
  executor_.after(slots_[at].timer, delay, [weak = weak_from_this(), at, then] {
    if (const auto pool = weak.lock()) (pool.get()->*then)(at);
  });
}

inline void PoolImpl::start_again(std::size_t at) {
  {
    const auto held = lock();
    slots_[at].timer.reset();
    if (stopping_ || !starts_.begin(at)) return;
  }
  launch(at);
}

/// With the mutex held. Starts the next worker that waits for it, after other handlers have run. If there is no memory
/// for that, the end of the next start tries again.
inline void PoolImpl::give_turn() noexcept {
  const bool posted = executor_.try_post([weak = weak_from_this()] {
    if (const auto pool = weak.lock()) pool->start_next();
  });
  if (!posted) starts_.forgo_turn();
}

inline void PoolImpl::start_next() {
  std::optional<std::size_t> next;
  {
    const auto held = lock();
    next = starts_.next();
    if (stopping_) return;
  }
  if (next) launch(*next);
}

/// With the mutex held.
inline void PoolImpl::start_is_over(Slot& slot) noexcept {
  if (std::exchange(slot.starting, false) && starts_.settled()) give_turn();
}

/// A failure before there is a process counts as a death.
inline void PoolImpl::launch(std::size_t at) {
  try {
    if (const auto session = retire(at)) session->spawn(options_.start_timeout);
  } catch (...) {
    const auto cause = std::current_exception();
    CallQueue dropped;
    Cause refusal;
    {
      const auto held = lock();
      start_is_over(slots_[at]);
      if (stopping_) return;
      count_death(deaths_, DeathCause::failed_start);
      replace(at, cause, std::nullopt, {}, dropped);
      refusal = dispatcher_->refusal();
    }
    complete_all_with_error(std::move(dropped), refusal);
  }
}

/// Puts a new worker into the slot, for which a process is to be spawned. Null during a stop.
inline std::shared_ptr<WorkerSession> PoolImpl::retire(std::size_t at) {
  RetiredWorkers::Sessions over;
  std::shared_ptr<WorkerSession> session;
  {
    const auto held = lock();
    slots_[at].starting = true;
    give_turn();
    if (stopping_) return nullptr;
    retired_.reserve(over);
    session = make_worker(at);
    session->begin_start();  // under the mutex: a stop that comes now finds it started
    retired_.add(std::exchange(slots_[at].session, session));
    slots_[at].successor_due = false;
    retired_.take_over(over);
    ++restarts_;
  }
  for (const auto& retired : over) retired->owner_destroyed();
  return session;
}

// ---- state ----------------------------------------------------------------------------------------------------------

inline std::vector<WorkerMetadata> PoolImpl::workers() const {
  std::vector<WorkerMetadata> found;
  for (const auto& session : all_sessions())
    if (session->lifecycle().state() == WorkerSession::State::ready) found.push_back(*session->metadata());
  return found;
}

inline void PoolImpl::emit(Event::Kind kind, std::optional<ExitStatus> exit) {
  events_.emit(kind, 0, [&](Event& event) { event.exit = exit; });
}

}}}  // namespace drover::v1::detail
