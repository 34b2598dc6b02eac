#pragma once

#include <drover/detail/platform.hpp>

#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/worker/handle.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 {

/// One worker process that runs routines for this program.
///
///     asio::any_io_executor executor = co_await asio::this_coro::executor;
///     drover::LocalWorker worker(executor);
///     co_await worker.start();
///     int nine = co_await worker.call<int>("square", 3);
///     co_await worker.stop();
///
/// Any member may be called from any thread; a coroutine that awaits is resumed on its own executor, `on_event` is
/// called on the worker's. The object and its io_context may be destroyed in any order and at any time: the process
/// then gets SIGTERM, SIGKILL after term_grace, and calls end with operation_aborted (the worker went) or
/// Errc::connection_lost (its io_context went; calls of its own go with it). Move-only; a moved-from or
/// default-constructed one is empty and answers Errc::not_running.
///
/// After an exec of the program the process exits by itself, because its sockets are closed, and stays a zombie until
/// the new program waits for it; prepare_for_exec() leaves none behind.
class [[nodiscard]] LocalWorker {
 public:
  LocalWorker() = default;

  /// Inert: nothing is checked or spawned before start().
  LocalWorker(asio::any_io_executor executor) : LocalWorker(std::move(executor), WorkerOptions()) {}
  LocalWorker(asio::any_io_executor executor, WorkerOptions options)
      : worker_(detail::create_worker(executor, std::move(options), true)) {}

  /// Starts the process and waits until it serves, for at most 30 s.
  ///
  /// Errors, after each of which no process is left: Errc::start_timeout; Errc::start_failed with the exit status if it
  /// ended first; std::system_error with the errno if the program can't be executed; Errc::version_mismatch;
  /// Errc::protocol_error if it is no drover worker; std::invalid_argument for options out of range; std::logic_error
  /// if it was started before, or in a worker that has not reached serve(). Cancelled once it ends the process and then
  /// throws operation_aborted, cancelled twice it does not wait for that.
  ///
  /// Its executor has to run for it to start, and for its calls; awaited elsewhere while nobody runs that, a start ends
  /// at its bound at the latest. A stop needs it only for what is awaited there.
  [[nodiscard]] asio::awaitable<void> start();
  /// The time-out must be positive; nullopt is no bound.
  [[nodiscard]] asio::awaitable<void> start(Timeout timeout);

  /// Asks the worker to stop, waits until it has been reaped and tells how it went. Takes effect when called; the
  /// awaitable only waits. Calls in flight may finish for WorkerOptions::shutdown_grace and are cancelled then; new
  /// ones, and those that have not been sent, end with Errc::stopping.
  ///
  /// The process has gone grace + stop_margin + term_grace after the call at the latest, and the kernel's time. A
  /// worker's failures are told in the report, not thrown. There is one stop for a worker: a second stop() joins it,
  /// may only shorten it, and gets the same report. Never started: an empty report. Cancelled once, the process gets
  /// SIGTERM (and SIGKILL after term_grace), stop() waits for that and throws operation_aborted; cancelled twice it
  /// ends at once and the reaper goes on alone.
  [[nodiscard]] asio::awaitable<StopReport> stop();
  /// 0 cancels calls in flight at once, nullopt lets them finish however long they take.
  [[nodiscard]] asio::awaitable<StopReport> stop(Timeout grace);

  /// Runs a routine in the worker. Arguments are encoded and the call is sent (or queued, in order) before call()
  /// returns; calls made by coroutines whose answers have come together leave together. The awaitable only waits, and
  /// cancels the call if it is destroyed unawaited. At most once. A std::string or std::vector<std::byte> of 64 KiB or
  /// more that is moved in is sent from where it is, without a copy, and gone even if the call fails; such results of
  /// routines likewise.
  ///
  /// Errors: RemoteError if the routine threw; Errc::unknown_routine, bad_arguments, message_too_large (the worker is
  /// unharmed); Errc::worker_exited with the status if the worker ended, even with status 0; Errc::stopping;
  /// Errc::not_running; Errc::deadline_exceeded; Errc::no_such_worker if it lacks a tag; Errc::protocol_error.
  /// Cancelling ends it with operation_aborted at once and cancels the routine; the place it has in the worker is free
  /// when the routine has ended, or CallOptions::kill_after has killed the worker.
  template <class R = void, class... A>
  [[nodiscard]] asio::awaitable<R> call(RoutineName routine, A&&... arguments) {
    return detail::begin_call<R>(detail::dispatcher_of(worker_), CallOptions{}, routine, std::forward<A>(arguments)...);
  }
  template <class R = void, class... A>
  [[nodiscard]] asio::awaitable<R> call(CallOptions options, RoutineName routine, A&&... arguments) {
    return detail::begin_call<R>(detail::dispatcher_of(worker_), options, routine, std::forward<A>(arguments)...);
  }

  /// Asks the worker's control thread, which answers whatever user code does; waits for at most 5 s, or `bound`.
  /// Callers at the same time share a request.
  ///
  /// *Errors:* Errc::deadline_exceeded if the worker does not answer in time, because it is stopped by a signal, say;
  /// Errc::not_running; Errc::worker_exited; Errc::connection_lost if it has closed its control socket;
  /// Errc::protocol_error if it wrote nonsense to it; std::invalid_argument if `bound` is negative.
  /// *Cancellation:* ends this wait with operation_aborted, and nothing else.
  [[nodiscard]] asio::awaitable<WorkerStatus> status();
  [[nodiscard]] asio::awaitable<WorkerStatus> status(Timeout bound);

  /// 0 before it is started.
  pid_t pid() const;
  /// The process exists and has not been reaped.
  bool alive() const;
  /// Throws Errc::not_running before start() has succeeded; the reference stays valid as long as the worker.
  const WorkerMetadata& metadata() const;

 private:
  std::shared_ptr<detail::WorkerSession> worker_;  // see create_worker()
};

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/local_worker.ipp>
#endif
