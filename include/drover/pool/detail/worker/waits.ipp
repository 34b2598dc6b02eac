#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <system_error>
#include <utility>

#include <asio/execution.hpp>
#include <asio/query.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>

#include <drover/detail/context/spawn.hpp>
#include <drover/detail/context/when_due.hpp>
#include <drover/pool/detail/worker/waits.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline bool on_own_context(const WorkerSession& session, const asio::any_io_executor& executor) {
  return ContextRegistry::of(asio::query(executor, asio::execution::context)) == session.dispatcher()->registry();
}

/// Waits until the session's events have been delivered. `on_event` handlers run on the worker's context. A caller on
/// another context cannot know whether that runs, so it waits for a limited time; handlers that are still pending then
/// are dropped.
inline asio::awaitable<void> await_events(std::shared_ptr<WorkerSession> session, asio::any_io_executor executor) {
  if (!session->events()) co_return;
  Timeout limit;
  if (!on_own_context(*session, executor))
    limit = std::max<Duration>(session->options().term_grace, std::chrono::seconds(1));
  co_await EventSink::all_delivered(session->events(), limit);
}

[[noreturn]] inline void throw_refused_kill(std::error_code refused) {
  throw std::system_error(refused, "a worker can't be killed; the reaper waits for its end");
}

/// Waits until the exit has been processed, and nothing of the group is left. Normally the worker's context does that.
/// If it does not run, the waiting coroutine's context takes over after 100 ms, or immediately if `take_over` is true.
/// Returns true if it had to take over.
inline asio::awaitable<bool> await_processed(std::shared_ptr<WorkerSession> session, asio::any_io_executor executor,
                                             bool take_over) {
  const auto taken = std::make_shared<std::atomic<bool>>(take_over);
  std::optional<asio::steady_timer> patience;
  if (take_over) {
    session->exit().process_exit(false);
  } else if (!on_own_context(*session, executor) && !session->finished()->is_set()) {
    patience.emplace(executor, std::chrono::milliseconds(100));
    when_due(*patience, [session, taken] {
      *taken = true;
      session->exit().process_exit(false);
    });
  }
  co_await AsyncEvent::wait(session->finished());
  co_return *taken;
}

/// A start that is bounded, should the worker's own context not be running.
inline asio::awaitable<void> end_start(std::shared_ptr<WorkerSession> session) {
  session->start_timed_out();
  if (session->started()->is_set()) co_return;
  const auto child = session->child();
  co_await AsyncEvent::wait(child->settled());
  // Has no effect if the kernel refused to kill it: then it is still there, and the reaper waits.
  session->exit().process_exit(false);
}

/// The process of a worker that has been started. If it is being spawned on another thread, that is waited for. Null
/// without one.
inline asio::awaitable<std::shared_ptr<ChildProcess>> await_process(std::shared_ptr<WorkerSession> session) {
  if (session->lifecycle().state() == WorkerSession::State::created) co_return nullptr;
  co_await AsyncEvent::wait(session->spawned());
  co_return session->child();
}

inline asio::awaitable<void> await_start(std::shared_ptr<WorkerSession> session) {
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  std::optional<asio::steady_timer> own_limit;
  if (session->start_by() && !on_own_context(*session, executor)) {
    own_limit.emplace(executor, *session->start_by());
    when_due(*own_limit, [session, executor] { spawn(executor, end_start(session)); });
  }
  bool cancelled = false;
  try {
    co_await AsyncEvent::wait(session->started());
  } catch (const std::system_error&) {
    cancelled = true;
  }
  if (cancelled) {
    session->abort_stop();
    std::vector<std::shared_ptr<WorkerSession>> sessions{session};
    try {
      co_await await_ends(std::move(sessions), true, 1);
    } catch (const std::system_error&) {  // a second time: the reaper thread goes on alone
    }
  }
  co_await asio::this_coro::throw_if_cancelled(throws);
  if (cancelled) throw std::system_error(std::error_code(asio::error::operation_aborted));
  const std::exception_ptr failure = session->take_start_failure();
  if (!failure) co_return;
  co_await await_events(session, executor);
  std::rethrow_exception(failure);
}

