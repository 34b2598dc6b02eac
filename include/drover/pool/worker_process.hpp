#pragma once

#include <drover/detail/platform.hpp>

#include <optional>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/os/reap.hpp>
#include <drover/pool/detail/worker/handle.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 {

/// A worker process without calls: handshake and reap, for programs that talk to a worker in their own way. Threads,
/// lifetime and empty objects as with LocalWorker.
class [[nodiscard]] WorkerProcess {
 public:
  WorkerProcess() = default;
  WorkerProcess(asio::any_io_executor executor) : WorkerProcess(std::move(executor), WorkerOptions()) {}
  WorkerProcess(asio::any_io_executor executor, WorkerOptions options)
      : worker_(detail::create_worker(executor, std::move(options), false)) {}

  /// Starts the process and waits for its HELLO, for at most 30 s.
  ///
  /// *Errors:* and
  /// *Cancellation:* as LocalWorker::start().
  [[nodiscard]] asio::awaitable<WorkerMetadata> start();
  [[nodiscard]] asio::awaitable<WorkerMetadata> start(Timeout timeout);

  /// Waits for WorkerOptions::shutdown_grace until the process exits by itself, then sends SIGTERM, and after
  /// term_grace SIGKILL to its group. The reap begins when it is called. A second one joins the first and may only
  /// shorten it. A process that was never started gets an empty report.
  ///
  /// *Errors:* std::system_error if the kernel refuses SIGKILL.
  /// *Cancellation:* ends the wait with operation_aborted, and nothing else.
  [[nodiscard]] asio::awaitable<ReapReport> reap();
  [[nodiscard]] asio::awaitable<ReapReport> reap(Timeout patience);

  /// 0 before it is started.
  pid_t pid() const;
  /// The process exists and has not been reaped.
  bool alive() const;
  /// Set once start() has succeeded, and then for good.
  const std::optional<WorkerMetadata>& metadata() const;

 private:
  std::shared_ptr<detail::WorkerSession> worker_;  // see create_worker()
};

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/worker_process.ipp>
#endif
