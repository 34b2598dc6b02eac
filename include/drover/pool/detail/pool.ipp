#pragma once

#include <string>

#include <asio/use_awaitable.hpp>

#include <drover/detail/what_of.hpp>
#include <drover/error.hpp>
#include <drover/pool/detail/pool.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline std::shared_ptr<PoolCore> PoolCore::create(const asio::any_io_executor& executor, PoolOptions options) {
  check(options);
  auto dispatcher = Dispatcher::create(executor, options.worker, options.max_queued);
  auto events = EventSink::create(executor, options.worker.on_event.value());
  std::shared_ptr<PoolCore> pool(new PoolCore(std::move(options), std::move(dispatcher), std::move(events)));
  {
    const auto& home = pool->dispatcher_->home();
    const auto at_home = home->lock();
    if (!home->down()) {
      pool->executor_ = executor;
      home->move_in(pool);
    }
  }
  return pool;
}

inline std::shared_ptr<WorkerCore> PoolCore::make_worker(std::size_t slot) {
  constexpr std::size_t events_per_replacement = 3;  // gave_up, restarting, recovered
  if (events_) event_reserve_.grow_to(events_per_replacement * options_.size);
  auto core =
      WorkerCore::create(*executor_, options_.worker, dispatcher_, events_, {.takes_calls = true, .solo = false});
  core->supervise(weak_from_this(), slot);
  return core;
}

// ---- start ----------------------------------------------------------------------------------------------------------

inline asio::awaitable<void> PoolCore::start(std::shared_ptr<PoolCore> pool, bool leaves) {
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  bool cancelled = false;
  std::exception_ptr failure;
  const asio::any_io_executor here = co_await asio::this_coro::executor;
  try {
    for (std::size_t i = 0; i < pool->options_.size && !cancelled; ++i) {
      std::shared_ptr<WorkerCore> core;
      {
        const auto held = pool->lock();
        if (!pool->executor_) throw Error(Errc::not_running, "the io_context of this pool is gone");
        core = pool->make_worker(i);
        pool->slots_.push_back({core, nullptr, Supervisor(pool->options_.restart)});
      }
      core->begin_start(pool->options_.start_timeout);
      // A spawn takes up to a millisecond: let others have a turn in between.
      co_await asio::post(here, asio::use_awaitable);
      const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
      cancelled = state.cancelled() != asio::cancellation_type::none;
    }
    if (!cancelled) co_await AsyncEvent::wait(pool->start_settled_);
  } catch (const std::system_error& error) {
    cancelled = error.code() == asio::error::operation_aborted;
    failure = std::current_exception();
  } catch (...) {
    failure = std::current_exception();
  }
  {
    const auto held = pool->lock();
    pool->starting_ = false;
    if (!failure) failure = std::exchange(pool->start_failure_, nullptr);
  }
  if (failure || cancelled) {
    pool->abort_stop();
    try {
      co_await await_stop(pool, leaves, cancelled ? 1 : 0);
    } catch (const std::system_error&) {  // cancelled again: the reaper goes on alone
    }
  }
  co_await asio::this_coro::throw_if_cancelled(throws);
  if (cancelled) throw std::system_error(std::error_code(asio::error::operation_aborted));
  if (failure) std::rethrow_exception(failure);
}

// ---- supervision ----------------------------------------------------------------------------------------------------

inline void PoolCore::worker_ready(WorkerCore& core) {
  if (starting_) {
    if (++ready_at_start_ == options_.size) start_settled_->set();
    return;
  }
  Slot& slot = slots_[core.slot()];
  slot.down = false;
  if (!slot.supervisor.gave_up()) return;
  // Half open: it gets calls, and has to prove itself.
  if (std::exchange(failed_, false)) dispatcher_->refuse(nullptr);
  if (options_.restart.within > Duration::zero())
    start_timer(core.slot(), options_.restart.within, &PoolCore::has_lived);
}

inline void PoolCore::worker_answered(WorkerCore& core) {
  if (core.slot() >= slots_.size() || slots_[core.slot()].core.get() != &core) return;
  if (slots_[core.slot()].supervisor.proved_itself()) emit(Event::Kind::recovered, std::nullopt);
}

inline void PoolCore::has_lived(std::size_t at) {
  const auto held = lock();
  Slot& slot = slots_[at];
  slot.timer.reset();
  if (!slot.down && slot.supervisor.proved_itself()) emit(Event::Kind::recovered, std::nullopt);
}

