#pragma once

#include <drover/detail/platform.hpp>

#include <chrono>
#include <optional>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/detail/context/as_async.hpp>
#include <drover/os/reap.hpp>
#include <drover/pool/detail/worker/handle.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 {

/// A worker process without calls: handshake and reap, for programs that talk to a worker in their own way. Threads,
/// lifetime and empty objects as with LocalWorker.
class [[nodiscard]] WorkerProcess {
 public:
  WorkerProcess() = default;
  WorkerProcess(WorkerProcess&&) noexcept = default;
  WorkerProcess& operator=(WorkerProcess&&) noexcept = default;
  WorkerProcess(asio::any_io_executor executor) : WorkerProcess(std::move(executor), WorkerOptions()) {}
  WorkerProcess(asio::any_io_executor executor, WorkerOptions options)
      : worker_(detail::create_worker(executor, std::move(options), false)) {}

  /// Starts the process and waits for its HELLO, for at most 30 s.
  ///
  /// *Errors:* and
  /// *Cancellation:* as LocalWorker::start().
  [[nodiscard]] asio::awaitable<WorkerMetadata> start();
  [[nodiscard]] asio::awaitable<WorkerMetadata> start(Timeout timeout);
  /// The same for a completion token, as LocalWorker::async_start(): a handler void(std::exception_ptr,
  /// WorkerMetadata).
  template <class Token>
  auto async_start(Timeout timeout, Token&& token) {
    return detail::as_async(begin_start(timeout), executor(), std::forward<Token>(token));
  }
  template <class Token>
  auto async_start(Token&& token) {
    return detail::as_async(begin_start(std::chrono::seconds(30)), executor(), std::forward<Token>(token));
  }

  /// Waits for WorkerOptions::shutdown_grace until the process exits by itself, then sends SIGTERM, and after
  /// term_grace SIGKILL to its group. The reap begins when it is called. A second one joins the first and may only
  /// shorten it. A process that was never started gets an empty report.
  ///
  /// *Errors:* std::system_error if the kernel refuses SIGKILL.
  /// *Cancellation:* ends the wait with operation_aborted, and nothing else.
  [[nodiscard]] asio::awaitable<ReapReport> reap();
  [[nodiscard]] asio::awaitable<ReapReport> reap(Timeout patience);
  /// The same for a completion token: a handler void(std::exception_ptr, ReapReport), as with async_start(). The reap
  /// begins at once, whatever the token.
  template <class Token>
  auto async_reap(Timeout patience, Token&& token) {
    return detail::as_async(reap(patience), executor(), std::forward<Token>(token));
  }
  template <class Token>
  auto async_reap(Token&& token) {
    return detail::as_async(reap(), executor(), std::forward<Token>(token));
  }

  /// 0 before it is started.
  pid_t pid() const;
  /// The process exists and has not been reaped.
  bool alive() const;
  /// Set once start() has succeeded, and then for good.
  const std::optional<WorkerMetadata>& metadata() const;

 private:
  asio::awaitable<WorkerMetadata> begin_start(Timeout timeout);
  asio::any_io_executor executor() const;
  std::shared_ptr<detail::WorkerSession> worker_;  // see create_worker()
};

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/worker_process.ipp>
#endif
