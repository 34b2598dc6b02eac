#pragma once

#include <cstddef>
#include <exception>
#include <memory>

#include <drover/pool/detail/replacement_turns.hpp>
#include <drover/pool/detail/slot.hpp>
#include <drover/pool/detail/worker/session.hpp>

namespace drover { inline namespace v1 { namespace detail {

class PoolSlots;

/// Starts successors beside the workers of a pool, one at a time, and puts them into their slots. Guarded by the
/// dispatcher's mutex.
class Successors {
 public:
  explicit Successors(PoolSlots& slots) noexcept : slots_(slots) {}

  void reserve(std::size_t slots) { turns_.reserve(slots); }
  /// See SlotState::Actions.
  void carry_out(Slot& slot, const SlotState::Actions& actions);
  /// The slot has been removed. Its turn goes on until that worker has exited; null: it ends now.
  void forget(const Slot& slot, const std::shared_ptr<WorkerSession>& last) noexcept;
  void give_turns();
  /// The successor is ready, and has begun to take calls. There is room among the retired workers.
  void promote(Slot& slot, const SlotState::Actions& actions);
  /// The successor did not get ready. The worker goes on.
  void failed(Slot& slot, const std::exception_ptr& cause);

  /// The worker whose exit ends the turn.
  bool is_retired(const WorkerSession& session) const noexcept { return retired_.lock().get() == &session; }
  bool await_exit_in(const Slot& slot) const noexcept { return turns_.has_turn(slot.at) && !retired_.expired(); }
  /// It has exited.
  void end_turn() noexcept;

 private:
  // Without the mutex.
  void start(const std::shared_ptr<Slot>& slot);
  /// `session`: null if there is none yet.
  void start_failed(const std::shared_ptr<Slot>& slot, const std::shared_ptr<WorkerSession>& session,
                    const std::exception_ptr& cause);
  std::shared_ptr<WorkerSession> put(Slot& slot);

  PoolSlots& slots_;
  ReplacementTurns turns_;
  std::weak_ptr<WorkerSession> retired_;
};

}}}  // namespace drover::v1::detail
