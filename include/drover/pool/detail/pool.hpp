#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/post.hpp>
#include <asio/this_coro.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/run_signals.hpp>
#include <drover/os/detail/fork_epoch.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/event_sink.hpp>
#include <drover/pool/detail/slots.hpp>
#include <drover/pool/detail/worker/waits.hpp>
#include <drover/pool/options.hpp>
#include <drover/pool/stats.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// A pool: its dispatcher and its slots, from their start to their end. The functions that coroutines call are virtual,
/// which docs/internals/architecture.md explains under "Compile time".
class PoolImpl : public ContextBound, public RunSignals::Target, public std::enable_shared_from_this<PoolImpl> {
 public:
  static std::shared_ptr<PoolImpl> create(const asio::any_io_executor& executor, PoolOptions options);

  const std::shared_ptr<Dispatcher>& dispatcher() const noexcept { return dispatcher_; }
  PoolSlots& slots() const noexcept { return *slots_; }

  /// Takes effect at once. `since`: when the program asked for it.
  inline virtual void begin_stop(Timeout grace, Clock::time_point since = Clock::now());
  /// Terminates the workers.
  inline virtual void abort_stop();
  /// Sends SIGKILL to everything that is left of the workers.
  void kill_now();
  /// Refuses new calls. Waiting calls are still sent. The event is set when no caller waits any more.
  inline virtual std::shared_ptr<AsyncEvent> drain_calls();
  /// The caller of the reload() or of the resize() does not wait any more.
  virtual void cancel(const std::shared_ptr<Reload>& reload) { slots_->changes().cancel(reload); }
  virtual void cancel(const std::shared_ptr<Growth>& growth) { slots_->changes().cancel(growth); }
  /// Calls function(executor) on the executor, unless the context is destroyed or there is no memory for that.
  template <class F>
  void run_on_executor(F function) noexcept;
  /// The second signal of a run() cancels the calls, the third kills the workers.
  inline void on_signal(unsigned count) override;
  /// Waits until every worker has been reaped, whatever cancellations come.
  static asio::awaitable<void> await_stop_for_certain(std::shared_ptr<PoolImpl> pool);
  /// Waits until every worker has been reaped. `leaves`: a second cancellation ends the wait.
  static asio::awaitable<std::vector<StopReport>> await_stop(std::shared_ptr<PoolImpl> pool, bool leaves,
                                                             int cancellations = 0);

  /// The owner is destroyed.
  inline virtual void abandon() noexcept;
  bool foreign() const noexcept { return epoch_.foreign(); }

  const PoolOptions& options() const noexcept { return slots_->options(); }
  std::vector<WorkerMetadata> workers() const;
  PoolStats stats() const;
  std::size_t in_flight() const {
    const auto held = lock();
    return dispatcher_->in_flight();
  }

 private:
  PoolImpl(PoolOptions options, std::shared_ptr<Dispatcher> dispatcher, std::shared_ptr<EventSink> events)
      : dispatcher_(std::move(dispatcher)),
        events_(std::move(events)),
        slots_(std::make_shared<PoolSlots>(std::move(options), dispatcher_, events_)) {}

  std::unique_lock<std::mutex> lock() const { return dispatcher_->lock(); }

  inline void context_destroyed() noexcept override;
  void detach(const Cause& gone) noexcept;
  PoolSlots::Sessions all_sessions() const;

  const ForkEpoch epoch_;
  const std::shared_ptr<Dispatcher> dispatcher_;
  const std::shared_ptr<EventSink> events_;  // may be null
  const std::shared_ptr<PoolSlots> slots_;
  std::shared_ptr<AsyncEvent> unawaited_;  // null before drain_calls()
};

template <class F>
void PoolImpl::run_on_executor(F function) noexcept {
  const auto held = lock();
  const auto executor = dispatcher_->executor();
  if (executor)
    PoolExecutor(*dispatcher_).try_post([executor = *executor, function = std::move(function)] { function(executor); });
}

/// Starts all workers or none. `leaves`: a second cancellation ends the wait for the exit of those that were started.
asio::awaitable<void> start_pool(std::shared_ptr<PoolImpl> pool, bool leaves);

}}}  // namespace drover::v1::detail

#include <drover/pool/detail/drained_stop.ipp>
#include <drover/pool/detail/pool.ipp>
#include <drover/pool/detail/pool_stats.ipp>
#include <drover/pool/detail/pool_stop.ipp>
