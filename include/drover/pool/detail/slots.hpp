#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <asio/steady_timer.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/os/detail/cpu.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/event_source.hpp>
#include <drover/pool/detail/first_start.hpp>
#include <drover/pool/detail/pool_executor.hpp>
#include <drover/pool/detail/reload.hpp>
#include <drover/pool/detail/replacement_turns.hpp>
#include <drover/pool/detail/retired_workers.hpp>
#include <drover/pool/detail/slot_state.hpp>
#include <drover/pool/detail/start_queue.hpp>
#include <drover/pool/detail/worker/session.hpp>
#include <drover/pool/detail/worker/supervision.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The slots of a pool with their workers. Starts workers, and carries out what each SlotState decides. Guarded by the
/// dispatcher's mutex.
class PoolSlots final : public WorkerSupervision, public std::enable_shared_from_this<PoolSlots> {
 public:
  using Sessions = std::vector<std::shared_ptr<WorkerSession>>;

  PoolSlots(PoolOptions options, std::shared_ptr<Dispatcher> dispatcher, std::shared_ptr<EventSink> events)
      : options_(std::move(options)),
        latest_options_(std::make_shared<const WorkerOptions>(options_.worker)),
        dispatcher_(std::move(dispatcher)),
        events_(std::move(events), options_.worker.name),
        starts_(options_.size, StartQueue::limit(available_cores())),
        first_start_(options_.size, starts_.most()) {}

  const PoolOptions& options() const noexcept { return options_; }

  // ---- the first start, without the mutex ---------------------------------------------------------------------------

  /// False if a worker has failed to start.
  bool start_first(std::size_t at);
  /// Null if another worker may be started now. Otherwise it is to be awaited.
  std::shared_ptr<AsyncEvent> await_start_room();
  const std::shared_ptr<AsyncEvent>& start_settled() const noexcept { return first_start_.settled(); }
  /// Workers that exit are replaced from now on. Returns the first failure of a start.
  std::exception_ptr end_start();

  // ---- with the mutex held ------------------------------------------------------------------------------------------

  /// No further worker is started, and planned changes fail with `cause`. False if that was so before.
  bool stop_starting(const Cause& cause) noexcept;
  bool stopping() const noexcept { return stopping_; }
  /// All slots are down: new calls are refused.
  bool failed() const noexcept { return failed_; }
  /// In a forked copy of the program: the timers are not touched.
  void release_timers() noexcept;

  Sessions sessions() const;
  /// Of the workers in the slots, in order.
  std::vector<StopReport> stop_reports() const;
  std::size_t size() const noexcept { return slots_.size(); }
  std::uint64_t crashes() const noexcept { return crashes_; }
  std::uint64_t restarts() const noexcept { return restarts_; }

  // ---- planned changes, without the mutex ---------------------------------------------------------------------------

  /// Replaces all workers, one after another. Throws Error during a stop.
  std::shared_ptr<Reload> begin_reload(std::optional<Command> command);
  /// Its caller does not wait any more. The slot that it has reached keeps its worker.
  void cancel_reload(const std::shared_ptr<Reload>& reload);

  /// New slots whose first workers are being started: all of them get ready, or the slots are removed again.
  struct Growth {
    std::size_t from = 0;  // the number of slots before
    std::size_t left = 0;  // workers that are not ready yet
    std::exception_ptr failure{};
    const std::shared_ptr<AsyncEvent> over = std::make_shared<AsyncEvent>();
  };
  struct Resize {
    std::shared_ptr<Growth> growth{};  // null: slots were removed, or nothing was to be done
    Sessions removed{};                // workers that are to end
  };
  /// Adds slots and begins to start their workers, or removes slots and begins to stop their workers. An earlier resize
  /// that is not over ends with operation_aborted. Throws Error during a stop, and std::invalid_argument.
  Resize begin_resize(std::size_t size);
  /// Its caller does not wait any more: the slots are removed again.
  void cancel_growth(const std::shared_ptr<Growth>& growth);

  /// The owner is destroyed, and nobody changes the slots any more.
  void owner_destroyed() noexcept;

 private:
  using Environment = std::map<std::string, std::string>;
  using Reloads = std::list<std::shared_ptr<Reload>>;

  struct Slot {
    explicit Slot(RestartPolicy policy) : state(policy) {}

