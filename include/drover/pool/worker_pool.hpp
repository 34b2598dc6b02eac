#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/this_coro.hpp>

#include <drover/detail/config.hpp>
#include <drover/detail/context/as_async.hpp>
#include <drover/os/detail/program_exit.hpp>
#include <drover/pool/broadcast.hpp>
#include <drover/pool/detail/call/async_call.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/call/typed_async_call.hpp>
#include <drover/pool/detail/call/typed_call.hpp>
#include <drover/pool/map.hpp>
#include <drover/pool/options.hpp>
#include <drover/pool/stats.hpp>
#include <drover/pool/stream.hpp>
#include <drover/routine.hpp>

namespace drover { inline namespace v1 {
namespace detail {
class PoolImpl;
}

/// Workers that share calls. A worker that exits unexpectedly is replaced, one that has become old or too large if the
/// options say so, and all of them by reload().
///
///     drover::PoolOptions options{.size = 4};
///     drover::WorkerPool pool = co_await drover::WorkerPool::start(options);
///     int nine = co_await pool.call<int>("square", 3);
///     co_await pool.stop();
///
/// with_pool() calls stop() whatever happens in between. An empty pool (default-constructed or moved from) fails with
/// Errc::not_running. Move-only.
///
/// *Threads:* any thread may call any member. A coroutine that awaits is resumed on its own executor.
///
/// *Lifetime:* the pool and its io_context may be destroyed in any order and at any time. The processes then get
/// SIGTERM, and SIGKILL after term_grace. Calls fail with operation_aborted if the pool was destroyed, with
/// Errc::connection_lost if its io_context was; calls that were awaited on that context are destroyed with it.
class [[nodiscard]] WorkerPool {
 public:
  WorkerPool() = default;
  WorkerPool(WorkerPool&&) noexcept = default;
  WorkerPool& operator=(WorkerPool&&) noexcept = default;

  /// Starts PoolOptions::size workers at the same time, on the awaiting coroutine's executor: all or none.
  ///
  /// *Errors:* if a worker fails to start, the others are stopped and its error is thrown, see LocalWorker::start().
  /// *Cancellation:* the first one ends all workers, and start() throws operation_aborted afterwards. The second one
  /// does not wait for that.
  [[nodiscard]] static asio::awaitable<WorkerPool> start();
  [[nodiscard]] static asio::awaitable<WorkerPool> start(PoolOptions options);

  /// Runs a routine in a worker with the fewest calls in flight: the one used last while fewer calls are in flight than
  /// there are cores, the one used least recently otherwise. If all are full, the call waits its turn. The rest is as
  /// with LocalWorker::call().
  ///
  /// *Complexity:* constant, however many workers and calls there are; O(log n) in the number of calls with a deadline.
  ///
  /// *Errors:* also Errc::overloaded if PoolOptions::max_queued calls are waiting, and Errc::pool_failed if every slot
  /// has been given up.
  template <class R = void, class... A>
  [[nodiscard]] asio::awaitable<R> call(RoutineName routine, A&&... arguments) {
    return detail::begin_call<R>(dispatcher(), detail::usual_options(), routine, std::forward<A>(arguments)...);
  }
  template <class R = void, class... A>
  [[nodiscard]] asio::awaitable<R> call(CallOptions options, RoutineName routine, A&&... arguments) {
    return detail::begin_call<R>(dispatcher(), options, routine, std::forward<A>(arguments)...);
  }

  /// The same for a routine that both sides have declared: a call with other arguments does not compile.
  ///
  /// *Errors:* Errc::bad_arguments names both types if the worker's program has declared it otherwise.
  template <class R, class... P, class... A>
  [[nodiscard]] asio::awaitable<R> call(const Routine<R(P...)>& routine, A&&... arguments) {
    return detail::begin_typed_call(dispatcher(), CallOptions{}, routine, std::forward<A>(arguments)...);
  }
  template <class R, class... P, class... A>
  [[nodiscard]] asio::awaitable<R> call(CallOptions options, const Routine<R(P...)>& routine, A&&... arguments) {
    return detail::begin_typed_call(dispatcher(), options, routine, std::forward<A>(arguments)...);
  }

  /// Calls a routine that sends items while it runs, takes some, or both, see Stream. The call begins when stream() is
  /// called; what is wrong with it, next(), send() and result() throw.
  template <class R, class Out = void, class In = void, class... A>
  Stream<R, Out, In> stream(RoutineName routine, A&&... arguments) {
    return detail::begin_stream_of<Stream<R, Out, In>>(dispatcher(), CallOptions{}, routine,
                                                       std::forward<A>(arguments)...);
  }
  template <class R, class Out = void, class In = void, class... A>
  Stream<R, Out, In> stream(CallOptions options, RoutineName routine, A&&... arguments) {
    return detail::begin_stream_of<Stream<R, Out, In>>(dispatcher(), options, routine, std::forward<A>(arguments)...);
  }

