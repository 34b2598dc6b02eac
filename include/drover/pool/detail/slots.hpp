#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include <asio/steady_timer.hpp>

#include <drover/os/detail/cpu.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/changes.hpp>
#include <drover/pool/detail/elasticity.hpp>
#include <drover/pool/detail/event_source.hpp>
#include <drover/pool/detail/first_start.hpp>
#include <drover/pool/detail/fork_servers.hpp>
#include <drover/pool/detail/pool_executor.hpp>
#include <drover/pool/detail/pool_totals.hpp>
#include <drover/pool/detail/retired_workers.hpp>
#include <drover/pool/detail/slot.hpp>
#include <drover/pool/detail/spares.hpp>
#include <drover/pool/detail/start_queue.hpp>
#include <drover/pool/detail/successors.hpp>
#include <drover/pool/detail/worker/session.hpp>
#include <drover/pool/detail/worker/supervision.hpp>
#include <drover/pool/detail/worker_factory.hpp>
#include <drover/pool/detail/worker_starts.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The slots of a pool with their workers. Carries out what each SlotState decides. Guarded by the dispatcher's mutex.
class PoolSlots : public WorkerSupervision, public std::enable_shared_from_this<PoolSlots> {
 public:
  using Sessions = std::vector<std::shared_ptr<WorkerSession>>;
  enum class Role { worker, successor, predecessor, spare, fork_server };

  PoolSlots(PoolOptions options, std::shared_ptr<Dispatcher> dispatcher, std::shared_ptr<EventSink> events)
      : options_(std::move(options)),
        dispatcher_(std::move(dispatcher)),
        events_(std::move(events), options_.worker.name),
        factory_(*this, dispatcher_),
        starts_(*this, options_.size, StartQueue::limit(available_cores())),
        first_start_(*this, options_.size, StartQueue::limit(available_cores())) {}

  const PoolOptions& options() const noexcept { return options_; }
  /// In a forked copy of the program.
  bool foreign() const noexcept { return dispatcher_->foreign(); }
  PoolChanges& changes() noexcept { return changes_; }
  Dispatcher& dispatcher() const noexcept { return *dispatcher_; }
  std::unique_lock<std::mutex> lock() const { return dispatcher_->lock(); }
  FirstStart& first_start() noexcept { return first_start_; }

  // ---- with the mutex held ------------------------------------------------------------------------------------------

  /// No further worker is started, and planned changes fail with `cause`. False if that was so before.
  bool stop_starting(const Cause& cause) noexcept;
  bool stopping() const noexcept { return stopping_; }
  /// Waiting calls are run before the stop. No planned change any more: those under way fail with `cause`.
  void drain(const Cause& cause) noexcept {
    draining_ = true;
    changes_.end_all(cause);
  }
  bool takes_changes() const noexcept { return !stopping_ && !draining_ && !first_start_.under_way(); }
  /// Throws why there is no planned change.
  [[noreturn]] void refuse_change() const;
  /// All slots are down: new calls are refused.
  bool failed() const noexcept { return failed_; }
  /// In a forked copy of the program: the timers are not touched.
  void release_timers() noexcept;

  /// Calls f(session, role) for all workers: first those that have the slots, in order, then successors, predecessors,
  /// spares and fork servers.
  template <class F>
  void for_each(F f) const {
    for (const auto& slot : slots_)
      if (slot->session) f(slot->session, Role::worker);
    for (const auto& slot : slots_)
      if (slot->successor) f(slot->successor, Role::successor);
    for (const auto& session : retired_.all()) f(session, Role::predecessor);
    spares_.for_each([&](const auto& session) { f(session, Role::spare); });
    forks_.for_each([&](const auto& session) { f(session, Role::fork_server); });
  }
  /// With dormant ones.
  std::size_t size() const noexcept { return slots_.size(); }
  /// Slots that are not dormant.
  std::size_t active() const noexcept { return slots_.size() - dormant_; }
  /// How many of them there are even if there is nothing to do.
  std::size_t least() const noexcept { return elasticity_.on() ? elasticity_.least() : slots_.size(); }
  PoolTotals& totals() noexcept { return totals_; }

  // ---- for its parts, with the mutex held ---------------------------------------------------------------------------