inline void PoolCore::worker_ended(WorkerCore& core) {
  const auto exit = core.exit_status();
  const Supervisor::Death death{
      .served = core.answered_a_call(), .graceful = core.ended_gracefully(), .asked_for = core.killed_for_a_call()};
  auto cause = core.take_start_failure();
  std::vector<std::shared_ptr<Call>> dropped;
  Cause refusal;
  {
    const auto held = lock();
    if (stopping_) return;
    if (starting_) {
      if (!cause)
        cause = std::make_exception_ptr(Error(
            Errc::start_failed, "worker '" + options_.worker.name + "' ended while the others were started", exit));
      if (!start_failure_) start_failure_ = std::move(cause);
      start_settled_->set();
      return;
    }
    if (slots_[core.slot()].core.get() == &core) replace(core.slot(), cause, exit, death, dropped);
    refusal = dispatcher_->refusal();
  }
  Dispatcher::fail(std::move(dropped), refusal);
}

inline void PoolCore::replace(std::size_t at, const std::exception_ptr& cause, std::optional<ExitStatus> exit,
                              Supervisor::Death death, std::vector<std::shared_ptr<Call>>& dropped) {
  Slot& slot = slots_[at];
  if (!death.asked_for && !death.graceful) ++crashes_;
  const Supervisor::Decision decision = slot.supervisor.died(Clock::now(), death);
  if (decision.gives_up) emit(Event::Kind::gave_up, exit);
  slot.down = slot.supervisor.gave_up();
  if (slot.down) fail_if_all_are_down(cause, exit, dropped);
  emit(Event::Kind::restarting, exit);
  start_timer(at, decision.delay, &PoolCore::start_again);
}

inline void PoolCore::fail_if_all_are_down(const std::exception_ptr& cause, std::optional<ExitStatus> exit,
                                           std::vector<std::shared_ptr<Call>>& dropped) {
  if (!std::all_of(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.down; })) return;
  std::string why = "in every slot more than " + std::to_string(options_.restart.max_restarts) +
                    " workers ended within RestartPolicy::within and had answered no call; others are tried after "
                    "RestartPolicy::max_backoff; the last one";
  try {
    if (cause) std::rethrow_exception(cause);
    why += " ended";
  } catch (const std::exception& error) {
    why += std::string(": ") + what_of(error);
  }
  failed_ = true;
  dispatcher_->refuse([why, exit] { return std::make_exception_ptr(Error(Errc::pool_failed, why, exit)); });
  dropped = dispatcher_->drop_queue();
}

/// With the mutex held.
inline void PoolCore::start_timer(std::size_t at, Duration delay, void (PoolCore::*then)(std::size_t)) {
  const auto& home = dispatcher_->home();
  const auto at_home = home->lock();
  if (!executor_ || home->down()) return;
  slots_[at].timer = std::make_unique<asio::steady_timer>(
      *executor_, deadline_after(Clock::now(), delay).value_or(Clock::time_point::max()));
  slots_[at].timer->async_wait([weak = weak_from_this(), at, then](std::error_code ec) {
    if (ec) return;
    if (const auto pool = weak.lock()) (pool.get()->*then)(at);
  });
}

inline void PoolCore::start_again(std::size_t at) {
  std::shared_ptr<WorkerCore> core, gone;
  {
    const auto held = lock();
    slots_[at].timer.reset();
    if (stopping_ || !executor_) return;
    core = make_worker(at);
    core->announce_start();  // here, so that a stop that comes now finds it started
    gone = std::exchange(slots_[at].core, core);
    ++restarts_;
  }
  gone->abandon();
  try {
    core->begin_start(options_.start_timeout);
  } catch (...) {  // not even a process; as good as a death
    const auto cause = std::current_exception();
    std::vector<std::shared_ptr<Call>> dropped;
    Cause refusal;
    {
      const auto held = lock();
      if (stopping_) return;
      replace(at, cause, std::nullopt, {}, dropped);
      refusal = dispatcher_->refusal();
    }
    Dispatcher::fail(std::move(dropped), refusal);
  }
}

// ---- stop -----------------------------------------------------------------------------------------------------------

inline std::vector<std::shared_ptr<WorkerCore>> PoolCore::cores() const {
  std::vector<std::shared_ptr<WorkerCore>> all;
  for (const Slot& slot : slots_) all.push_back(slot.core);
  return all;
}

inline void PoolCore::begin_stop(Timeout grace) {
  std::vector<std::shared_ptr<Call>> dropped;
  std::vector<std::shared_ptr<WorkerCore>> all;
  Cause refusal;
  {
    const auto held = lock();
    if (!std::exchange(stopping_, true)) {
      dispatcher_->refuse([] { return std::make_exception_ptr(Error(Errc::stopping, "the pool is being stopped")); });
      dropped = dispatcher_->drop_queue();
      dispatcher_->disarm();
      for (Slot& slot : slots_) slot.timer.reset();
    }
    refusal = dispatcher_->refusal();
    all = cores();
  }
  const auto now = Clock::now();
  for (const auto& core : all) {
    core->begin_stop(grace);
    if (const auto cut = deadline_after(now, options_.shutdown_timeout)) core->cut_stop(*cut);
  }
  Dispatcher::fail(std::move(dropped), refusal);
}

