#pragma once

#include <string>

#include <asio/use_awaitable.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/pool_core.hpp>

namespace drover::inline v1::detail {

inline std::shared_ptr<PoolCore> PoolCore::create(const asio::any_io_executor& executor, PoolOptions options) {
  check(options);
  auto dispatcher = Dispatcher::create(executor, options.worker, options.max_queued);
  auto events = EventSink::create(executor, options.worker.on_event);
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

inline std::shared_ptr<WorkerCore> PoolCore::make_worker() {
  auto core =
      WorkerCore::create(*executor_, options_.worker, dispatcher_, events_, {.takes_calls = true, .solo = false});
  core->supervise(weak_from_this());
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
        core = pool->make_worker();
        pool->members_.push_back({core, nullptr});
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

inline void PoolCore::worker_ready(WorkerCore&) {
  if (starting_ && ++ready_at_start_ == options_.size) start_settled_->set();
}

// ---- supervision ----------------------------------------------------------------------------------------------------

inline void PoolCore::worker_ended(WorkerCore& core) {
  const auto exit = core.exit_status();
  const bool asked_for = core.killed_for_a_call();
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
    for (std::size_t at = 0; at < members_.size(); ++at)
      if (members_[at].core.get() == &core) {
        replace(at, cause, exit, asked_for, dropped);
        break;
      }
    refusal = dispatcher_->refusal();
  }
  Dispatcher::fail(std::move(dropped), refusal);
}

inline void PoolCore::replace(std::size_t at, const std::exception_ptr& cause, std::optional<ExitStatus> exit,
                              bool asked_for, std::vector<std::shared_ptr<Call>>& dropped) {
  const bool had_given_up = supervisor_.gave_up();
  std::optional<Duration> delay = Duration::zero();
  if (!asked_for) ++crashes_;
  // That a caller has had it killed says nothing about those that follow.
  if (!asked_for || had_given_up) delay = supervisor_.died(Clock::now());
  if (!delay) {
    if (had_given_up) return;
    std::string why = "too many workers ended unasked (more than " + std::to_string(options_.restart.max_restarts) +
                      " within RestartPolicy::within), so none are started any more; the last one";
    try {
      if (cause) std::rethrow_exception(cause);
      why += " ended";
    } catch (const std::exception& error) {
      why += std::string(": ") + what_of(error);
    }
    dispatcher_->refuse([why, exit] { return std::make_exception_ptr(Error(Errc::pool_failed, why, exit)); });
    dropped = dispatcher_->drop_queue();
    emit(Event::Kind::gave_up, exit);
    return;
  }
  emit(Event::Kind::restarting, exit);
  const auto& home = dispatcher_->home();
  const auto at_home = home->lock();
  if (!executor_ || home->down()) return;
  members_[at].backoff = std::make_unique<asio::steady_timer>(*executor_, *delay);
  members_[at].backoff->async_wait([weak = weak_from_this(), at](std::error_code ec) {
    if (ec) return;
    if (const auto pool = weak.lock()) pool->start_again(at);
  });
}

inline void PoolCore::start_again(std::size_t at) {
  std::shared_ptr<WorkerCore> core, gone;
  {
    const auto held = lock();
    members_[at].backoff.reset();
    if (stopping_ || !executor_ || supervisor_.gave_up()) return;
    core = make_worker();
    core->announce_start();  // here, so that a stop that comes now finds it started
    gone = std::exchange(members_[at].core, core);
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
      replace(at, cause, std::nullopt, false, dropped);
      refusal = dispatcher_->refusal();
    }
    Dispatcher::fail(std::move(dropped), refusal);
  }
}

// ---- stop -----------------------------------------------------------------------------------------------------------

inline std::vector<std::shared_ptr<WorkerCore>> PoolCore::cores() const {
  std::vector<std::shared_ptr<WorkerCore>> all;
  for (const Member& member : members_) all.push_back(member.core);
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
      for (Member& member : members_) member.backoff.reset();
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
      for (Member& member : members_) (void)member.backoff.release();
    for (Member& member : members_) member.backoff.reset();
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

inline void PoolCore::emit(Event::Kind kind, std::optional<ExitStatus> exit) const {
  if (!events_) return;
  Event event;
  event.kind = kind;
  event.worker = options_.worker.name;
  event.exit = exit;
  events_->tell(std::move(event));
}

}  // namespace drover::inline v1::detail
