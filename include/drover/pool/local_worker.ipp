#pragma once

#include <chrono>
#include <exception>
#include <optional>

#include <asio/awaitable.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/worker/handle.ipp>
#include <drover/pool/detail/worker/waits.hpp>
#include <drover/pool/local_worker.hpp>

namespace drover { inline namespace v1 {

DROVER_INLINE asio::awaitable<void> LocalWorker::start() { return start(std::chrono::seconds(30)); }
DROVER_INLINE asio::awaitable<void> LocalWorker::start(Timeout timeout) {
  return detail::start_worker(detail::session_of(worker_), detail::reason_to_refuse(worker_), timeout);
}

DROVER_INLINE asio::awaitable<void> LocalWorker::begin_start(Timeout timeout) {
  return detail::begin_start(detail::session_of(worker_), detail::reason_to_refuse(worker_), timeout);
}

DROVER_INLINE asio::awaitable<StopReport> LocalWorker::stop() {
  return stop(worker_ ? Timeout(worker_->options().shutdown_grace) : Timeout());
}
DROVER_INLINE asio::awaitable<StopReport> LocalWorker::stop(Timeout grace) {
  if (const auto refusal = detail::reason_to_refuse(worker_)) return detail::failed<StopReport>(refusal);
  return detail::await_stop(worker_->stop(grace) ? detail::session_of(worker_) : nullptr);
}

DROVER_INLINE asio::awaitable<WorkerStatus> LocalWorker::status() { return status(std::chrono::seconds(5)); }

DROVER_INLINE asio::awaitable<WorkerStatus> LocalWorker::status(Timeout bound) {
  detail::require_not_negative(bound, "the time-out of status()");
  if (const auto refusal = detail::reason_to_refuse(worker_)) return detail::failed<WorkerStatus>(refusal);
  return detail::await_status(detail::session_of(worker_), bound);
}

DROVER_INLINE pid_t LocalWorker::pid() const { return detail::pid_of(worker_); }
DROVER_INLINE bool LocalWorker::alive() const { return detail::is_alive(worker_); }
DROVER_INLINE const WorkerMetadata& LocalWorker::metadata() const {
  if (!worker_) std::rethrow_exception(detail::empty_handle());
  const auto& metadata = worker_->metadata();
  if (!metadata) throw Error(Errc::not_running, "worker '" + worker_->options().name + "' has not been started");
  return *metadata;
}

}}  // namespace drover::v1
