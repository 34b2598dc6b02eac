#pragma once

#include <chrono>
#include <exception>
#include <optional>

#include <asio/awaitable.hpp>

#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/worker/handle.ipp>
#include <drover/pool/detail/worker/session.hpp>
#include <drover/pool/worker_process.hpp>

namespace drover { inline namespace v1 {

DROVER_INLINE asio::awaitable<WorkerMetadata> WorkerProcess::start() { return start(std::chrono::seconds(30)); }
DROVER_INLINE asio::awaitable<WorkerMetadata> WorkerProcess::start(Timeout timeout) {
  return detail::start_and_introduce(handle_.core(), timeout);
}

DROVER_INLINE asio::awaitable<ReapReport> WorkerProcess::reap() {
  return reap(handle_ ? Timeout(handle_.core()->options().shutdown_grace) : Timeout());
}
DROVER_INLINE asio::awaitable<ReapReport> WorkerProcess::reap(Timeout patience) {
  if (const auto refusal = handle_.refusal()) return detail::failed<ReapReport>(refusal);
  const bool begun = handle_.core()->begin_reap(patience);
  return detail::WorkerCore::await_reap(begun ? handle_.core() : nullptr);
}

DROVER_INLINE pid_t WorkerProcess::pid() const { return handle_ ? handle_.core()->pid() : 0; }
DROVER_INLINE bool WorkerProcess::alive() const { return handle_ && handle_.core()->alive(); }
DROVER_INLINE const std::optional<WorkerMetadata>& WorkerProcess::metadata() const {
  static const std::optional<WorkerMetadata> none;
  return handle_ ? handle_.core()->metadata() : none;
}

}}  // namespace drover::v1