inline asio::awaitable<void> await_ends(std::vector<std::shared_ptr<WorkerSession>> sessions, bool return_on_second,
                                        int cancellations) {
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  const asio::cancellation_state before = co_await asio::this_coro::cancellation_state;
  const bool cancelled_before = before.cancelled() != asio::cancellation_type::none;
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  std::error_code refused;
  bool take_over = false;
  for (std::size_t at = 0; at < sessions.size() && !(return_on_second && cancellations > 1);) {
    const std::shared_ptr<WorkerSession> session = sessions[at];
    if (session->lifecycle().state() == WorkerSession::State::created) session->finished()->set();
    bool cancelled = false;
    try {
      const std::shared_ptr<ChildProcess> child = co_await await_process(session);
      // The process first: its exit is known even if the worker's context is destroyed.
      if (child) co_await AsyncEvent::wait(child->settled());
      if (child && child->refused())
        refused = child->refused();
      else
        take_over = co_await await_processed(session, executor, take_over);
      ++at;
    } catch (const std::system_error&) {
      cancelled = true;
    }
    if (!cancelled_before && cancellations == 0) {  // it may have come as a wait was over already
      const asio::cancellation_state now = co_await asio::this_coro::cancellation_state;
      cancelled = now.cancelled() != asio::cancellation_type::none;
    }
    if (cancelled && ++cancellations == 1)
      for (const auto& each : sessions) each->abort_stop();
  }
  // Earlier events are delivered before this returns: the caller may destroy the listener then.
  std::shared_ptr<EventSink> last;
  for (std::size_t at = 0; at < sessions.size() && !(return_on_second && cancellations > 1); ++at) {
    if (sessions[at]->events() == last) continue;
    last = sessions[at]->events();
    co_await await_events(sessions[at], executor);
  }
  co_await asio::this_coro::throw_if_cancelled(throws);
  if (cancellations != 0) throw std::system_error(std::error_code(asio::error::operation_aborted));
  if (refused) throw_refused_kill(refused);
}

inline asio::awaitable<void> await_ends_for_certain(std::vector<std::shared_ptr<WorkerSession>> sessions) {
  // The state of cancellation that await_ends() would look at is left behind with this coroutine's.
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  const auto over = std::make_shared<AsyncEvent>();
  spawn(executor, await_ends(std::move(sessions), false), [over](const std::exception_ptr&) { over->set(); });
  while (!over->is_set()) {
    try {
      co_await AsyncEvent::wait(over);
    } catch (const std::system_error&) {  // cancelled: that is the caller's affair
    }
  }
  co_await asio::this_coro::throw_if_cancelled(throws);
}

inline asio::awaitable<StopReport> await_stop(std::shared_ptr<WorkerSession> session) {
  if (!session) co_return StopReport{};
  std::vector<std::shared_ptr<WorkerSession>> sessions{session};
  co_await await_ends(std::move(sessions), true);
  co_return session->stop_report();
}

inline asio::awaitable<ReapReport> await_reap(std::shared_ptr<WorkerSession> session) {
  if (!session) co_return ReapReport{};
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  const std::shared_ptr<ChildProcess> child = co_await await_process(session);
  if (child) co_await AsyncEvent::wait(child->settled());
  if (child && child->refused()) throw_refused_kill(child->refused());
  co_await await_processed(session, executor, false);
  co_await await_events(session, executor);
  co_return child ? child->report() : ReapReport{};
}

inline asio::awaitable<WorkerStatus> await_status(std::shared_ptr<WorkerSession> session, Timeout bound) {
  const auto waiter = std::make_shared<StatusWaiter>();
  session->ask_status(waiter);
  std::optional<asio::steady_timer> limit;
  if (const Deadline deadline = deadline_after(Clock::now(), bound)) {
    limit.emplace(co_await asio::this_coro::executor, *deadline);
    when_due(*limit, [session, waiter] { session->end_status(waiter); });
  }
  co_await AsyncEvent::wait(waiter->answered);
  const auto held = session->lock();
  if (waiter->failure) std::rethrow_exception(std::exchange(waiter->failure, nullptr));
  co_return *waiter->status;
}

}}}  // namespace drover::v1::detail