  const std::shared_ptr<Slot>& slot(std::size_t at) noexcept { return slots_[at]; }
  void carry_out(Slot& slot, const SlotState::Actions& actions, std::optional<ExitStatus> exit = std::nullopt);
  RetiredWorkers& retired() noexcept { return retired_; }
  Elasticity& elasticity() noexcept { return elasticity_; }
  EventSource& events() noexcept { return events_; }
  WorkerFactory& factory() noexcept { return factory_; }
  Spares& spares() noexcept { return spares_; }
  /// A spare worker that is ready has taken a slot.
  void took(WorkerSession& spare) { worker_ready(spare); }
  /// Workers with those options may be started in the future.
  bool uses(const Slot::Options& options) const noexcept;
  void renew_spares() { spares_.renew(); }
  bool awaits_exit_in(const Slot& slot) const noexcept { return successors_.await_exit_in(slot); }
  /// A planned replacement is under way.
  bool is_being_replaced(const Slot& slot) const noexcept {
    return slot.state.successor() == SlotState::Successor::starting || awaits_exit_in(slot) || changes_.reaches(slot);
  }
  /// Starts a successor of the worker, if that is the current one of its slot.
  void recycle(const WorkerSession& session) { worker_worn_out(session); }
  void recycle_later(Slot& slot, Duration delay);
  /// Makes room for so many slots. Throws std::bad_alloc.
  void reserve(std::size_t size);
  Slot& add(Slot::Environment environment, Slot::Options options);
  /// Removes the slots from that number on. Their workers are added to `removed`, and get their STOP.
  void remove_from(std::size_t size, Sessions& removed);
  /// Adds a dormant one, for which there is room.
  void add_dormant(Slot::Environment environment);
  /// A worker is started in a dormant slot. Throws std::bad_alloc; then it is still dormant.
  void wake(Slot& slot);
  /// The slot is dormant from now on, as if it had been removed and added. has_changed() has to follow.
  void put_to_sleep(std::size_t at, Sessions& removed);
  /// A worker did not get ready, or a slot has been removed: calls fail if no slot is left that works.
  /// complete_dropped_calls() has to follow.
  void has_changed(const std::exception_ptr& cause, std::optional<ExitStatus> exit = std::nullopt);
  /// Calls `then` without the mutex, unless the pool is stopped or destroyed by then.
  template <class F>
  void after(std::unique_ptr<asio::steady_timer>& timer, Duration delay, F then) {
    if (stopping_) return;
    executor_.after(timer, delay, [weak = weak_from_this(), then] {
      if (const auto alive = weak.lock()) then();
    });
  }
  /// The same after other handlers have run. False if there is no memory for it.
  template <class F>
  bool try_post(F then) noexcept {
    return executor_.try_post([weak = weak_from_this(), then] {
      if (const auto alive = weak.lock()) then();
    });
  }

  // ---- for its parts, without it ------------------------------------------------------------------------------------

  void complete_dropped_calls();
  /// False: `again` is called, without the mutex, when a worker of the slot may be started.
  template <class F>
  bool may_start(const Slot& slot, F again) {
    return options_.launch != Launch::fork || forks_.may_start(options_of(slot), std::move(again));
  }
  ForkServers& forks() noexcept { return forks_; }

 private:
  // WorkerSupervision
  inline void worker_ready(WorkerSession& session) override;
  inline void worker_answered(WorkerSession& session) override;
  inline void worker_worn_out(const WorkerSession& session) override;
  inline void worker_leaving(WorkerSession& session) override;
  inline void worker_exited(WorkerSession& session) override;

  // With the mutex held.
  /// Null for a spare worker, and if the slot has been removed.
  static std::shared_ptr<Slot> slot_of(const WorkerSession& session) noexcept;
  /// Its slot, if it is the current worker there. Otherwise null.
  static std::shared_ptr<Slot> slot_with(const WorkerSession& session) noexcept;
  static Supervisor::Death death_of(const WorkerSession& session);
  template <class F>
  void after(Slot& slot, SlotTimer Slot::* timer, Duration delay, F then);
  void make_room_for_removed(std::size_t slots, Sessions& removed);
  void retire_predecessors(std::size_t from, std::size_t to, Sessions& removed);
  void close(Slot& slot, Sessions& removed);

  // Without.
  Slot::Options options_of(const Slot& slot) const {
    const auto held = lock();
    return slot.options;
  }

  const PoolOptions options_;
  const std::shared_ptr<Dispatcher> dispatcher_;
  EventSource events_;
  PoolExecutor executor_{*dispatcher_};
  WorkerFactory factory_;
  WorkerStarts starts_;
  FirstStart first_start_;
  Successors successors_{*this};
  Spares spares_{*this, options_};
  ForkServers forks_{*this};
  PoolChanges changes_{*this, options_};
  Elasticity elasticity_{*this, options_};

  std::vector<std::shared_ptr<Slot>> slots_;
  std::size_t dormant_ = 0;
  RetiredWorkers retired_;
  CallQueue dropped_;  // see complete_dropped_calls()
  bool failed_ = false;
  bool stopping_ = false, draining_ = false;
  PoolTotals totals_;
};

}}}  // namespace drover::v1::detail

#include <drover/pool/detail/changes_recycle.ipp>
#include <drover/pool/detail/changes_reload.ipp>
#include <drover/pool/detail/changes_resize.ipp>
#include <drover/pool/detail/elasticity.ipp>
#include <drover/pool/detail/first_start.ipp>
#include <drover/pool/detail/fork_servers.ipp>
#include <drover/pool/detail/slots.ipp>
#include <drover/pool/detail/slots_lifetime.ipp>
#include <drover/pool/detail/spares.ipp>
#include <drover/pool/detail/successors.ipp>
#include <drover/pool/detail/worker_factory.ipp>
#include <drover/pool/detail/worker_starts.ipp>
