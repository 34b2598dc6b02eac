#pragma once

#include <vector>

#include <drover/error.hpp>
#include <drover/pool/detail/pool.hpp>

/// How a pool stops, and the destruction of its context or its owner.
namespace drover { inline namespace v1 { namespace detail {

inline std::vector<std::shared_ptr<WorkerSession>> PoolImpl::sessions() const {
  std::vector<std::shared_ptr<WorkerSession>> all;
  for (const Slot& slot : slots_) all.push_back(slot.session);
  all.insert(all.end(), retired_.all().begin(), retired_.all().end());
  return all;
}

inline std::vector<std::shared_ptr<WorkerSession>> PoolImpl::all_sessions() const {
  const auto held = lock();
  return sessions();
}

inline void PoolImpl::begin_stop(Timeout grace, Clock::time_point since) {
  CallQueue dropped;
  std::vector<std::shared_ptr<WorkerSession>> all;
  Cause refusal;
  {
    const auto held = lock();
    if (!std::exchange(stopping_, true)) {
      dispatcher_->refuse([] { return std::make_exception_ptr(Error(Errc::stopping, "the pool is being stopped")); });
      dropped.append(dispatcher_->take_queued_calls());
      dispatcher_->cancel_idle_timer();
      for (Slot& slot : slots_) slot.timer.reset();
    }
    refusal = dispatcher_->refusal();
    all = sessions();
  }
  for (const auto& session : all) {
    session->stop(grace);
    if (const auto cut = deadline_after(since, options_.shutdown_timeout)) session->shorten_stop(*cut);
  }
  complete_all_with_error(std::move(dropped), refusal);
}

inline std::shared_ptr<AsyncEvent> PoolImpl::drain_calls() {
  const auto held = lock();
  if (unawaited_) return unawaited_;
  unawaited_ = std::make_shared<AsyncEvent>();
  if (stopping_ || failed_) {
    unawaited_->set();
    return unawaited_;
  }
  dispatcher_->refuse([] { return std::make_exception_ptr(Error(Errc::stopping, "the pool is being stopped")); }, true);
  dispatcher_->notify_when_unawaited(unawaited_);
  return unawaited_;
}

inline void PoolImpl::on_signal(unsigned count) {
  if (count == 2) begin_stop(Duration::zero());
  if (count > 2) kill_now();
}

inline void PoolImpl::kill_now() {
  begin_stop(Duration::zero());
  for (const auto& session : all_sessions()) session->kill();
}

inline asio::awaitable<void> PoolImpl::await_stop_for_certain(std::shared_ptr<PoolImpl> pool) {
  return await_ends_for_certain(pool->all_sessions());
}

inline void PoolImpl::abort_stop() {
  begin_stop(Duration::zero());
  for (const auto& session : all_sessions()) session->abort_stop();
}

inline asio::awaitable<std::vector<StopReport>> PoolImpl::await_stop(std::shared_ptr<PoolImpl> pool, bool leaves,
                                                                     int cancellations) {
  const std::vector<std::shared_ptr<WorkerSession>> all = pool->all_sessions();
  co_await await_ends(all, leaves, cancellations);
  std::vector<StopReport> reports;
  const auto held = pool->lock();
  for (std::size_t i = 0; i < pool->slots_.size(); ++i) reports.push_back(all[i]->record().stop_report());
  co_return reports;
}

inline void PoolImpl::context_destroyed() noexcept {
  detach(
      [] { return std::make_exception_ptr(Error(Errc::connection_lost, "the io_context of the pool is destroyed")); });
}

inline void PoolImpl::detach(const Cause& gone) noexcept {
  CallQueue dropped;
  {
    const auto held = lock();
    stopping_ = true;
    if (foreign())
      for (Slot& slot : slots_) (void)slot.timer.release();
    for (Slot& slot : slots_) slot.timer.reset();
    dispatcher_->refuse_for_good(gone);
    dropped.append(dispatcher_->take_queued_calls());
  }
  complete_all_with_error(std::move(dropped), gone);
}

inline void PoolImpl::abandon() noexcept {
  if (events_.sink()) events_.sink()->close();
  detach(aborted);
  // Nobody changes the slots any more. They are not copied, because there may be no memory for that.
  for (const Slot& slot : slots_) slot.session->owner_destroyed();
  for (const auto& session : retired_.all()) session->owner_destroyed();
  dispatcher_->close();
  std::shared_ptr<ContextBound> self;
  const auto& registry = dispatcher_->registry();
  const auto registry_lock = registry->lock();
  self = registry->remove(*this);
}

}}}  // namespace drover::v1::detail
