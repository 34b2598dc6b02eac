#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/event_sink.hpp>
#include <drover/pool/detail/worker/handle.hpp>
#include <drover/pool/detail/worker/waits.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

DROVER_INLINE std::shared_ptr<WorkerSession> create_worker(const asio::any_io_executor& executor, WorkerOptions options,
                                                           bool takes_calls) {
  const auto dispatcher = Dispatcher::create(executor, options, std::nullopt);
  const auto events = EventSink::create(executor, options.on_event.value());
  dispatcher->refuse([what = "worker '" + options.name + "' is not running; await start() first"] {
    return std::make_exception_ptr(Error(Errc::not_running, what));
  });
  const auto session = WorkerSession::create(executor, std::move(options), dispatcher, events,
                                             {.takes_calls = takes_calls, .owns_dispatcher = true});
  return std::shared_ptr<WorkerSession>(session.get(), [session](WorkerSession*) noexcept {
    if (session->foreign()) return;  // in a forked copy of the program the worker is not ours
    if (session->events()) session->events()->close();
    session->owner_destroyed();
    session->dispatcher()->close();
  });
}

/// For coroutines that wait, which must not own the worker. Null without one.
inline std::shared_ptr<WorkerSession> session_of(const std::shared_ptr<WorkerSession>& worker) {
  return worker ? worker->shared_from_this() : nullptr;
}

inline asio::awaitable<void> start_worker(std::shared_ptr<WorkerSession> session, std::exception_ptr refusal,
                                          Timeout timeout) {
  if (refusal) std::rethrow_exception(refusal);
  session->start(timeout);
  co_await await_start(session);
}

/// A start that has begun. If nobody awaits its end any more, it is aborted.
class BegunStart {
 public:
  explicit BegunStart(std::shared_ptr<WorkerSession> session) noexcept : session_(std::move(session)) {}
  BegunStart(BegunStart&&) noexcept = default;
  BegunStart& operator=(BegunStart&&) = delete;
  ~BegunStart() {
    if (!session_ || session_->foreign() || !session_->dispatcher()->context_lives()) return;
    try {
      session_->abort_stop();
    } catch (...) {  // no memory: the owner of the worker ends it
    }
  }

  const std::shared_ptr<WorkerSession>& session() const noexcept { return session_; }
  void has_succeeded() noexcept { session_.reset(); }

 private:
  std::shared_ptr<WorkerSession> session_;
};

inline asio::awaitable<void> await_begun_start(BegunStart start) {
  asio::awaitable<void> wait = await_start(start.session());
  co_await std::move(wait);
  start.has_succeeded();
}

/// As start_worker(), but the start begins now.
inline asio::awaitable<void> begin_start(std::shared_ptr<WorkerSession> session, std::exception_ptr refusal,
                                         Timeout timeout) {
  if (refusal) return failed<void>(refusal);
  try {
    session->start(timeout);
  } catch (...) {
    return failed<void>(std::current_exception());
  }
  BegunStart start(std::move(session));
  return await_begun_start(std::move(start));
}

DROVER_INLINE std::exception_ptr reason_to_refuse(const std::shared_ptr<WorkerSession>& worker) {
  if (!worker) return empty_handle();
  return worker->foreign() ? forked_copy() : nullptr;
}

DROVER_INLINE const std::shared_ptr<Dispatcher>& dispatcher_of(const std::shared_ptr<WorkerSession>& worker) noexcept {
  static const std::shared_ptr<Dispatcher> none;
  return worker ? worker->dispatcher() : none;
}

DROVER_INLINE pid_t pid_of(const std::shared_ptr<WorkerSession>& worker) {
  const auto child = worker ? worker->child() : nullptr;
  return child ? child->pid() : 0;
}

DROVER_INLINE bool is_alive(const std::shared_ptr<WorkerSession>& worker) {
  const auto child = worker ? worker->child() : nullptr;
  return child && child->running();
}

}}}  // namespace drover::v1::detail
