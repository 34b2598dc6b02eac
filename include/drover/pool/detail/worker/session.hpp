#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <sys/types.h>
#include <system_error>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/context/registry.hpp>
#include <drover/detail/context/strand.hpp>
#include <drover/os/detail/child_process.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/event_sink.hpp>
#include <drover/pool/detail/worker/connection.hpp>
#include <drover/pool/detail/worker/fork_server.hpp>
#include <drover/pool/detail/worker/lifecycle.hpp>
#include <drover/pool/detail/worker/process_events.hpp>
#include <drover/pool/detail/worker/status_requests.hpp>
#include <drover/pool/detail/worker/supervision.hpp>
#include <drover/pool/detail/worker/worker_exit.hpp>
#include <drover/pool/detail/worker/worker_record.hpp>
#include <drover/pool/options.hpp>
#include <drover/pool/stats.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// One worker process, from before its start until nothing is left of it. Owns its connection and its lifecycle, and
/// carries out what the lifecycle decides. The process belongs to the reaper thread; this only asks for things.
///
/// Guarded by its dispatcher's mutex. Coroutines that wait for it are in waits.hpp. The functions that they call are
/// virtual, which docs/internals/architecture.md explains under "Compile time".
class WorkerSession : public ContextBound,
                      public WorkerConnection::Owner,
                      public std::enable_shared_from_this<WorkerSession> {
 public:
  using State = WorkerLifecycle::State;

  /// `takes_calls`: connects the data socket once the worker is ready. `owns_dispatcher`: the dispatcher has no other
  /// worker, so this worker's state decides how new calls fail.
  /// `is_fork_server`: see fork_server().
  struct Mode {
    bool takes_calls = true, owns_dispatcher = true, is_fork_server = false;
  };

  static std::shared_ptr<WorkerSession> create(const asio::any_io_executor& executor, WorkerOptions options,
                                               std::shared_ptr<Dispatcher> dispatcher,
                                               std::shared_ptr<EventSink> events, Mode mode);

  /// `place`: what the supervision knows its slot by. Empty for a spare worker.
  void supervise(std::weak_ptr<WorkerSupervision> supervision, std::size_t slot, std::weak_ptr<void> place) {
    place_ = std::move(place);
    supervision_ = std::move(supervision);
    worker_.slot = slot;
  }
  /// Before the start. See RecyclePolicy::calls and RecyclePolicy::rss; 0: never.
  void recycle_after(std::uint64_t answers, std::size_t rss) noexcept {
    worker_.wears_out_at = answers;
    worker_.rss_limit = rss;
  }
  /// Before the start: the process is asked for there. Null: it is spawned.
  void start_from(std::shared_ptr<ProcessSource> source) noexcept { source_ = std::move(source); }
  bool is_fork_server() const noexcept { return mode_.is_fork_server; }
  /// Null before the process exists, and of an ordinary worker.
  const std::shared_ptr<ForkServer>& fork_server() const noexcept { return fork_server_; }
  /// The number of its slot in the pool.
  std::size_t slot() const noexcept { return worker_.slot; }
  std::shared_ptr<void> place() const noexcept { return place_.lock(); }

  // ---- a worker of a pool, with the mutex held ----------------------------------------------------------------------

  /// It takes no more calls, and ends once those that it has have ended, or `grace` has passed.
  void retire(Timeout grace) { carry_out(worker_.lifecycle.stop(Clock::now(), grace, worker_.child_runs())); }
  /// A spare worker takes that slot, and calls from now on. run_completions() has to follow. Throws std::bad_alloc.
  void take_slot(std::size_t slot, std::weak_ptr<void> place, const SlotVariables& variables);
  /// As retire(), without patience.
  void drop() { carry_out(worker_.lifecycle.abort(Clock::now(), worker_.child_runs())); }
  /// It has calls, with those whose caller has given up.
  bool has_calls() const noexcept { return connection_.in_flight() != 0; }
  /// It has had calls since the last time.
  bool was_active() noexcept { return std::exchange(answers_seen_, worker_.answers) != worker_.answers || has_calls(); }

  // ---- from any thread, without the mutex unless noted --------------------------------------------------------------

  /// Spawns the process and begins the handshake. Throws what start() throws at once. The same as begin_start(), with
  /// the mutex held, and then spawn().
  inline virtual void start(Timeout timeout);
  /// A stop that comes from now on counts.
  void begin_start();
  void spawn(Timeout timeout);
  /// spawn() will be called on another thread. release_context() has to follow it.
  void keep_context() {
    const auto held = lock();
    if (!context_destroyed_) connection_.keep_context();
  }
  void release_context() noexcept {
    const auto held = lock();
    connection_.release_context();
  }
  /// The start deadline has passed.
  inline virtual void start_timed_out();

  /// False, and nothing is done, if it has not been started.
  bool stop(Timeout grace);
  /// A bound on the stop that comes from elsewhere.
  void shorten_stop(Clock::time_point at);
  /// No more patience.
  inline virtual void abort_stop();
  /// SIGKILL to all of it, now.
  void kill();
  /// False if it has not been started.
  bool reap(Timeout patience);
  /// Sends STATUS for this waiter. Throws Error if the worker does not answer such requests.
  inline virtual void ask_status(const std::shared_ptr<StatusWaiter>& waiter);
  /// The waiter's time is over.
  inline virtual void end_status(const std::shared_ptr<StatusWaiter>& waiter);

  /// The owner is destroyed: hands the process to the reaper thread, and fails what waits.
  void owner_destroyed() noexcept;
  /// Processes the exit of its process.
  WorkerExit& exit() noexcept { return exit_; }

  WorkerLifecycle lifecycle() const {
    const auto held = lock();
    return worker_.lifecycle;
  }
  /// With the mutex held.
  const WorkerRecord& record() const noexcept { return worker_; }
  /// Of the worker and its calls, without what /proc knows. Its pid is 0 while it is being spawned. Empty before its
  /// start and after its exit.
  std::optional<WorkerFigures> figures(Clock::time_point now) const;
  /// Null before the process exists.
  std::shared_ptr<ChildProcess> child() const {
    const auto held = lock();
    return worker_.child;
  }
  /// Set when it is ready, and then for good.
  const std::optional<WorkerMetadata>& metadata() const {
    static const std::optional<WorkerMetadata> not_yet;  // what the caller looks at without the mutex must not change
    const auto held = lock();
    return worker_.metadata ? worker_.metadata : not_yet;
  }
  StopReport stop_report() const {
    const auto held = lock();
    return worker_.stop_report();
  }
  /// Null if it has started. For the one who throws it, on whatever thread: nobody else holds on to it.
  std::exception_ptr take_start_failure() {
    const auto held = lock();
    return std::exchange(worker_.start_failure, nullptr);
  }
  Deadline start_by() const noexcept { return connection_.start_by(); }
  const WorkerOptions& options() const noexcept { return worker_.options; }
  const std::shared_ptr<EventSink>& events() const noexcept { return worker_.events.sink(); }
  const std::shared_ptr<Dispatcher>& dispatcher() const noexcept { return dispatcher_; }
  /// Set when the start has a process, or will have none.
  const std::shared_ptr<AsyncEvent>& spawned() const noexcept { return spawned_; }
  /// Set when it is ready, or has failed and exited.
  const std::shared_ptr<AsyncEvent>& started() const noexcept { return started_; }
  /// Set when nothing is left of it and every call has been completed, or it has not been started.
  const std::shared_ptr<AsyncEvent>& finished() const noexcept { return finished_; }
  /// In a forked copy of the program: nothing here is ours.
  bool foreign() const noexcept { return dispatcher_->foreign(); }

  std::unique_lock<std::mutex> lock() const { return dispatcher_->lock(); }

  // ---- for its WorkerExit -------------------------------------------------------------------------------------------

  bool owns_dispatcher() const noexcept { return mode_.owns_dispatcher; }
  /// With the mutex held.
  inline void carry_out(const WorkerLifecycle::Actions& actions) override;
  /// With the mutex held. The calls that wait, if nobody else could take them.
  CallQueue take_queued() noexcept;
  /// The rest of it, without the mutex: a coroutine that is resumed, or destroyed, may own the worker.
  void complete(const WorkerLifecycle::Actions& actions);
  /// To the supervision, without the mutex.
  void report_exit();

 private:
  WorkerSession(WorkerOptions options, std::shared_ptr<Dispatcher> dispatcher, std::shared_ptr<EventSink> events,
                std::shared_ptr<ContextStrand> to_executor, Mode mode);

  // WorkerConnection::Owner
  std::shared_ptr<void> keep_alive() override { return shared_from_this(); }
  inline void became_ready(const WorkerLifecycle::Actions& actions) override;
  inline void first_answer() override;
  inline void worn_out() override;
  inline void leaves() override;
  // ContextBound
  inline void context_destroyed() noexcept override;

  static void kill(ChildProcess& child);

  // With the mutex held.
  void open_calls();
  void begin_calls();

  // Without.
  template <class Decide>
  void change(Decide decide);
  /// Keeps the session alive.
  std::shared_ptr<WorkerExit> shared_exit() { return {shared_from_this(), &exit_}; }
  void detach(const Cause& gone) noexcept;

  const Mode mode_;
  std::shared_ptr<ProcessSource> source_;
  std::shared_ptr<ForkServer> fork_server_;
  const std::shared_ptr<Dispatcher> dispatcher_;
  std::weak_ptr<WorkerSupervision> supervision_;

  WorkerRecord worker_;
  ProcessEvents process_events_;
  WorkerConnection connection_;
  WorkerExit exit_;
  std::weak_ptr<void> place_;
  std::uint64_t answers_seen_ = 0;
  bool context_destroyed_ = false;
  bool killed_ = false;  // by kill()
  const std::shared_ptr<AsyncEvent> spawned_ = std::make_shared<AsyncEvent>();
  const std::shared_ptr<AsyncEvent> started_ = std::make_shared<AsyncEvent>();
  const std::shared_ptr<AsyncEvent> finished_ = std::make_shared<AsyncEvent>();
};

}}}  // namespace drover::v1::detail

#include <drover/pool/detail/worker/session.ipp>
#include <drover/pool/detail/worker/worker_exit.ipp>
