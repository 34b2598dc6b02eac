#pragma once

#include <chrono>
#include <exception>
#include <optional>

#include <asio/awaitable.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/worker/handle.ipp>
#include <drover/pool/detail/worker/session.hpp>
#include <drover/pool/local_worker.hpp>

namespace drover { inline namespace v1 {

DROVER_INLINE asio::awaitable<void> LocalWorker::start() { return start(std::chrono::seconds(30)); }
DROVER_INLINE asio::awaitable<void> LocalWorker::start(Timeout timeout) {
  return detail::start_and_wait(handle_.core(), timeout);
}

DROVER_INLINE asio::awaitable<StopReport> LocalWorker::stop() {
  return stop(handle_ ? Timeout(handle_.core()->options().shutdown_grace) : Timeout());
}
DROVER_INLINE asio::awaitable<StopReport> LocalWorker::stop(Timeout grace) {
  if (const auto refusal = handle_.refusal()) return detail::failed<StopReport>(refusal);
  const bool begun = handle_.core()->begin_stop(grace);
  return detail::WorkerCore::await_stop(begun ? handle_.core() : nullptr);
}

DROVER_INLINE asio::awaitable<WorkerStatus> LocalWorker::status() { return status(std::chrono::seconds(5)); }

DROVER_INLINE asio::awaitable<WorkerStatus> LocalWorker::status(Timeout bound) {
  detail::require_not_negative(bound, "the time-out of status()");
  if (const auto refusal = handle_.refusal()) return detail::failed<WorkerStatus>(refusal);
  return detail::WorkerCore::ask_status(handle_.core(), bound);
}

DROVER_INLINE pid_t LocalWorker::pid() const { return handle_ ? handle_.core()->pid() : 0; }
DROVER_INLINE bool LocalWorker::alive() const { return handle_ && handle_.core()->alive(); }
DROVER_INLINE const WorkerMetadata& LocalWorker::metadata() const {
  if (!handle_) std::rethrow_exception(detail::empty_handle());
  const auto& metadata = handle_.core()->metadata();
  if (!metadata) throw Error(Errc::not_running, "worker '" + handle_.core()->options().name + "' has not been started");
  return *metadata;
}

}}  // namespace drover::v1
