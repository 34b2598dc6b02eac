#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/steady_timer.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/context/strand.hpp>
#include <drover/os/detail/child_process.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/event_sink.hpp>
#include <drover/pool/detail/worker/data_link.hpp>
#include <drover/pool/detail/worker/status_requests.hpp>
#include <drover/pool/detail/worker/stop_state.hpp>
#include <drover/pool/options.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/protocol.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// One worker process, from before its start until it has been reaped: the handshake, its two sockets, the stop.
/// Guarded by its dispatcher's mutex. The process belongs to the reaper; this only asks for things.
class WorkerCore final : public Resident, public Lane::Owner, public std::enable_shared_from_this<WorkerCore> {
 public:
  /// Who supervises it.
  class Supervision {
   public:
    virtual ~Supervision() = default;
    /// With the mutex held.
    virtual void worker_ready(WorkerCore&) = 0;
    /// Its first answer; with the mutex held.
    virtual void worker_answered(WorkerCore&) = 0;
    /// On the worker's executor, without the mutex.
    virtual void worker_ended(WorkerCore&) = 0;
  };

  enum class Phase { fresh, starting, ready, ended };

  /// `takes_calls`: connects the data socket once the worker is ready. `solo`: the dispatcher serves this worker only,
  /// so that the worker's state is what new calls are told.
  struct Mode {
    bool takes_calls = true, solo = true;
  };

  static std::shared_ptr<WorkerCore> create(const asio::any_io_executor& executor, WorkerOptions options,
                                            std::shared_ptr<Dispatcher> dispatcher, std::shared_ptr<EventSink> events,
                                            Mode mode);
  ~WorkerCore();

  void supervise(std::weak_ptr<Supervision> supervision, std::size_t slot) {
    supervision_ = std::move(supervision);
    slot_ = slot;
  }
  /// Which of the pool's slots it is in.
  std::size_t slot() const noexcept { return slot_; }

  // ---- without the mutex, from any thread ----

  /// With the mutex held: begin_start() is about to follow, and a stop before it counts already.
  void announce_start() noexcept {
    phase_ = Phase::starting;
    announced_ = true;
  }
  /// Spawns the process and begins the handshake. Throws what start() throws at once.
  void begin_start(Timeout timeout);
  /// Waits for the handshake that begin_start() began; throws what start() throws, once nothing is left of the process.
  static asio::awaitable<void> await_start(std::shared_ptr<WorkerCore> core);

  /// False, and nothing is done, if it has not begun to start.
  bool begin_stop(Timeout grace);
  /// A bound on the stop that comes from elsewhere.
  void cut_stop(Clock::time_point at);
  /// No more patience.
  void abort_stop();
  /// SIGKILL to all of it, now.
  void kill_now();
  /// Null: an empty report.
  static asio::awaitable<StopReport> await_stop(std::shared_ptr<WorkerCore> core);

  /// As begin_stop() and await_stop().
  bool begin_reap(Timeout patience);
  static asio::awaitable<ReapReport> await_reap(std::shared_ptr<WorkerCore> core);

  static asio::awaitable<WorkerStatus> ask_status(std::shared_ptr<WorkerCore> core, Timeout bound);

  /// The owner is gone: the process is handed to the reaper, what waits is answered, the context let go.
  void abandon() noexcept;

  Phase phase() const;
  /// It has said that it ends, and then exited with code 0.
  bool ended_gracefully() const;
  bool answered_a_call() const;
  bool alive() const;
  pid_t pid() const;
  std::optional<ExitStatus> exit_status() const;
  /// Set when it is ready, and then for good.
  const std::optional<WorkerMetadata>& metadata() const {
    static const std::optional<WorkerMetadata> not_yet;  // what the caller looks at without the mutex must not change
    const auto held = lock();
    return metadata_ ? metadata_ : not_yet;
  }
  StopReport stop_report() const;
  /// Null if it has started. For the one who throws it, on whatever thread: nobody else holds on to it.
  std::exception_ptr take_start_failure();
  const WorkerOptions& options() const noexcept { return options_; }
  bool stop_begun() const;
  /// It ended because CallOptions::kill_after was over.
  bool killed_for_a_call() const;
  /// In a forked copy of the program: nothing here is ours.
  bool foreign() const noexcept { return epoch_ != Reaper::epoch(); }

