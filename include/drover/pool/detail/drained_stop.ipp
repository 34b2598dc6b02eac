#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/context/spawn.hpp>
#include <drover/detail/context/when_due.hpp>
#include <drover/pool/detail/pool.hpp>
#include <drover/pool/detail/queue_drain.hpp>

/// A stop that lets waiting calls run first. Two coroutines wait until no caller waits any more, or the time is over,
/// and then stop the workers: the one that awaits stop(), and one on the pool's executor. The stop goes on if nobody
/// awaits it, and its time is kept if nobody runs the pool's context. Whichever comes first, the other one joins.
namespace drover { inline namespace v1 { namespace detail {

struct DrainedStop {
  QueueDrain drain;
  std::shared_ptr<AsyncEvent> unawaited;
};

inline asio::awaitable<void> await_drain(DrainedStop stop) {
  std::optional<asio::steady_timer> limit;
  if (stop.drain.until() && !stop.unawaited->is_set()) {
    limit.emplace(co_await asio::this_coro::executor, *stop.drain.until());
    when_due(*limit, [unawaited = stop.unawaited] { unawaited->set(); });
  }
  co_await AsyncEvent::wait(stop.unawaited);
}

inline void begin_workers_stop(PoolImpl& pool, const DrainedStop& stop) {
  pool.begin_stop(stop.drain.grace_left(Clock::now()), stop.drain.since());
}

/// Does not keep the pool alive.
inline asio::awaitable<void> drive_stop(std::weak_ptr<PoolImpl> pool, DrainedStop stop) {
  co_await await_drain(stop);
  if (const auto alive = pool.lock()) begin_workers_stop(*alive, stop);
}

inline DrainedStop begin_drained_stop(PoolImpl& pool, Timeout grace) {
  DrainedStop stop{QueueDrain(Clock::now(), grace, pool.options().shutdown_timeout), pool.drain_calls()};
  if (stop.unawaited->is_set())
    begin_workers_stop(pool, stop);
  else
    pool.run_on_executor([weak = pool.weak_from_this(), stop](const asio::any_io_executor& executor) {
      spawn(executor, drive_stop(weak, stop));
    });
  return stop;
}

inline asio::awaitable<std::vector<StopReport>> await_drained_stop(std::shared_ptr<PoolImpl> pool, DrainedStop stop) {
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  const asio::cancellation_state before = co_await asio::this_coro::cancellation_state;
  const bool cancelled_before = before.cancelled() != asio::cancellation_type::none;
  bool cancelled = false;
  try {
    co_await await_drain(stop);
  } catch (const std::system_error&) {
    cancelled = true;
  }
  if (!cancelled_before) {  // it may have come as the wait was over already
    const asio::cancellation_state now = co_await asio::this_coro::cancellation_state;
    cancelled = now.cancelled() != asio::cancellation_type::none;
  }
  if (cancelled)
    pool->abort_stop();
  else
    begin_workers_stop(*pool, stop);
  std::vector<StopReport> reports;
  std::exception_ptr failure;
  try {
    reports = co_await PoolImpl::await_stop(pool, true, cancelled ? 1 : 0);
  } catch (...) {
    failure = std::current_exception();
  }
  co_await asio::this_coro::throw_if_cancelled(throws);
  if (failure) std::rethrow_exception(failure);
  co_return reports;
}

}}}  // namespace drover::v1::detail
