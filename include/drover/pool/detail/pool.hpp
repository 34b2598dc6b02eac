#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/run_signals.hpp>
#include <drover/os/detail/fork_epoch.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/event_sink.hpp>
#include <drover/pool/detail/event_source.hpp>
#include <drover/pool/detail/first_start.hpp>
#include <drover/pool/detail/pool_executor.hpp>
#include <drover/pool/detail/retired_workers.hpp>
#include <drover/pool/detail/start_queue.hpp>
#include <drover/pool/detail/worker/waits.hpp>
#include <drover/pool/options.hpp>
#include <drover/pool/stats.hpp>
#include <drover/pool/supervisor.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The workers of a pool: starts them, replaces those that exit unexpectedly, stops them. Guarded by the dispatcher's
/// mutex.
class PoolImpl final : public ContextBound,
                       public WorkerSupervision,
                       public RunSignals::Target,
                       public std::enable_shared_from_this<PoolImpl> {
 public:
  static std::shared_ptr<PoolImpl> create(const asio::any_io_executor& executor, PoolOptions options);

  const std::shared_ptr<Dispatcher>& dispatcher() const noexcept { return dispatcher_; }

  // For start_pool().
  /// False if a worker has failed to start.
  bool start_first(std::size_t slot);
  /// Null if another worker may be started now. Otherwise it is to be awaited.
  std::shared_ptr<AsyncEvent> await_start_room();
  const std::shared_ptr<AsyncEvent>& start_settled() const noexcept { return first_start_.settled(); }
  /// Workers that exit are replaced from now on. Returns the first failure of a start.
  std::exception_ptr end_start();

  /// Takes effect at once. `since`: when the program asked for it.
  void begin_stop(Timeout grace, Clock::time_point since = Clock::now());
  /// Terminates the workers.
  void abort_stop();
  /// Sends SIGKILL to everything that is left of the workers.
  void kill_now();
  /// Refuses new calls. Waiting calls are still sent. The event is set when no caller waits any more.
  std::shared_ptr<AsyncEvent> drain_calls();
  /// Calls function(executor) on the executor, unless the context is destroyed or there is no memory for that.
  template <class F>
  void run_on_executor(F function) noexcept;
  /// The second signal of a run() cancels the calls, the third kills the workers.
  void on_signal(unsigned count) override;
  /// Waits until every worker has been reaped, whatever cancellations come.
  static asio::awaitable<void> await_stop_for_certain(std::shared_ptr<PoolImpl> pool);
  /// Waits until every worker has been reaped. `leaves`: a second cancellation ends the wait.
  static asio::awaitable<std::vector<StopReport>> await_stop(std::shared_ptr<PoolImpl> pool, bool leaves,
                                                             int cancellations = 0);

  /// The owner is destroyed.
  void abandon() noexcept;
  bool foreign() const noexcept { return epoch_.foreign(); }

  const PoolOptions& options() const noexcept { return options_; }
  std::vector<WorkerMetadata> workers() const;
  PoolStats stats() const;
  std::size_t in_flight() const {
    const auto held = lock();
    return dispatcher_->in_flight();
  }

 private:
  struct Slot {
    std::shared_ptr<WorkerSession> session;     // the current worker, or the last one
    std::unique_ptr<asio::steady_timer> timer;  // until a worker is started, or has proved itself
    Supervisor supervisor;
    bool down = false;           // given up, and no worker is ready
    bool starting = false;       // counted by the StartQueue
    bool successor_due = false;  // its worker drains, and another one is about to be started
  };

  PoolImpl(PoolOptions options, std::shared_ptr<Dispatcher> dispatcher, std::shared_ptr<EventSink> events)
      : options_(std::move(options)),
        dispatcher_(std::move(dispatcher)),
        events_(std::move(events), options_.worker.name),
        starts_(options_.size, StartQueue::limit(available_cores())),
        first_start_(options_.size, starts_.most()) {}

  std::unique_lock<std::mutex> lock() const { return dispatcher_->lock(); }

  inline void worker_ready(WorkerSession& session) override;
  inline void worker_answered(WorkerSession& session) override;
  inline void worker_leaving(WorkerSession& session) override;
  inline void worker_exited(WorkerSession& session) override;
  inline void context_destroyed() noexcept override;
  void detach(const Cause& gone) noexcept;

  // With the mutex held.
  std::shared_ptr<WorkerSession> make_worker(std::size_t slot);  // throws Error if the context is destroyed
  std::vector<std::shared_ptr<WorkerSession>> sessions() const;
  void replace(std::size_t at, const std::exception_ptr& cause, std::optional<ExitStatus> exit, Supervisor::Death death,
               CallQueue& dropped);
  void start_successor(std::size_t at, CallQueue& dropped);
  void fail_if_all_are_down(const std::exception_ptr& cause, std::optional<ExitStatus> exit, CallQueue& dropped);
  void start_timer(std::size_t at, Duration delay, void (PoolImpl::*then)(std::size_t));
  void give_turn() noexcept;
  void start_is_over(Slot& slot) noexcept;
  void emit(Event::Kind kind, std::optional<ExitStatus> exit);

  // Without.
  std::vector<std::shared_ptr<WorkerSession>> all_sessions() const;
  void start_again(std::size_t at);
  void start_next();
  void launch(std::size_t at);
  std::shared_ptr<WorkerSession> retire(std::size_t at);
  void has_lived(std::size_t at);

  const ForkEpoch epoch_;
  const PoolOptions options_;
  const std::shared_ptr<Dispatcher> dispatcher_;
  EventSource events_;
  PoolExecutor executor_{*dispatcher_};
  StartQueue starts_;  // of replacements
  FirstStart first_start_;

  std::vector<Slot> slots_;
  RetiredWorkers retired_;
  bool failed_ = false;  // all slots are down
  bool stopping_ = false;
  std::shared_ptr<AsyncEvent> unawaited_;  // null before drain_calls()
  std::uint64_t crashes_ = 0;
  std::uint64_t restarts_ = 0;
  WorkerDeaths deaths_;
};

template <class F>
void PoolImpl::run_on_executor(F function) noexcept {
  const auto held = lock();
  const auto executor = dispatcher_->executor();
  if (executor) executor_.try_post([executor = *executor, function = std::move(function)] { function(executor); });
}

/// Starts all workers or none. `leaves`: a second cancellation ends the wait for the exit of those that were started.
asio::awaitable<void> start_pool(std::shared_ptr<PoolImpl> pool, bool leaves);

}}}  // namespace drover::v1::detail

#include <drover/pool/detail/drained_stop.ipp>
#include <drover/pool/detail/pool.ipp>
#include <drover/pool/detail/pool_stats.ipp>
#include <drover/pool/detail/pool_stop.ipp>
