#pragma once

#include <drover/detail/platform.hpp>

#include <chrono>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/detail/context/as_async.hpp>
#include <drover/pool/detail/call/async_call.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/call/typed_async_call.hpp>
#include <drover/pool/detail/call/typed_call.hpp>
#include <drover/pool/detail/worker/handle.hpp>
#include <drover/pool/options.hpp>
#include <drover/pool/stream.hpp>
#include <drover/routine.hpp>

namespace drover { inline namespace v1 {

/// One worker process that runs routines for this program.
///
///     asio::any_io_executor executor = co_await asio::this_coro::executor;
///     drover::LocalWorker worker(executor);
///     co_await worker.start();
///     int nine = co_await worker.call<int>("square", 3);
///     co_await worker.stop();
///
/// An empty worker (default-constructed or moved from) fails with Errc::not_running. Move-only.
///
/// *Threads:* any thread may call any member. A coroutine that awaits is resumed on its own executor. `on_event` is
/// called on the worker's executor.
///
/// *Lifetime:* the object and its io_context may be destroyed in any order and at any time. The process then gets
/// SIGTERM, and SIGKILL after term_grace. Calls fail with operation_aborted if the worker was destroyed, with
/// Errc::connection_lost if its io_context was; calls that were awaited on that context are destroyed with it. If the
/// parent replaces itself by exec, the process exits by itself, because its sockets are closed, and stays a zombie
/// until the new program waits for it; prepare_for_exec() leaves no zombie.
class [[nodiscard]] LocalWorker {
 public:
  LocalWorker() = default;
  LocalWorker(LocalWorker&&) noexcept = default;
  LocalWorker& operator=(LocalWorker&&) noexcept = default;

  /// Spawns nothing and checks nothing before start().
  LocalWorker(asio::any_io_executor executor) : LocalWorker(std::move(executor), WorkerOptions()) {}
  LocalWorker(asio::any_io_executor executor, WorkerOptions options)
      : worker_(detail::create_worker(executor, std::move(options), true)) {}

  /// Starts the process and waits until it serves, for at most 30 s.
  ///
  /// *Errors:* after each of them no process is left. Errc::start_timeout; Errc::start_failed with the exit status if
  /// the process exited first, or with the exception that its on_start() threw; std::system_error with the errno if the
  /// program can't be executed; Errc::version_mismatch; Errc::protocol_error if the program is not a drover worker;
  /// operation_aborted if the worker is stopped meanwhile; std::invalid_argument for options out of range;
  /// std::logic_error if the worker was started before, or in a worker that has not reached serve().
  /// *Cancellation:* the first one ends the process, and start() throws operation_aborted afterwards. The
  /// second one does not wait for that.
  /// *Threads:* start() and call() need the worker's executor to be running. If it
  /// is not, a start() that is awaited on another executor fails with Errc::start_timeout. stop() does not need it.
  [[nodiscard]] asio::awaitable<void> start();
  /// The same with another time-out, which must be positive; nullopt is no bound.
  [[nodiscard]] asio::awaitable<void> start(Timeout timeout);
  /// The same for a completion token: a handler void(std::exception_ptr), which is never invoked by this function and
  /// runs on its own executor, or on the worker's if it has none. The start begins at once, whatever the token; a
  /// deferred operation that is dropped ends it again. If it is cancelled before its wait has begun, the handler may
  /// run before the process has exited.
  template <class Token>
  auto async_start(Timeout timeout, Token&& token) {
    return detail::as_async(begin_start(timeout), executor(), std::forward<Token>(token));
  }
  template <class Token>
  auto async_start(Token&& token) {
    return detail::as_async(begin_start(std::chrono::seconds(30)), executor(), std::forward<Token>(token));
  }

  /// Stops the worker, waits until it has been reaped, and reports how that went. The stop begins when stop() is
  /// called; the awaitable only waits. Calls in flight may finish for WorkerOptions::shutdown_grace and are then
  /// cancelled. New calls, and calls that have not been sent, fail with Errc::stopping.
  ///
  /// The process has exited at most grace + stop_margin + term_grace after the call, plus the time that the kernel
  /// needs. There is one stop for a worker: a second stop() joins it, may only shorten it, and gets the same report. A
  /// worker that was never started gets an empty report.
  ///
  /// *Errors:* the worker's failures are in the report. std::system_error if the kernel refuses SIGKILL.
  /// *Cancellation:* the first one sends SIGTERM (and SIGKILL after term_grace); stop() waits for the exit and throws
  /// operation_aborted. The second one ends the wait at once, and the reaper thread goes on alone.
  [[nodiscard]] asio::awaitable<StopReport> stop();
  /// The same with another grace. 0 cancels calls in flight at once, nullopt lets them finish however long they take.
  [[nodiscard]] asio::awaitable<StopReport> stop(Timeout grace);
  /// The same for a completion token: a handler void(std::exception_ptr, StopReport), as with async_start().
  template <class Token>
  auto async_stop(Timeout grace, Token&& token) {
    return detail::as_async(stop(grace), executor(), std::forward<Token>(token));
  }
  template <class Token>
  auto async_stop(Token&& token) {
    return detail::as_async(stop(), executor(), std::forward<Token>(token));
  }

