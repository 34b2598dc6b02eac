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
  auto dispatcher = Dispatcher::create(executor, options.worker, options.max_queued,
                                       PoisonPolicy{.after = options.poison_after, .span = options.poison_for});
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

inline asio::awaitable<void> start_pool(std::shared_ptr<PoolImpl> pool, bool leaves) {
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  bool cancelled = false;
  std::exception_ptr failure;
  const asio::any_io_executor here = co_await asio::this_coro::executor;
  FirstStart& start = pool->slots().first_start();
  try {
    const auto fork_server = start.await_fork_server();
    if (fork_server) co_await AsyncEvent::wait(fork_server);
    for (std::size_t i = 0; i < pool->options().size && !cancelled; ++i) {
      for (auto room = start.await_room(); room; room = start.await_room()) co_await AsyncEvent::wait(room);
      if (!start.start_worker(i)) break;
      // A spawn takes up to a millisecond. Other handlers run in between.
      co_await asio::post(here, asio::use_awaitable);
      const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
      cancelled = state.cancelled() != asio::cancellation_type::none;
    }
    if (!cancelled) {
      start.add_dormant_slots();
      co_await AsyncEvent::wait(start.settled());
    }
  } catch (const std::system_error& error) {
    cancelled = error.code() == asio::error::operation_aborted;
    failure = std::current_exception();
  } catch (...) {
    failure = std::current_exception();
  }
  const std::exception_ptr of_a_worker = start.end();
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

// ---- state ----------------------------------------------------------------------------------------------------------

inline std::vector<WorkerMetadata> PoolImpl::workers() const {
  std::vector<WorkerMetadata> found;
  const auto held = lock();
  slots_->for_each([&](const auto& session, PoolSlots::Role role) {
    if (role != PoolSlots::Role::spare && !session->is_fork_server() &&
        session->record().lifecycle.state() == WorkerSession::State::ready)
      found.push_back(*session->record().metadata);
  });
  return found;
}

}}}  // namespace drover::v1::detail