  /// The same for a routine that both sides have declared, with a Sink, a Source or both among its parameters. Its
  /// arguments are the others, in order.
  template <class R, class... P, class... A>
  auto stream(const Routine<R(P...)>& routine, A&&... arguments) {
    return detail::begin_typed_stream(dispatcher(), CallOptions{}, routine, std::forward<A>(arguments)...);
  }
  template <class R, class... P, class... A>
  auto stream(CallOptions options, const Routine<R(P...)>& routine, A&&... arguments) {
    return detail::begin_typed_stream(dispatcher(), options, routine, std::forward<A>(arguments)...);
  }

  /// The same for a completion token, which is the last argument: a callback, asio::use_future, and so on. The handler
  /// gets void(std::exception_ptr, R), or void(std::exception_ptr) for R = void. It is never invoked by this function,
  /// and runs on its own executor, or on that of the pool if it has none. With a lazy token, such as asio::deferred,
  /// the call begins when its operation is started, and the arguments are copied until then.
  template <class R = void, class... A>
  auto async_call(RoutineName routine, A&&... arguments_and_token) {
    return detail::begin_async_call<R>(dispatcher(), CallOptions{}, routine, std::forward<A>(arguments_and_token)...);
  }
  template <class R = void, class... A>
  auto async_call(CallOptions options, RoutineName routine, A&&... arguments_and_token) {
    return detail::begin_async_call<R>(dispatcher(), std::move(options), routine,
                                       std::forward<A>(arguments_and_token)...);
  }

  /// The same for a routine that both sides have declared: a call with other arguments does not compile.
  template <class R, class... P, class... A>
  auto async_call(const Routine<R(P...)>& routine, A&&... arguments_and_token) {
    return detail::begin_typed_async_call(dispatcher(), CallOptions{}, routine,
                                          std::forward<A>(arguments_and_token)...);
  }
  template <class R, class... P, class... A>
  auto async_call(CallOptions options, const Routine<R(P...)>& routine, A&&... arguments_and_token) {
    return detail::begin_typed_async_call(dispatcher(), std::move(options), routine,
                                          std::forward<A>(arguments_and_token)...);
  }

  /// Calls the routine with each item of an input range, as many at a time as keep all workers busy, or as
  /// MapOptions::in_flight says. The range is read as calls end, by map() and Map::next() alone, and at most so many
  /// items are in memory at a time, however long it is and however slow its reader.
  ///
  ///     auto results = pool.map<Digest>(options, "sha256", paths);
  ///     while (auto done = co_await results.next()) print(done->input, done->value());
  ///
  /// With GCC 12 write the result of next() into a variable of its own: co_await in a condition is miscompiled there.
  template <class R = void, std::ranges::input_range Range>
    requires std::ranges::viewable_range<Range>
  Map<R, std::views::all_t<Range>> map(MapOptions options, RoutineName routine, Range&& range) {
    using Input = std::ranges::range_value_t<Range>;
    return {dispatcher(), std::move(options), std::string(routine.view()), std::views::all(std::forward<Range>(range)),
            detail::MapEncoder<Input>{[](const Input& input, Encoder& out, detail::FrameBody& body) {
              detail::put_argument(out, body, input);
            }}};
  }
  /// The same for a routine that both sides have declared.
  template <class R, class P, std::ranges::input_range Range>
    requires std::ranges::viewable_range<Range>
  Map<R, std::views::all_t<Range>> map(MapOptions options, const Routine<R(P)>& routine, Range&& range) {
    using Input = std::ranges::range_value_t<Range>;
    static_assert(detail::arguments_fit(std::type_identity<R(P)>(), std::type_identity<void(const Input&)>()));
    return {dispatcher(), std::move(options), std::string(routine.name()), std::views::all(std::forward<Range>(range)),
            detail::MapEncoder<Input>{[](const Input& input, Encoder& out, detail::FrameBody& body) {
                                        detail::put_typed_argument<P>(out, body, input);
                                      },
                                      detail::declaration_of<R(P)>()}};
  }

