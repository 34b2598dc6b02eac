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
#include <asio/steady_timer.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/context/registry.hpp>
#include <drover/detail/context/strand.hpp>
#include <drover/os/detail/child_process.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/event_sink.hpp>
#include <drover/pool/detail/event_source.hpp>
#include <drover/pool/detail/worker/control_link.hpp>
#include <drover/pool/detail/worker/data_link.hpp>
#include <drover/pool/detail/worker/lifecycle.hpp>
#include <drover/pool/detail/worker/status_requests.hpp>
#include <drover/pool/detail/worker/stop_account.hpp>
#include <drover/pool/detail/worker/worker_errors.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// One worker process, from before its start until nothing is left of it. Owns its two sockets and its lifecycle, and
/// carries out what the lifecycle decides. The process belongs to the reaper thread; this only asks for things.
///
/// Guarded by its dispatcher's mutex. Coroutines that wait for it are in waits.hpp.
class WorkerSession final : public ContextBound,
                            public LinkOwner,
                            public ControlLink::Listener,
                            public DataLink::Listener,
                            public std::enable_shared_from_this<WorkerSession> {
 public:
  using State = WorkerLifecycle::State;

  /// The supervisor of a worker: its pool.
  class Supervision {
   public:
    virtual ~Supervision() = default;
    /// With the mutex held.
    virtual void worker_ready(WorkerSession&) = 0;
    /// Its first answer; with the mutex held.
    virtual void worker_answered(WorkerSession&) = 0;
    /// It drains by itself and takes no more calls; with the mutex held.
    virtual void worker_leaving(WorkerSession&) = 0;
    /// On the worker's executor, without the mutex.
    virtual void worker_exited(WorkerSession&) = 0;
  };

  /// `takes_calls`: connects the data socket once the worker is ready. `owns_dispatcher`: the dispatcher has no other
  /// worker, so this worker's state decides how new calls fail.
  struct Mode {
    bool takes_calls = true, owns_dispatcher = true;
  };

  static std::shared_ptr<WorkerSession> create(const asio::any_io_executor& executor, WorkerOptions options,
                                               std::shared_ptr<Dispatcher> dispatcher,
                                               std::shared_ptr<EventSink> events, Mode mode);
  ~WorkerSession();

  void supervise(std::weak_ptr<Supervision> supervision, std::size_t slot) {
    supervision_ = std::move(supervision);
    slot_ = slot;
  }
  /// The number of its slot in the pool.
  std::size_t slot() const noexcept { return slot_; }

  // ---- from any thread, without the mutex unless noted --------------------------------------------------------------

  /// Spawns the process and begins the handshake. Throws what start() throws at once. The same as begin_start(), with
  /// the mutex held, and then spawn().
  void start(Timeout timeout);
  /// A stop that comes from now on counts.
  void begin_start();
  void spawn(Timeout timeout);
  /// The start deadline has passed.
  void start_timed_out();

  /// False, and nothing is done, if it has not been started.
  bool stop(Timeout grace);
  /// A bound on the stop that comes from elsewhere.
  void shorten_stop(Clock::time_point at);
  /// No more patience.
  void abort_stop();
  /// SIGKILL to all of it, now.
  void kill();
  /// False if it has not been started.
  bool reap(Timeout patience);
  /// Sends STATUS for this waiter. Throws Error if the worker does not answer such requests.
  void ask_status(const std::shared_ptr<StatusWaiter>& waiter);
  /// The waiter's time is over.
  void end_status(const std::shared_ptr<StatusWaiter>& waiter);

  /// The owner is destroyed: hands the process to the reaper thread, and fails what waits.
  void owner_destroyed() noexcept;
  /// The process has been collected. Comes from the reaper thread by way of the worker's executor (`on_executor`), or
  /// from a waiting coroutine if that executor does not run.
  void process_exit(bool on_executor);

  WorkerLifecycle lifecycle() const {
    const auto held = lock();
    return lifecycle_;
  }
  bool answered_a_call() const {
    const auto held = lock();
    return answered_a_call_;
  }
  const WorkerLifecycle& lifecycle_under_lock() const noexcept { return lifecycle_; }
  bool answered_under_lock() const noexcept { return answered_a_call_; }
  /// Null before the process exists.
  std::shared_ptr<ChildProcess> child() const {
    const auto held = lock();
    return child_;
  }
  bool alive() const {
    const auto child = this->child();
    return child && child->running();
  }
  pid_t pid() const {
    const auto child = this->child();
    return child ? child->pid() : 0;
  }
  std::optional<ExitStatus> exit_status() const {
    const auto child = this->child();
    return child ? child->exit_status() : std::nullopt;
  }
  /// It said that it drains, and then exited with code 0.
  bool exited_gracefully() const {
    return lifecycle().exit_reason() == ExitReason::drained && exit_status().value_or(ExitStatus{}).success();
  }
  /// Set when it is ready, and then for good.
  const std::optional<WorkerMetadata>& metadata() const {
    static const std::optional<WorkerMetadata> not_yet;  // what the caller looks at without the mutex must not change
    const auto held = lock();
    return metadata_ ? metadata_ : not_yet;
  }
  StopReport stop_report() const {
    const auto held = lock();
    return stop_account_.report(lifecycle_, child_.get());
  }
  /// Null if it has started. For the one who throws it, on whatever thread: nobody else holds on to it.
  std::exception_ptr take_start_failure() {
    const auto held = lock();
    return std::exchange(start_failure_, nullptr);
  }
  Deadline start_by() const noexcept { return start_by_; }
  const WorkerOptions& options() const noexcept { return options_; }
  const std::shared_ptr<EventSink>& events() const noexcept { return events_.sink(); }
  const std::shared_ptr<Dispatcher>& dispatcher() const noexcept { return dispatcher_; }
  /// Set when it is ready, or has failed and exited.
  const std::shared_ptr<AsyncEvent>& started() const noexcept { return started_; }
  /// Set when nothing is left of it and every call has been completed, or it has not been started.
  const std::shared_ptr<AsyncEvent>& finished() const noexcept { return finished_; }
  /// In a forked copy of the program: nothing here is ours.
  bool foreign() const noexcept override { return dispatcher_->foreign(); }

  std::unique_lock<std::mutex> lock() const override { return dispatcher_->lock(); }

 private:
  struct Io {  // refers to the context
    explicit Io(const asio::any_io_executor& executor);
    asio::any_io_executor work;  // the context does not run out of work while the process lives
    asio::steady_timer start_timer;
    asio::steady_timer exit_timer;  // it should have exited by then
  };

  WorkerSession(WorkerOptions options, std::shared_ptr<Dispatcher> dispatcher, std::shared_ptr<EventSink> events,
                std::shared_ptr<ContextStrand> to_executor, Mode mode);

  // LinkOwner
  inline std::unique_lock<std::mutex> lock_context() const override;
  std::shared_ptr<void> keep_alive() override { return shared_from_this(); }
  inline void socket_failed(const char* what, std::error_code error) override;
  inline void peer_failed(std::exception_ptr failure) override;
  inline void run_completions() override;
  // ControlLink::Listener
  inline bool hello(const Frame& frame) override;
  inline bool stop_acknowledged() override;
  inline void draining(std::uint64_t last_begun) override;
  inline void control_closed(bool mid_frame) override;
  inline void control_broken() override;
  // DataLink::Listener
  std::string describe() const override { return errors_.worker(child_.get()); }
  void send_cancel(std::uint64_t call) override { control_.send_cancel(call); }
  inline void kill_worker() override;
  inline void read_results(int times) override;
  inline void result(const std::shared_ptr<Call>& call, Outcome outcome) override;
  inline void data_closed() override;
  inline void data_broken() override;
  // ContextBound
  inline void context_destroyed() noexcept override;

  // With the mutex held.
  void carry_out(const WorkerLifecycle::Actions& actions);
  bool child_runs() const { return !child_ || child_->running(); }
  void connect(UniqueFd control, UniqueFd data, Timeout timeout);
  void start_deadline();
  void open_calls();
  void fail_start(std::exception_ptr failure);
  void give_up(std::exception_ptr failure);
  void expect_exit(Error otherwise);
  void send_stop();
  void end_calls(CallQueue& ended);
  CallQueue take_queued() noexcept;
  void emit(Event::Kind kind, std::optional<ExitStatus> exit = std::nullopt);
  void close_links() noexcept;
  template <class Then>
  void after(asio::steady_timer& timer, Clock::time_point at, Then then);

  // Without.
  void complete(const WorkerLifecycle::Actions& actions);
  template <class Decide>
  void change(Decide decide);
  void on_child_event(const ChildEvent& event);
  void process_exit_later();
  void calls_answered();
  void group_over();
  void detach(const Cause& gone) noexcept;

  static constexpr std::chrono::milliseconds exit_patience{500};
  static constexpr std::size_t most_events = 8;  // of a life: SIGKILL may be sent twice

  const WorkerOptions options_;
  const Mode mode_;
  const std::shared_ptr<Dispatcher> dispatcher_;
  const WorkerErrors errors_;
  EventSource events_;
  const std::shared_ptr<ContextStrand> to_executor_;  // for the reaper thread
  std::weak_ptr<Supervision> supervision_;
  std::size_t slot_ = 0;

  WorkerLifecycle lifecycle_;
  ControlLink control_;
  DataLink data_;
  std::shared_ptr<ChildProcess> child_;
  std::unique_ptr<Io> io_;  // while the process lives and the context does
  bool context_destroyed_ = false;
  bool exit_expected_ = false;  // exit_timer runs
  bool answered_a_call_ = false;
  bool exit_was_expected_ = false;
  Deadline start_by_;
  std::optional<WorkerMetadata> metadata_;
  StopAccount stop_account_;
  std::exception_ptr start_failure_;  // until it is thrown
  std::exception_ptr failure_;        // why it was given up
  const std::shared_ptr<AsyncEvent> started_ = std::make_shared<AsyncEvent>();
  const std::shared_ptr<AsyncEvent> finished_ = std::make_shared<AsyncEvent>();
};

}}}  // namespace drover::v1::detail

#include <drover/pool/detail/worker/session.ipp>
#include <drover/pool/detail/worker/session_exit.ipp>
#include <drover/pool/detail/worker/session_messages.ipp>