  /// Waits until nothing is left of the process. The first cancellation calls abort_stop() and waits on, the second
  /// ends the wait; afterwards a cancelled wait throws operation_aborted. `cancellations`: that have come before.
  static asio::awaitable<void> await_end(std::shared_ptr<WorkerCore> core, int cancellations = 0);
  /// The same for several; `leaves`: does the second cancellation end the wait?
  static asio::awaitable<void> await_ends(std::vector<std::shared_ptr<WorkerCore>> cores, bool leaves,
                                          int cancellations = 0);
  /// Waits until nothing is left of any of them, whatever cancellations come.
  static asio::awaitable<void> await_ends_for_certain(std::vector<std::shared_ptr<WorkerCore>> cores);

 private:
  static constexpr std::chrono::milliseconds end_patience{500};
  static constexpr std::size_t most_events = 8;  // of a life: SIGKILL may be sent twice

  static asio::awaitable<bool> await_conclusion(std::shared_ptr<WorkerCore> core, asio::any_io_executor executor,
                                                bool alone);
  /// A start that is bounded, should the worker's own context not be running.
  static asio::awaitable<void> conclude_start(std::shared_ptr<WorkerCore> core);
  bool at_home(const asio::any_io_executor& executor) const;
  Timeout patience_with_handlers(const asio::any_io_executor& executor) const;

  struct Io {  // refers to the context
    explicit Io(const asio::any_io_executor& ex);
    ~Io();
    asio::any_io_executor executor;
    asio::any_io_executor work;  // the context does not run out of work while the process lives
    asio::posix::stream_descriptor control, data;
    asio::steady_timer start_timer;
    asio::steady_timer end_timer;     // it should have exited by then
    asio::steady_timer memory_timer;  // the kernel may have memory again
  };

  WorkerCore(WorkerOptions options, std::shared_ptr<Dispatcher> dispatcher, std::shared_ptr<EventSink> events,
             std::shared_ptr<Courier> to_executor, Mode mode)
      : options_(std::move(options)),
        mode_(mode),
        dispatcher_(std::move(dispatcher)),
        events_(std::move(events)),
        event_reserve_(options_.name),
        to_executor_(std::move(to_executor)),
        lane_(*this, options_.max_in_flight),
        stop_({.stop_margin = options_.stop_margin, .shutdown_grace = options_.shutdown_grace}) {
    if (events_) event_reserve_.grow_to(most_events);
  }

  // Lane::Owner
  inline std::string describe() const override;
  inline void send_cancel(std::uint64_t call) override;
  inline void kill_worker() override;
  inline void write_failed(std::error_code error) override;
  inline void await_writable() override;
  inline void await_memory() override;
  inline void read_results() override;

  inline void evict() noexcept override;

  std::unique_lock<std::mutex> lock() const { return dispatcher_->lock(); }