inline void PoolCore::drain_calls(std::shared_ptr<AsyncEvent> when_unawaited) {
  const auto held = lock();
  if (stopping_ || failed_) return when_unawaited->set();
  dispatcher_->refuse([] { return std::make_exception_ptr(Error(Errc::stopping, "the pool is being stopped")); }, true);
  dispatcher_->notify_when_unawaited(std::move(when_unawaited));
}

inline void PoolCore::on_signal(unsigned count) {
  if (count == 2) begin_stop(Duration::zero());
  if (count > 2) kill_now();
}

inline void PoolCore::kill_now() {
  begin_stop(Duration::zero());
  std::vector<std::shared_ptr<WorkerCore>> all;
  {
    const auto held = lock();
    all = cores();
  }
  for (const auto& core : all) core->kill_now();
}

inline asio::awaitable<void> PoolCore::await_stop_for_certain(std::shared_ptr<PoolCore> pool) {
  std::vector<std::shared_ptr<WorkerCore>> all;
  {
    const auto held = pool->lock();
    all = pool->cores();
  }
  return WorkerCore::await_ends_for_certain(std::move(all));
}

inline void PoolCore::abort_stop() {
  begin_stop(Duration::zero());
  std::vector<std::shared_ptr<WorkerCore>> all;
  {
    const auto held = lock();
    all = cores();
  }
  for (const auto& core : all) core->abort_stop();
}

inline asio::awaitable<std::vector<StopReport>> PoolCore::await_stop(std::shared_ptr<PoolCore> pool, bool leaves,
                                                                     int cancellations) {
  std::vector<std::shared_ptr<WorkerCore>> all;
  {
    const auto held = pool->lock();
    all = pool->cores();
  }
  co_await WorkerCore::await_ends(all, leaves, cancellations);
  std::vector<StopReport> reports;
  for (const auto& core : all) reports.push_back(core->stop_report());
  co_return reports;
}

inline void PoolCore::evict() noexcept {
  let_go([] { return std::make_exception_ptr(Error(Errc::connection_lost, "the io_context of the pool is gone")); });
}

inline void PoolCore::let_go(const Cause& gone) noexcept {
  std::vector<std::shared_ptr<Call>> dropped;
  {
    const auto held = lock();
    stopping_ = true;
    if (foreign())
      for (Slot& slot : slots_) (void)slot.timer.release();
    for (Slot& slot : slots_) slot.timer.reset();
    executor_.reset();
    if (!dispatcher_->refusal()) dispatcher_->refuse(gone);
    dropped = dispatcher_->drop_queue();
  }
  Dispatcher::fail(std::move(dropped), gone);
}

inline void PoolCore::abandon() noexcept {
  if (events_) events_->close();
  std::vector<std::shared_ptr<WorkerCore>> all;
  let_go(aborted);
  {
    const auto held = lock();
    all = cores();
  }
  for (const auto& core : all) core->abandon();
  dispatcher_->close();
  std::shared_ptr<Resident> self;
  const auto& home = dispatcher_->home();
  const auto at_home = home->lock();
  self = home->move_out(*this);
}

// ---- what there is --------------------------------------------------------------------------------------------------

inline std::vector<WorkerMetadata> PoolCore::workers() const {
  std::vector<std::shared_ptr<WorkerCore>> all;
  {
    const auto held = lock();
    all = cores();
  }
  std::vector<WorkerMetadata> found;
  for (const auto& core : all)
    if (core->phase() == WorkerCore::Phase::ready) found.push_back(*core->metadata());
  return found;
}

inline PoolStats PoolCore::stats() const {
  PoolStats stats;
  std::vector<std::shared_ptr<WorkerCore>> all;
  {
    const auto held = lock();
    all = cores();
    stats.queued = dispatcher_->queued();
    stats.in_flight = dispatcher_->in_flight();
    stats.calls = dispatcher_->calls();
    stats.crashes = crashes_;
    stats.restarts = restarts_;
  }
  for (const auto& core : all) {
    const auto phase = core->phase();
    if (phase == WorkerCore::Phase::starting || phase == WorkerCore::Phase::ready) ++stats.workers;
    if (phase == WorkerCore::Phase::ready && !core->stop_begun()) ++stats.ready;
  }
  return stats;
}

inline void PoolCore::emit(Event::Kind kind, std::optional<ExitStatus> exit) {
  if (!events_) return;
  auto event = event_reserve_.take();
  event.front().kind = kind;
  event.front().exit = exit;
  events_->tell(std::move(event));
}

}}}  // namespace drover::v1::detail
