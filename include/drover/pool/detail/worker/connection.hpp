#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/steady_timer.hpp>

#include <drover/error.hpp>
#include <drover/os/fd.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/worker/control_link.hpp>
#include <drover/pool/detail/worker/data_link.hpp>
#include <drover/pool/detail/worker/lifecycle.hpp>
#include <drover/pool/detail/worker/stall_reports.hpp>
#include <drover/pool/detail/worker/status_requests.hpp>
#include <drover/pool/detail/worker/worker_record.hpp>
#include <drover/pool/stats.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The connection to one worker: its two sockets, the times by which something has to come from them, and what their
/// messages and errors mean for the worker's life. Every error of a system call either is retried or ends the worker in
/// bounded time, so that nobody waits for an answer that cannot come.
///
/// Guarded by the dispatcher's mutex.
class WorkerConnection final : public LinkOwner, public ControlLink::Listener, public DataLink::Listener {
 public:
  /// The session. Called with the mutex held.
  class Owner {
   public:
    virtual std::shared_ptr<void> keep_alive() = 0;
    virtual void carry_out(const WorkerLifecycle::Actions& actions) = 0;
    /// The worker is ready. On its own context.
    virtual void became_ready(const WorkerLifecycle::Actions& actions) = 0;
    virtual void first_answer() = 0;
    /// It has answered as many calls as it was to answer.
    virtual void worn_out() = 0;
    /// It drains by itself and takes no more calls.
    virtual void leaves() = 0;

   protected:
    ~Owner() = default;
  };

  WorkerConnection(Owner& owner, WorkerRecord& worker, Dispatcher& dispatcher)
      : owner_(owner),
        worker_(worker),
        dispatcher_(dispatcher),
        control_(*this, *this, worker.errors),
        data_(*this, *this, worker.options.max_in_flight),
        stall_reports_(worker.options.stall) {}
  ~WorkerConnection() { close(); }

  /// The process is being spawned on another thread: the context does not run out of work meanwhile.
  void keep_context();
  /// The context ends that work itself, see post_untracked().
  void release_context() noexcept;
  /// Opens both sockets and waits for HELLO. Without its context, nothing is read or written. Throws std::system_error.
  void open(UniqueFd control, UniqueFd data, Timeout start_timeout);
  void close() noexcept;

  Deadline start_by() const noexcept { return start_by_; }
  /// The start deadline has passed.
  void start_deadline();
  void fail_start(std::exception_ptr failure);

  /// The worker is ready: the dispatcher sends it calls.
  void begin_calls();
  /// See TAKE_SLOT.
  void take_slot(std::size_t slot, const SlotVariables& variables);
  void close_calls() noexcept { dispatcher_.close_link(data_); }
  void send_stop();

  /// STATUS can be sent and answered.
  bool answers_status() const noexcept { return worker_.lifecycle.serves() && control_.is_open(); }
  void ask_status(const std::shared_ptr<StatusWaiter>& waiter) { control_.ask_status(waiter); }
  void fail_status(const Cause& cause) { control_.fail_status(cause); }
  void probe() { control_.probe(); }

  /// Reads what the worker has sent before its exit. Results that were sent count.
  void read_rest();
  std::size_t in_flight() const noexcept { return data_.slots().in_flight(); }
  /// Of the calls that the worker runs, the one that it had first.
  CallNames oldest_call() const noexcept { return CallNames::of(data_.oldest()); }
  /// The calls that the worker runs, for PoolStats.
  void describe_calls(WorkerFigures& figures, Clock::time_point now) const;
  /// Ends the calls in flight; those in `ended` are to be completed without the mutex.
  void end_calls(CallQueue& ended);

  // LinkOwner
  std::unique_lock<std::mutex> lock() const override { return dispatcher_.lock(); }
  bool foreign() const noexcept override { return dispatcher_.foreign(); }

 private:
  struct Io {  // refers to the context
    explicit Io(const asio::any_io_executor& executor);
    asio::any_io_executor work;  // the context does not run out of work while the process lives
    asio::steady_timer start_timer;
    asio::steady_timer exit_timer;  // the process should have exited by then
  };

  // LinkOwner
  inline std::unique_lock<std::mutex> lock_context() const override;
  std::shared_ptr<void> keep_alive() override { return owner_.keep_alive(); }
  inline void socket_failed(const char* what, std::error_code error) override;
  inline void peer_failed(std::exception_ptr failure) override;
  void run_completions(std::unique_lock<std::mutex> held) override {
    dispatcher_.run_completions(true, std::move(held));
  }
  // ControlLink::Listener
  inline bool hello(const Frame& frame) override;
  inline void start_failed(const Frame& frame) override;
  inline bool stop_acknowledged() override;
  inline void draining(std::uint64_t last_begun) override;
  bool recalled(std::uint64_t call) override { return dispatcher_.take_back_recalled(data_, call); }
  inline bool stalled(std::uint64_t call, Duration age) override;
  inline void control_closed(bool mid_frame) override;
  inline void control_broken() override;
  // DataLink::Listener
  std::size_t slot() const noexcept override { return worker_.slot; }
  std::string describe() const override { return worker_.errors.worker(worker_.child.get()); }
  void send_cancel(std::uint64_t call, CancelReason reason) override { control_.send_cancel(call, reason); }
  void send_recall(std::uint64_t call) override { control_.send_recall(call); }
  inline void kill_worker(const Call& call) override;
  inline void read_results(int times) override;
  inline void result(const std::shared_ptr<Call>& call, Outcome outcome) override;
  void begun(Call& call) override { dispatcher_.call_began(call); }
  inline void data_closed() override;
  inline void data_broken() override;

  void check_memory();
  bool kill_process();
  void give_up(std::exception_ptr failure);
  void expect_exit(Error otherwise);
  void after(asio::steady_timer& timer, Clock::time_point at, std::function<void()> then);

  static constexpr std::chrono::milliseconds exit_patience{500};

  Owner& owner_;
  WorkerRecord& worker_;
  Dispatcher& dispatcher_;
  ControlLink control_;
  DataLink data_;
  StallReports stall_reports_;
  std::optional<asio::any_io_executor> spawning_;  // see keep_context()
  std::unique_ptr<Io> io_;                         // while the process lives and the context does
  Deadline start_by_;
  bool exit_expected_ = false;  // exit_timer runs
};

}}}  // namespace drover::v1::detail

#include <drover/pool/detail/worker/connection.ipp>