  // With the mutex held.
  void connect(UniqueFd control, UniqueFd data, Timeout timeout);
  void watch_control();
  void watch_data();
  void data_closed();
  void queue_control(const FrameHeader& header, std::span<const std::byte> body = {});
  void flush_control();
  void write_control_failed(std::error_code error);
  void take_control_frames(int times);
  void take_results(int times);
  void take_result(const Frame& frame);
  Channel::Received receive_control();
  void control_frame(const Frame& frame);
  void control_closed();
  void hello(const Frame& frame);
  void fail_start(std::exception_ptr failure);
  void protocol_failure(std::exception_ptr failure);
  void give_up(std::exception_ptr failure);
  void socket_failed(const char* what, std::error_code error);
  void expect_end(std::exception_ptr otherwise);
  void expect_status_by_exit();
  void send_stop();
  void reap_within(Timeout patience);
  template <class Fill>
  void emit(Event::Kind kind, Fill fill) {
    emit_of(child_ ? child_->pid() : 0, kind, std::move(fill));
  }
  void emit(Event::Kind kind) {
    emit(kind, [](Event&) {});
  }
  void stopping_now(std::vector<std::shared_ptr<Call>>& dropped);
  void release_io() noexcept;
  void send_status_request();
  std::exception_ptr no_control_socket() const;
  std::string stop_remark() const;
  Cause end_cause() const;

  // Without.
  void on_control_readable();
  void on_start_timeout();
  void on_child_event(const ChildEvent& event);
  template <class Fill>
  void emit_of(pid_t pid, Event::Kind kind, Fill fill);
  void on_data_readable();
  void on_memory();
  /// `inside`: on the worker's executor.
  void on_ended(bool inside);
  void conclude();
  void conclude_group();
  void drop(const Cause& gone) noexcept;
  Cause dispatcher_refusal() const;

  const unsigned epoch_ = Reaper::epoch();
  const WorkerOptions options_;
  const Mode mode_;
  const std::shared_ptr<Dispatcher> dispatcher_;
  const std::shared_ptr<EventSink> events_;  // null without on_event
  EventReserve event_reserve_;
  const std::shared_ptr<Courier> to_executor_;  // for the reaper's thread
  std::weak_ptr<Supervision> supervision_;
  std::size_t slot_ = 0;

  Phase phase_ = Phase::fresh;
  bool announced_ = false;                       // starting, but begin_start() has not come yet
  std::unique_ptr<Io> io_;                       // while the process lives and the context does
  asio::any_io_executor executor_before_start_;  // moved into io_ at the start
  bool evicted_ = false;
  std::shared_ptr<Child> child_;
  std::optional<Channel> control_;
  UniqueFd data_socket_;  // until the worker is ready
  Lane lane_;
  bool control_blocked_ = false;
  bool control_closed_ = false;
  bool end_waits_ = false;  // on_ended() came while it was being spawned
  bool watching_control_ = false, watching_data_ = false;
  bool awaiting_memory_ = false;
  bool end_expected_ = false;
  bool concluded_ = false, group_concluded_ = false;
  Deadline start_by_;
  std::optional<WorkerMetadata> metadata_;
  StopState stop_;
  bool expected_end_ = false, end_was_expected_ = false;
  bool drains_ = false;  // it ends by itself, and has said so
  bool answered_a_call_ = false;
  bool killed_for_a_call_ = false;
  bool died_unasked_ = false;        // when the stop began it had ended already
  bool report_of_the_dead_ = false;  // it had been reaped before it was asked to stop
  StopReport report_;                // counts, as far as they are known
  std::exception_ptr start_failure_;
  std::exception_ptr failure_;  // why it was given up
  bool nonsense_ = false;       // what it sends is not read any more
  StatusRequests status_;
  bool greeted_ = false;
  std::optional<pid_t> greeted_by_;  // the worker itself, which a wrapper may have started
  const std::shared_ptr<AsyncEvent> started_ = std::make_shared<AsyncEvent>();   // ready, or failed and gone
  const std::shared_ptr<AsyncEvent> finished_ = std::make_shared<AsyncEvent>();  // gone, and all is answered
};

}}}  // namespace drover::v1::detail

#include <drover/pool/detail/worker/session_end.ipp>
#include <drover/pool/detail/worker/session_io.ipp>
#include <drover/pool/detail/worker/session_results.ipp>
#include <drover/pool/detail/worker/session_start.ipp>
#include <drover/pool/detail/worker/session_status.ipp>
#include <drover/pool/detail/worker/session_stop.ipp>