  /// Makes one call in each worker that takes calls, all at the same time, and waits for all of them. Each waits for
  /// its worker if that has no room, and takes turns with the calls that any worker may run: by CallOptions::priority,
  /// and by age. The results are by slot, errors of single calls among them: each slot has one, but for those of an
  /// elastic pool that need no worker at that moment. The arguments are encoded once for each worker.
  /// CallOptions::retry and CallOptions::key have no meaning here.
  ///
  /// *Errors:* what new calls fail with; Errc::no_such_worker if no worker takes calls at that moment. In the results:
  /// Errc::worker_exited for a worker that exits before it has answered, Errc::not_running for a slot that has
  /// no worker that takes calls at that moment.
  /// *Cancellation:* cancels all of the calls.
  template <class R = void, class... A>
  [[nodiscard]] asio::awaitable<std::vector<SlotResult<R>>> broadcast(RoutineName routine, const A&... arguments) {
    return detail::begin_broadcast<R>(broadcast_targets(), CallOptions{}, routine, arguments...);
  }
  template <class R = void, class... A>
  [[nodiscard]] asio::awaitable<std::vector<SlotResult<R>>> broadcast(CallOptions options, RoutineName routine,
                                                                      const A&... arguments) {
    return detail::begin_broadcast<R>(broadcast_targets(), options, routine, arguments...);
  }
  /// The same for a routine that both sides have declared.
  template <class R, class... P, class... A>
  [[nodiscard]] asio::awaitable<std::vector<SlotResult<R>>> broadcast(const Routine<R(P...)>& routine,
                                                                      const A&... arguments) {
    return detail::begin_typed_broadcast(broadcast_targets(), CallOptions{}, routine, arguments...);
  }
  template <class R, class... P, class... A>
  [[nodiscard]] asio::awaitable<std::vector<SlotResult<R>>> broadcast(CallOptions options,
                                                                      const Routine<R(P...)>& routine,
                                                                      const A&... arguments) {
    return detail::begin_typed_broadcast(broadcast_targets(), options, routine, arguments...);
  }

  /// Stops all workers at the same time under one budget, waits until they have been reaped, and reports how each stop
  /// went, by slot. The stop begins when stop() is called; the awaitable only waits. A later one joins it. See
  /// LocalWorker::stop().
  ///
  /// *Cancellation:* the first one sends SIGTERM to the workers (and SIGKILL after term_grace); stop() waits for the
  /// exits and throws operation_aborted. The second one ends the wait at once, and the reaper thread goes on alone.
  [[nodiscard]] asio::awaitable<std::vector<StopReport>> stop();
  /// The same with another grace, which also lets calls that wait be run if StopOptions::drain_queue is set. New calls
  /// fail with Errc::stopping at once. All of it has one budget, which PoolOptions::shutdown_timeout cuts short as
  /// ever; reports count from when the workers are asked to stop. A stop() without drain_queue ends the draining.
  ///
  /// *Errors:* std::invalid_argument if the grace is negative.
  /// *Cancellation:* as above. The first one ends the draining, too.
  [[nodiscard]] asio::awaitable<std::vector<StopReport>> stop(StopOptions options);
  /// The same for a completion token: a handler void(std::exception_ptr, std::vector<StopReport>), which is never
  /// invoked by this function and runs on its own executor, or on the pool's if it has none. The stop begins at once.
  template <class Token>
  auto async_stop(StopOptions options, Token&& token) {
    const asio::any_io_executor executor = detail::executor_of(dispatcher());
    return detail::as_async(stop(options), executor, std::forward<Token>(token));
  }
  template <class Token>
  auto async_stop(Token&& token) {
    const asio::any_io_executor executor = detail::executor_of(dispatcher());
    return detail::as_async(stop(), executor, std::forward<Token>(token));
  }

  /// Replaces all workers, one slot after another, while calls go on. The successor of a worker is started first; once
  /// it is ready, the worker gets no more calls, finishes those that it has and exits; RecyclePolicy::drain bounds
  /// that. Without a Command the successors run that of the last reload that succeeded, or of the pool's start: the
  /// program that is at its path by now, unless it is Command::self(). A slot whose worker has crashed is started at
  /// once. The reload begins when reload() is called; the awaitable only waits, until the last worker has exited.
  /// Reloads run one after another.
  ///
  /// *Errors:* the first successor that does not get ready ends the reload, and reload() throws its error. The workers
  /// that it has not come to, and those that restart later in their slots, keep their Command.
  /// std::invalid_argument for a Command without a program; Errc::stopping.
  /// *Cancellation:* ends the reload and throws operation_aborted. A successor that is not ready is stopped.
  [[nodiscard]] asio::awaitable<ReloadReport> reload();
  [[nodiscard]] asio::awaitable<ReloadReport> reload(Command command);

