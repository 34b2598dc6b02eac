#pragma once

#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/this_coro.hpp>

#include <drover/detail/context/when_due.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/pool.hpp>
#include <drover/pool/worker_pool.hpp>

namespace drover { inline namespace v1 {
namespace detail {

DROVER_INLINE std::shared_ptr<PoolImpl> make_pool(const asio::any_io_executor& executor, PoolOptions options) {
  return PoolImpl::create(executor, std::move(options));
}

DROVER_INLINE std::shared_ptr<PoolImpl> own_pool(std::shared_ptr<PoolImpl> pool) {
  PoolImpl* const raw = pool.get();
  return std::shared_ptr<PoolImpl>(raw, [pool = std::move(pool)](PoolImpl*) noexcept {
    if (!pool->foreign()) pool->abandon();  // in a forked copy of the program the workers are not ours
  });
}

DROVER_INLINE asio::awaitable<void> set_up(std::shared_ptr<PoolImpl> pool) {
  co_await start_pool(pool, false);
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  if (RunSignals* const signals = RunSignals::find(asio::query(executor, asio::execution::context))) signals->add(pool);
}

/// After a signal: calls that other coroutines have made, waiting ones included, get shutdown_grace to finish. Routines
/// whose callers have given up get none.
inline asio::awaitable<void> finish_calls(std::shared_ptr<PoolImpl> pool) {
  const Deadline until = deadline_after(Clock::now(), pool->options().shutdown_grace);
  const auto unawaited = pool->drain_calls();
  const auto too_late = std::make_shared<bool>(false);
  std::optional<asio::steady_timer> limit;
  if (until) {
    limit.emplace(co_await asio::this_coro::executor, *until);
    when_due(*limit, [unawaited, too_late] {
      *too_late = true;
      unawaited->set();
    });
  }
  while (!unawaited->is_set()) {
    try {
      co_await AsyncEvent::wait(unawaited);
    } catch (const std::system_error&) {  // a further signal, which the pool acts on by itself
    }
  }
  if (*too_late || pool->in_flight() == 0)
    pool->begin_stop(Duration::zero());
  else
    pool->abort_stop();
}

DROVER_INLINE asio::awaitable<void> tear_down(std::shared_ptr<PoolImpl> pool, std::exception_ptr body_failure) {
  // A forked copy of the program that was made in the body: the workers are not its own to stop.
  if (pool->foreign()) {
    if (body_failure) std::rethrow_exception(body_failure);
    co_return;
  }
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  if (const RunSignals* const signals = RunSignals::find(asio::query(executor, asio::execution::context))) {
    if (signals->count() == 1)
      co_await finish_calls(pool);
    else if (signals->count() > 1)
      pool->on_signal(signals->count());
    else
      pool->begin_stop(pool->options().shutdown_grace);
    co_await PoolImpl::await_stop_for_certain(pool);
    if (body_failure) std::rethrow_exception(body_failure);
    co_return;
  }
  const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
  pool->begin_stop(pool->options().shutdown_grace);
  if (state.cancelled() != asio::cancellation_type::none) pool->abort_stop();
  std::exception_ptr failure = body_failure;
  try {
    co_await PoolImpl::await_stop(pool, false);
  } catch (...) {
    if (!failure) failure = std::current_exception();
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace detail

DROVER_INLINE asio::awaitable<WorkerPool> WorkerPool::start() {
  PoolOptions options;
  return start(std::move(options));
}

DROVER_INLINE asio::awaitable<WorkerPool> WorkerPool::start(PoolOptions options) {
  return start(std::move(options), detail::make_pool);
}

DROVER_INLINE asio::awaitable<WorkerPool> WorkerPool::start(PoolOptions options, MakePool* make) {
  WorkerPool pool;
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  const std::shared_ptr<detail::PoolImpl> impl = make(executor, std::move(options));
  pool.pool_ = detail::own_pool(impl);
  co_await detail::start_pool(impl, true);
  co_return pool;
}

DROVER_INLINE asio::awaitable<std::vector<StopReport>> WorkerPool::stop() {
  if (!pool_) return detail::failed<std::vector<StopReport>>(detail::empty_handle());
  if (pool_->foreign()) return detail::failed<std::vector<StopReport>>(detail::forked_copy());
  pool_->begin_stop(pool_->options().shutdown_grace);
  return detail::PoolImpl::await_stop(pool_->shared_from_this(), true);
}

DROVER_INLINE asio::awaitable<std::vector<StopReport>> WorkerPool::stop(StopOptions options) {
  if (!pool_) return detail::failed<std::vector<StopReport>>(detail::empty_handle());
  if (pool_->foreign()) return detail::failed<std::vector<StopReport>>(detail::forked_copy());
  detail::check(options);
  if (options.drain_queue)
    return detail::await_drained_stop(pool_->shared_from_this(), detail::begin_drained_stop(*pool_, options.grace));
  pool_->begin_stop(options.grace);
  return detail::PoolImpl::await_stop(pool_->shared_from_this(), true);
}

namespace detail {

inline asio::awaitable<ReloadReport> await_reload(std::shared_ptr<PoolImpl> pool, std::shared_ptr<Reload> reload) {
  try {
    co_await AsyncEvent::wait(reload->over());
  } catch (...) {
    pool->cancel(reload);
    throw;
  }
  co_return reload->result();
}

inline asio::awaitable<void> await_resize(std::shared_ptr<PoolImpl> pool, PoolChanges::Resize resize) {
  try {
    co_await await_ends(std::move(resize.removed), true);
    if (resize.growth) co_await AsyncEvent::wait(resize.growth->over());
  } catch (...) {
    if (resize.growth) pool->cancel(resize.growth);
    throw;
  }
  if (resize.growth && resize.growth->failure()) std::rethrow_exception(resize.growth->failure());
}

inline asio::awaitable<ReloadReport> reload(const std::shared_ptr<PoolImpl>& pool, std::optional<Command> command) {
  if (!pool) return failed<ReloadReport>(empty_handle());
  if (pool->foreign()) return failed<ReloadReport>(forked_copy());
  try {
    return await_reload(pool->shared_from_this(), pool->slots().changes().begin_reload(std::move(command)));
  } catch (...) {
    return failed<ReloadReport>(std::current_exception());
  }
}

}  // namespace detail

DROVER_INLINE asio::awaitable<ReloadReport> WorkerPool::reload() { return detail::reload(pool_, std::nullopt); }
DROVER_INLINE asio::awaitable<ReloadReport> WorkerPool::reload(Command command) {
  return detail::reload(pool_, std::move(command));
}

DROVER_INLINE asio::awaitable<void> WorkerPool::resize(std::size_t size) {
  if (!pool_) return detail::failed<void>(detail::empty_handle());
  if (pool_->foreign()) return detail::failed<void>(detail::forked_copy());
  try {
    detail::PoolChanges::Resize resize = pool_->slots().changes().begin_resize(size);
    pool_->slots().complete_dropped_calls();
    return detail::await_resize(pool_->shared_from_this(), std::move(resize));
  } catch (...) {
    return detail::failed<void>(std::current_exception());
  }
}

DROVER_INLINE std::vector<WorkerMetadata> WorkerPool::workers() const {
  return pool_ ? pool_->workers() : std::vector<WorkerMetadata>{};
}
DROVER_INLINE PoolStats WorkerPool::stats() const { return pool_ ? pool_->stats() : PoolStats{}; }
DROVER_INLINE std::string WorkerPool::metrics() const {
  return pool_ ? metrics_text({{pool_->options().worker.name, pool_->stats()}}) : std::string();
}

DROVER_INLINE const std::shared_ptr<detail::Dispatcher>& WorkerPool::dispatcher() const noexcept {
  static const std::shared_ptr<detail::Dispatcher> none;
  return pool_ ? pool_->dispatcher() : none;
}

DROVER_INLINE detail::BroadcastTargets WorkerPool::broadcast_targets() const noexcept {
  detail::BroadcastTargets targets(dispatcher());
  if (!pool_ || pool_->foreign()) return targets;
  const auto held = targets.dispatcher->lock();
  detail::PoolSlots& slots = pool_->slots();
  try {
    for (std::size_t at = 0; at < slots.size(); ++at)
      if (!slots.slot(at)->dormant) targets.slots.push_back(at);
  } catch (...) {
    targets.failure = std::current_exception();
  }
  return targets;
}

}}  // namespace drover::v1
