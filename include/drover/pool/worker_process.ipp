#pragma once

#include <chrono>
#include <exception>
#include <optional>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>

#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/worker/handle.ipp>
#include <drover/pool/detail/worker/waits.hpp>
#include <drover/pool/worker_process.hpp>

namespace drover { inline namespace v1 {
namespace detail {

inline asio::awaitable<WorkerMetadata> start_and_introduce(std::shared_ptr<WorkerSession> session,
                                                           std::exception_ptr refusal, Timeout timeout) {
  co_await start_worker(session, refusal, timeout);
  co_return *session->metadata();
}

inline asio::awaitable<WorkerMetadata> introduce(std::shared_ptr<WorkerSession> session,
                                                 asio::awaitable<void> started) {
  co_await std::move(started);
  co_return *session->metadata();
}

}  // namespace detail

DROVER_INLINE asio::awaitable<WorkerMetadata> WorkerProcess::start() { return start(std::chrono::seconds(30)); }
DROVER_INLINE asio::awaitable<WorkerMetadata> WorkerProcess::start(Timeout timeout) {
  return detail::start_and_introduce(detail::session_of(worker_), detail::reason_to_refuse(worker_), timeout);
}

DROVER_INLINE asio::awaitable<WorkerMetadata> WorkerProcess::begin_start(Timeout timeout) {
  const std::shared_ptr<detail::WorkerSession> session = detail::session_of(worker_);
  return detail::introduce(session, detail::begin_start(session, detail::reason_to_refuse(worker_), timeout));
}

DROVER_INLINE asio::awaitable<ReapReport> WorkerProcess::reap() {
  return reap(worker_ ? Timeout(worker_->options().shutdown_grace) : Timeout());
}
DROVER_INLINE asio::awaitable<ReapReport> WorkerProcess::reap(Timeout patience) {
  if (const auto refusal = detail::reason_to_refuse(worker_)) return detail::failed<ReapReport>(refusal);
  return detail::await_reap(worker_->reap(patience) ? detail::session_of(worker_) : nullptr);
}

DROVER_INLINE asio::any_io_executor WorkerProcess::executor() const {
  return detail::executor_of(detail::dispatcher_of(worker_));
}

DROVER_INLINE pid_t WorkerProcess::pid() const { return detail::pid_of(worker_); }
DROVER_INLINE bool WorkerProcess::alive() const { return detail::is_alive(worker_); }
DROVER_INLINE const std::optional<WorkerMetadata>& WorkerProcess::metadata() const {
  static const std::optional<WorkerMetadata> none;
  return worker_ ? worker_->metadata() : none;
}

}}  // namespace drover::v1
