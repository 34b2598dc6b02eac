#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include <asio/steady_timer.hpp>

#include <drover/os/command.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/growth.hpp>
#include <drover/pool/detail/reload.hpp>
#include <drover/pool/detail/slot.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

class PoolSlots;

/// The planned changes of a pool: reload(), resize(), and recycling. PoolSlots reports to it what happens in the slots.
/// Guarded by the dispatcher's mutex.
class PoolChanges {
 public:
  using Sessions = std::vector<std::shared_ptr<WorkerSession>>;

  PoolChanges(PoolSlots& slots, const PoolOptions& options)
      : slots_(slots), policy_(options.recycle), latest_(std::make_shared<const WorkerOptions>(options.worker)) {}

  // ---- without the mutex --------------------------------------------------------------------------------------------

  /// Replaces all workers, one after another. Throws Error during a stop.
  std::shared_ptr<Reload> begin_reload(std::optional<Command> command);
  /// Its caller does not wait any more. The slot that it has reached keeps its worker.
  void cancel(const std::shared_ptr<Reload>& reload);

  struct Resize {
    std::shared_ptr<Growth> growth{};  // null: no worker of a new slot is to be awaited
    Sessions removed{};                // workers that are to end
  };
  /// Adds slots and begins to start their workers, or removes slots and begins to stop their workers. An earlier growth
  /// that is not over ends with operation_aborted. Throws Error during a stop, and std::invalid_argument.
  Resize begin_resize(std::size_t size);
  /// Its caller does not wait any more: the slots are removed again.
  void cancel(const std::shared_ptr<Growth>& growth);

  // ---- with it ------------------------------------------------------------------------------------------------------

  /// The first start is over.
  void begin_watching();
  /// Of workers of new slots.
  const Slot::Options& latest_options() const noexcept { return latest_; }
  /// Of the worker of a dormant slot. Throws std::bad_alloc.
  const Slot::Options& options_of_a_new_worker(std::size_t slot);
  /// A reload is replacing the worker of that slot.
  bool reaches(const Slot& slot) const noexcept;
  /// For a worker that is about to be started: after how many answers it is to be recycled. 0: never.
  std::uint64_t answers_of_a_worker() { return jittered(policy_.calls); }
  std::size_t rss_limit() const noexcept { return policy_.rss; }

  /// The slot has another worker, which is ready.
  void worker_ready(Slot& slot);
  /// The slot's worker, which has those options, did not get ready. True if the slot has been removed because of that.
  bool start_failed(Slot& slot, const Slot::Options& options, const std::exception_ptr& cause);
  /// The same of a successor. The slot stays.
  void successor_failed(const Slot& slot, const Slot::Options& options, const std::exception_ptr& cause) noexcept;
  /// The worker that was replaced has exited.
  void retired_exited(const Slot& slot, const StopReport& report) noexcept;
  /// Something has happened in the slots.
  void advance();
  /// All that is under way fails with `cause`. No further look at the workers.
  void end_all(const Cause& cause) noexcept;
  void release_timers() noexcept { (void)memory_timer_.release(); }

 private:
  using Reloads = std::list<std::shared_ptr<Reload>>;

  // Reloads.
  bool advance(Reload& reload);
  void end_reload(Reloads::iterator at, std::exception_ptr failure) noexcept;

  // Resizing.
  Resize resize(std::size_t size, std::vector<Slot::Environment>& environments, std::size_t first);
  void add_slots(std::size_t size, std::vector<Slot::Environment>& environments, std::size_t first);
  void shrink(std::size_t size, Sessions& removed);
  void change_least(std::size_t size, std::vector<Slot::Environment>& environments, std::size_t first,
                    Sessions& removed);
  void sleep_down_to(std::size_t size, Sessions& removed);
  void undo(const Growth& growth, Sessions& removed);
  bool grows() const noexcept { return growth_ && !growth_->ended(); }
  void end_growth(std::exception_ptr failure) noexcept;

  // Recycling.
  /// At least 0 and less than 1.
  double next_random() noexcept;
  std::uint64_t jittered(std::uint64_t limit);
  void begin_age(Slot& slot);
  void watch_memory();
  void look_at_memory(std::size_t from);  // without the mutex

  PoolSlots& slots_;
  const RecyclePolicy policy_;
  Slot::Options latest_;
  Reloads reloads_;                 // the first one is under way
  Reloads ended_;                   // there was no memory to complete their callers: advance() tries again
  std::shared_ptr<Growth> growth_;  // null: there is none. One that has ended is kept until its caller is completed
  std::unique_ptr<asio::steady_timer> memory_timer_;
  // See next_random(). (<random> is slow to compile.)
  std::uint64_t random_ = static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
};

}}}  // namespace drover::v1::detail
