#pragma once

#include <vector>

#include <drover/error.hpp>
#include <drover/pool/detail/pool.hpp>

/// How a pool stops, and the destruction of its context or its owner.
namespace drover { inline namespace v1 { namespace detail {

/// With the mutex held.
inline PoolSlots::Sessions sessions_of(const PoolSlots& slots) {
  PoolSlots::Sessions all;
  slots.for_each([&](const auto& session, PoolSlots::Role) { all.push_back(session); });
  return all;
}

inline PoolSlots::Sessions PoolImpl::all_sessions() const {
  const auto held = lock();
  return sessions_of(*slots_);
}

inline std::exception_ptr pool_stops() {
  return std::make_exception_ptr(Error(Errc::stopping, "the pool is being stopped"));
}

inline void PoolImpl::begin_stop(Timeout grace, Clock::time_point since) {
  CallQueue dropped;
  std::vector<SharedDescriptors> descriptors;  // without the mutex
  PoolSlots::Sessions all;
  Cause refusal;
  {
    const auto held = lock();
    if (slots_->stop_starting(pool_stops)) {
      dispatcher_->refuse(pool_stops);
      dropped.append(dispatcher_->take_queued_calls());
      dispatcher_->cancel_idle_timer();
    }
    refusal = dispatcher_->refusal();
    descriptors = dispatcher_->take_dropped();
    all = sessions_of(*slots_);
  }
  for (const auto& session : all) {
    session->stop(session->is_fork_server() ? Timeout(Duration::zero()) : grace);
    if (const auto cut = deadline_after(since, options().shutdown_timeout)) session->shorten_stop(*cut);
  }
  complete_all_with_error(std::move(dropped), refusal);
}

inline std::shared_ptr<AsyncEvent> PoolImpl::drain_calls() {
  const auto held = lock();
  if (unawaited_) return unawaited_;
  unawaited_ = std::make_shared<AsyncEvent>();
  const bool over = slots_->stopping() || slots_->failed();
  slots_->drain(pool_stops);
  if (over) {
    unawaited_->set();
    return unawaited_;
  }
  dispatcher_->refuse(pool_stops, true);
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
  const PoolSlots::Sessions all = pool->all_sessions();
  co_await await_ends(all, leaves, cancellations);
  const auto held = pool->lock();
  std::vector<StopReport> reports;
  for (std::size_t at = 0; at < pool->slots_->size(); ++at) {
    if (pool->slots_->slot(at)->dormant) continue;
    const auto& session = pool->slots_->slot(at)->session;
    reports.push_back(session ? session->record().stop_report() : StopReport{});
  }
  co_return reports;
}

inline void PoolImpl::context_destroyed() noexcept {
  detach(
      [] { return std::make_exception_ptr(Error(Errc::connection_lost, "the io_context of the pool is destroyed")); });
}

inline void PoolImpl::detach(const Cause& gone) noexcept {
  CallQueue dropped;
  std::vector<SharedDescriptors> descriptors;  // without the mutex
  {
    const auto held = lock();
    if (foreign()) slots_->release_timers();
    slots_->stop_starting(gone);
    dispatcher_->refuse_for_good(gone);
    dropped.append(dispatcher_->take_queued_calls());
    descriptors = dispatcher_->take_dropped();
  }
  descriptors.clear();
  complete_all_with_error(std::move(dropped), gone);
}

inline void PoolImpl::abandon() noexcept {
  if (events_) events_->close();
  detach(aborted);
  // Nobody changes the slots any more. They are not copied, because there may be no memory for that.
  slots_->for_each([](const auto& session, PoolSlots::Role) { session->owner_destroyed(); });
  dispatcher_->close();
  std::shared_ptr<ContextBound> self;
  const auto& registry = dispatcher_->registry();
  const auto registry_lock = registry->lock();
  self = registry->remove(*this);
}

}}}  // namespace drover::v1::detail
