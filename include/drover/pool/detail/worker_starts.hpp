#pragma once

#include <cstddef>
#include <exception>
#include <memory>

#include <drover/pool/detail/slot.hpp>
#include <drover/pool/detail/start_queue.hpp>
#include <drover/pool/detail/worker/session.hpp>

namespace drover { inline namespace v1 { namespace detail {

class PoolSlots;

/// Starts the workers that take the place of others, and those of new slots, one after another. Guarded by the
/// dispatcher's mutex.
class WorkerStarts {
 public:
  WorkerStarts(PoolSlots& slots, std::size_t size, std::size_t most) : slots_(slots), queue_(size, most) {}

  // ---- with the mutex held ------------------------------------------------------------------------------------------

  /// The pool has so many slots from now on. Throws std::bad_alloc.
  void resize(std::size_t slots) { queue_.resize(slots); }
  /// The worker that was started in that slot is ready, or has ended.
  void over(const Slot& slot) noexcept;
  /// The slot is none of the pool's any more, or dormant.
  void forget(const Slot& slot) noexcept;
  /// The slot's next worker may be a spare one. A slot that is given up tries ordinary workers.
  static bool may_take_spare(const Slot& slot) noexcept { return !slot.state.down() && slot.fits_a_spare(); }

  // ---- without it ---------------------------------------------------------------------------------------------------

  /// The time has come to start a worker in that slot.
  void due(const std::shared_ptr<Slot>& slot);

 private:
  // With the mutex held.
  void give_turn() noexcept;
  void place_spare(Slot& slot, WorkerSession& spare);
  // Without.
  void next();
  bool may_launch(const std::shared_ptr<Slot>& slot);
  void launch(const std::shared_ptr<Slot>& slot);
  /// `session`: null if there is none yet.
  void failed(const std::shared_ptr<Slot>& slot, const std::shared_ptr<WorkerSession>& session,
              const std::exception_ptr& cause);
  std::shared_ptr<WorkerSession> put_worker(const std::shared_ptr<Slot>& slot);

  PoolSlots& slots_;
  StartQueue queue_;
};

}}}  // namespace drover::v1::detail