  /// Runs a routine in the worker, at most once. Arguments are encoded and the call is sent (or queued, in order)
  /// before call() returns; the awaitable only waits. Calls of coroutines whose results have arrived together leave
  /// together. A std::string or std::vector<std::byte> of 64 KiB or more that is moved in is sent from where it is,
  /// without a copy, and is lost even if the call fails. Such results of routines are sent in the same way. borrow()
  /// lends text or bytes instead.
  ///
  /// *Errors:* RemoteError if the routine threw; Errc::unknown_routine, bad_arguments, message_too_large (the worker is
  /// unharmed); Errc::worker_exited with the status if the worker exited, even with status 0; Errc::stopping;
  /// Errc::not_running; Errc::deadline_exceeded; Errc::no_such_worker if the worker lacks a tag; Errc::protocol_error.
  /// *Cancellation:* ends the call with operation_aborted at once and cancels the routine. The worker's slot is
  /// released when the routine returns, or when CallOptions::kill_after has killed the worker. Destroying the awaitable
  /// before it is awaited cancels the call, too.
  template <class R = void, class... A>
  [[nodiscard]] asio::awaitable<R> call(RoutineName routine, A&&... arguments) {
    return detail::begin_call<R>(detail::dispatcher_of(worker_), detail::usual_options(), routine,
                                 std::forward<A>(arguments)...);
  }
  template <class R = void, class... A>
  [[nodiscard]] asio::awaitable<R> call(CallOptions options, RoutineName routine, A&&... arguments) {
    return detail::begin_call<R>(detail::dispatcher_of(worker_), options, routine, std::forward<A>(arguments)...);
  }

  /// The same for a routine that both sides have declared: a call with other arguments does not compile.
  ///
  /// *Errors:* Errc::bad_arguments names both types if the worker's program has declared it otherwise.
  template <class R, class... P, class... A>
  [[nodiscard]] asio::awaitable<R> call(const Routine<R(P...)>& routine, A&&... arguments) {
    return detail::begin_typed_call(detail::dispatcher_of(worker_), CallOptions{}, routine,
                                    std::forward<A>(arguments)...);
  }
  template <class R, class... P, class... A>
  [[nodiscard]] asio::awaitable<R> call(CallOptions options, const Routine<R(P...)>& routine, A&&... arguments) {
    return detail::begin_typed_call(detail::dispatcher_of(worker_), options, routine, std::forward<A>(arguments)...);
  }

  /// Calls a routine that sends items while it runs, takes some, or both, see Stream. The call begins when stream() is
  /// called; what is wrong with it, next(), send() and result() throw.
  template <class R, class Out = void, class In = void, class... A>
  Stream<R, Out, In> stream(RoutineName routine, A&&... arguments) {
    return detail::begin_stream_of<Stream<R, Out, In>>(detail::dispatcher_of(worker_), CallOptions{}, routine,
                                                       std::forward<A>(arguments)...);
  }
  template <class R, class Out = void, class In = void, class... A>
  Stream<R, Out, In> stream(CallOptions options, RoutineName routine, A&&... arguments) {
    return detail::begin_stream_of<Stream<R, Out, In>>(detail::dispatcher_of(worker_), options, routine,
                                                       std::forward<A>(arguments)...);
  }

  /// The same for a routine that both sides have declared, with a Sink, a Source or both among its parameters. Its
  /// arguments are the others, in order.
  template <class R, class... P, class... A>
  auto stream(const Routine<R(P...)>& routine, A&&... arguments) {
    return detail::begin_typed_stream(detail::dispatcher_of(worker_), CallOptions{}, routine,
                                      std::forward<A>(arguments)...);
  }
  template <class R, class... P, class... A>
  auto stream(CallOptions options, const Routine<R(P...)>& routine, A&&... arguments) {
    return detail::begin_typed_stream(detail::dispatcher_of(worker_), options, routine, std::forward<A>(arguments)...);
  }

  /// The same for a completion token, see WorkerPool::async_call().
  template <class R = void, class... A>
  auto async_call(RoutineName routine, A&&... arguments_and_token) {
    return detail::begin_async_call<R>(detail::dispatcher_of(worker_), CallOptions{}, routine,
                                       std::forward<A>(arguments_and_token)...);
  }
  template <class R = void, class... A>
  auto async_call(CallOptions options, RoutineName routine, A&&... arguments_and_token) {
    return detail::begin_async_call<R>(detail::dispatcher_of(worker_), std::move(options), routine,
                                       std::forward<A>(arguments_and_token)...);
  }
  template <class R, class... P, class... A>
  auto async_call(const Routine<R(P...)>& routine, A&&... arguments_and_token) {
    return detail::begin_typed_async_call(detail::dispatcher_of(worker_), CallOptions{}, routine,
                                          std::forward<A>(arguments_and_token)...);
  }
  template <class R, class... P, class... A>
  auto async_call(CallOptions options, const Routine<R(P...)>& routine, A&&... arguments_and_token) {
    return detail::begin_typed_async_call(detail::dispatcher_of(worker_), std::move(options), routine,
                                          std::forward<A>(arguments_and_token)...);
  }

  /// Asks the worker's control thread, which answers whatever user code does. Waits for at most 5 s, or `bound`.
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
  /// The reference is valid as long as the worker.
  ///
  /// *Errors:* Errc::not_running before start() has succeeded.
  const WorkerMetadata& metadata() const;

 private:
  asio::awaitable<void> begin_start(Timeout timeout);
  asio::any_io_executor executor() const { return detail::executor_of(detail::dispatcher_of(worker_)); }
  std::shared_ptr<detail::WorkerSession> worker_;  // see create_worker()
};

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/local_worker.ipp>
#endif