  /// Changes the number of slots, and waits until the workers of new slots are ready, or those of removed slots have
  /// ended. Slots are added and removed at the end of the numbers. The workers of removed slots get no more calls, and
  /// have PoolOptions::shutdown_grace to finish those that they have. The change begins when resize() is called; the
  /// awaitable only waits. A later resize() ends one that still waits for new workers, with operation_aborted, and
  /// waits for those that are left of them.
  ///
  /// In an elastic pool this changes PoolOptions::size, and max_size only if that is smaller. The lowest slots that
  /// have no worker get one. If the size was larger, no more than `size` workers stay: of those that are ready, the
  /// ones in the lowest slots. The pool grows again if calls wait. Otherwise workers beyond `size` stay until they have
  /// been idle for idle_after.
  ///
  /// *Errors:* if a worker of a new slot does not get ready, the new slots are removed, and its error is thrown. An
  /// elastic pool has its old size again; those that got ready go when they are idle.
  /// std::invalid_argument for 0 and for more than 1,048,576; Errc::stopping; what PoolOptions::slot_env throws.
  /// *Cancellation:* new slots are removed again. The workers of removed slots get SIGTERM, and the wait goes on until
  /// they have ended; the second cancellation ends it. Throws operation_aborted.
  [[nodiscard]] asio::awaitable<void> resize(std::size_t size);

  /// Of the workers that take calls.
  std::vector<WorkerMetadata> workers() const;
  /// How many workers and calls there are, how long calls wait and run, and what each worker does. For an interval,
  /// subtract earlier counts.
  ///
  /// *Complexity:* some 25 us for each worker, mostly to read its memory and CPU time from /proc, and linear in the
  /// calls in flight. Calls go on meanwhile.
  PoolStats stats() const;
  /// The same in the text format of Prometheus (version 0.0.4). The label `pool` is WorkerOptions::name; for several
  /// pools in one text see metrics_text(). Empty for an empty pool.
  std::string metrics() const;

 private:
  template <class Body>
  friend auto with_pool(PoolOptions options, Body body) -> std::invoke_result_t<Body&, WorkerPool&>;

  /// `make`: make_pool(). The coroutine does not name it, so that it does not need the code of a pool.
  using MakePool = std::shared_ptr<detail::PoolImpl>(const asio::any_io_executor&, PoolOptions);
  static asio::awaitable<WorkerPool> start(PoolOptions options, MakePool* make);
  const std::shared_ptr<detail::Dispatcher>& dispatcher() const noexcept;
  detail::BroadcastTargets broadcast_targets() const noexcept;

  std::shared_ptr<detail::PoolImpl> pool_;  // see own_pool()
};

namespace detail {

/// When the last copy of the result is destroyed, or assigned to, the pool's workers are handed to the reaper thread.
std::shared_ptr<PoolImpl> own_pool(std::shared_ptr<PoolImpl> pool);

// The steps of with_pool() that do not depend on its body.
std::shared_ptr<PoolImpl> make_pool(const asio::any_io_executor& executor, PoolOptions options);
asio::awaitable<void> set_up(std::shared_ptr<PoolImpl> pool);
/// Ends the pool whatever happens to the coroutine that waits for it, then throws what the body has thrown. No
/// cancellation makes it return early.
asio::awaitable<void> tear_down(std::shared_ptr<PoolImpl> pool, std::exception_ptr body_failure);

}  // namespace detail

/// Starts a pool, runs `body(pool)`, stops the pool however the body ends, and returns its result or throws what it
/// threw.
///
///     drover::PoolOptions options{.size = 4};
///     int nine = co_await drover::with_pool(options, [](drover::WorkerPool& pool) -> asio::awaitable<int> {
///       co_return co_await pool.call<int>("square", 3);
///     });
///
/// *Cancellation:* reaches the body first. The pool is then stopped without patience (SIGTERM, and SIGKILL after
/// term_grace), and further cancellations change nothing: when with_pool() returns, all workers have been reaped, also
/// if it was cancelled while they were being started.
/// *Lifetime:* the body is kept alive while it runs.
template <class Body>
auto with_pool(PoolOptions options, Body body) -> std::invoke_result_t<Body&, WorkerPool&> {
  using Result = typename std::invoke_result_t<Body&, WorkerPool&>::value_type;
  WorkerPool pool;
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  const std::shared_ptr<detail::PoolImpl> impl = detail::make_pool(executor, std::move(options));
  pool.pool_ = detail::own_pool(impl);  // the body may do with it what it likes
  co_await detail::set_up(impl);
  std::exception_ptr failure;
  std::conditional_t<std::is_void_v<Result>, std::monostate, std::optional<Result>> result;
  try {
    if constexpr (std::is_void_v<Result>)
      co_await body(pool);
    else
      result.emplace(co_await body(pool));
  } catch (...) {
    failure = std::current_exception();
  }
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);  // or a cancelled coroutine could not await the teardown
  std::exception_ptr outcome;
  try {
    co_await detail::tear_down(impl, failure);
  } catch (...) {
    outcome = std::current_exception();
  }
  co_await asio::this_coro::throw_if_cancelled(throws);
  if (outcome) std::rethrow_exception(outcome);
  if constexpr (!std::is_void_v<Result>) co_return std::move(*result);
}

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/worker_pool.ipp>
#endif
