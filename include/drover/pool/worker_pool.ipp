#pragma once

#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/this_coro.hpp>

#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/pool.hpp>
#include <drover/pool/worker_pool.hpp>

namespace drover { inline namespace v1 {
namespace detail {

DROVER_INLINE std::shared_ptr<PoolCore> make_pool(const asio::any_io_executor& executor, PoolOptions options) {
  return PoolCore::create(executor, std::move(options));
}

DROVER_INLINE asio::awaitable<void> set_up(std::shared_ptr<PoolCore> pool) {
  co_await PoolCore::start(pool, false);
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  if (RunSignals* const signals = RunSignals::find(asio::query(executor, asio::execution::context))) signals->add(pool);
}

/// After a signal: calls that other coroutines have made, waiting ones included, get shutdown_grace to finish. Routines
/// whose callers have given up get none.
inline asio::awaitable<void> finish_calls(std::shared_ptr<PoolCore> pool) {
  const Deadline until = deadline_after(Clock::now(), pool->options().shutdown_grace);
  const auto unawaited = std::make_shared<AsyncEvent>();
  const auto too_late = std::make_shared<bool>(false);
  pool->drain_calls(unawaited);
  std::optional<asio::steady_timer> limit;
  if (until) {
    limit.emplace(co_await asio::this_coro::executor, *until);
    limit->async_wait([unawaited, too_late](std::error_code ec) {
      if (ec) return;
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
  if (*too_late || pool->stats().in_flight == 0)
    pool->begin_stop(Duration::zero());
  else
    pool->abort_stop();
}

DROVER_INLINE asio::awaitable<void> tear_down(std::shared_ptr<PoolCore> pool, std::exception_ptr body_failure) {
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
    co_await PoolCore::await_stop_for_certain(pool);
    if (body_failure) std::rethrow_exception(body_failure);
    co_return;
  }
  const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
  pool->begin_stop(pool->options().shutdown_grace);
  if (state.cancelled() != asio::cancellation_type::none) pool->abort_stop();
  std::exception_ptr failure = body_failure;
  try {
    co_await PoolCore::await_stop(pool, false);
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
  WorkerPool pool;
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  pool.core_ = detail::PoolCore::create(executor, std::move(options));
  co_await detail::PoolCore::start(pool.core_, true);
  co_return pool;
}

DROVER_INLINE asio::awaitable<std::vector<StopReport>> WorkerPool::stop() {
  if (!core_) return detail::failed<std::vector<StopReport>>(detail::empty_handle());
  if (core_->foreign()) return detail::failed<std::vector<StopReport>>(detail::forked_copy());
  core_->begin_stop(core_->options().shutdown_grace);
  return detail::PoolCore::await_stop(core_, true);
}

DROVER_INLINE std::vector<WorkerMetadata> WorkerPool::workers() const {
  return core_ ? core_->workers() : std::vector<WorkerMetadata>{};
}
DROVER_INLINE PoolStats WorkerPool::stats() const { return core_ ? core_->stats() : PoolStats{}; }

DROVER_INLINE std::shared_ptr<detail::Dispatcher> WorkerPool::dispatcher() const noexcept {
  return core_ ? core_->dispatcher() : nullptr;
}

DROVER_INLINE void WorkerPool::let_go() noexcept {
  if (core_ && !core_->foreign()) core_->abandon();  // in a forked copy of the program the workers are not ours
  core_.reset();
}

}}  // namespace drover::v1