    SlotState state;
    Environment environment;
    std::shared_ptr<WorkerSession> session;     // the current worker, or the last one; null: there was none
    std::shared_ptr<WorkerSession> successor;   // null: there is none
    std::weak_ptr<WorkerSession> retired;       // the predecessor whose exit ends the turn
    std::unique_ptr<asio::steady_timer> timer;  // until a worker is started, or has proved itself
    std::unique_ptr<asio::steady_timer> recycle_timer;
    // Of the next worker, of the current one and of the successor.
    std::shared_ptr<const WorkerOptions> options, session_options, successor_options;
    std::shared_ptr<Growth> growth;  // null: its first worker has been ready
    bool queued = false;             // waits in the StartQueue
    bool counted = false;            // is counted by the StartQueue
  };

  std::unique_lock<std::mutex> lock() const { return dispatcher_->lock(); }

  // WorkerSupervision
  inline void worker_ready(WorkerSession& session) override;
  inline void worker_answered(WorkerSession& session) override;
  inline void worker_leaving(WorkerSession& session) override;
  inline void worker_exited(WorkerSession& session) override;
  inline void worker_worn_out(WorkerSession& session) override;

  // With the mutex held.
  /// Throws Error if the context is destroyed.
  std::shared_ptr<WorkerSession> make_worker(std::size_t at, WorkerOptions options, const Environment& environment);
  /// Null for a slot that has been removed.
  Slot* slot_of(const WorkerSession& session) noexcept;
  bool is_current(const WorkerSession& session) noexcept;
  void count_death(Supervisor::Death death) noexcept;
  void carry_out(std::size_t at, const SlotState::Actions& actions, std::optional<ExitStatus> exit = std::nullopt);
  void fail_if_all_are_down(const std::exception_ptr& cause, std::optional<ExitStatus> exit, CallQueue& dropped);
  using Then = void (PoolSlots::*)(std::size_t slot);
  void start_timer(std::unique_ptr<asio::steady_timer>& timer, std::size_t at, Duration delay, Then then);
  void give_turn() noexcept;
  void start_is_over(Slot& slot) noexcept;

  // With the mutex held: planned replacements.
  void promote(std::size_t at, const SlotState::Actions& actions);
  void successor_failed(std::size_t at, const std::exception_ptr& cause);
  void give_replacement_turns();
  void begin_age(std::size_t at);
  void advance_reloads();
  bool advance(Reload& reload);
  void reload_failed(std::size_t at, const std::shared_ptr<const WorkerOptions>& options, std::exception_ptr cause);
  void end_reload(Reloads::iterator at, std::exception_ptr failure) noexcept;

  std::uint64_t jittered(std::uint64_t limit);
  void watch_memory();

  // With the mutex held: slots that come and go.
  std::shared_ptr<Growth> add_slots(std::size_t size, std::vector<Environment>& environments, std::size_t first);
  void remove_slots(std::size_t size, Sessions& removed);
  void end_growth(std::exception_ptr failure);
  bool growth_failed(const Slot& slot, const std::exception_ptr& cause);

  // Without.
  Environment environment_of(std::size_t at) const;
  void start_successor(std::size_t at);
  void recycle(std::size_t at);
  void look_at_memory(std::size_t from);
  void start_again(std::size_t at);
  void start_next();
  void launch(std::size_t at);
  std::shared_ptr<WorkerSession> put_worker(std::size_t at);
  void has_lived(std::size_t at);

  const PoolOptions options_;
  std::shared_ptr<const WorkerOptions> latest_options_;  // of new slots
  const std::shared_ptr<Dispatcher> dispatcher_;
  EventSource events_;
  PoolExecutor executor_{*dispatcher_};
  StartQueue starts_;  // of replacements
  FirstStart first_start_;

  std::vector<Slot> slots_;
  RetiredWorkers retired_;
  ReplacementTurns turns_;
  std::unique_ptr<asio::steady_timer> memory_timer_;
  Reloads reloads_;                 // the first one is under way
  Reloads ended_reloads_;           // their callers are to be told, if there was no memory for it
  std::shared_ptr<Growth> growth_;  // null: no slots have been added whose workers are not ready yet
  std::minstd_rand random_{std::random_device{}()};
  bool failed_ = false;
  bool stopping_ = false;
  std::uint64_t crashes_ = 0;
  std::uint64_t restarts_ = 0;
};

}}}  // namespace drover::v1::detail

#include <drover/pool/detail/slots.ipp>
#include <drover/pool/detail/slots_recycle.ipp>
#include <drover/pool/detail/slots_replace.ipp>
#include <drover/pool/detail/slots_resize.ipp>
#include <drover/pool/detail/slots_start.ipp>
