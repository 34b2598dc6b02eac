#pragma once

#include <cstddef>
#include <exception>
#include <memory>

#include <drover/pool/detail/replacement_turns.hpp>
#include <drover/pool/detail/slot_state.hpp>
#include <drover/pool/detail/worker/session.hpp>

namespace drover { inline namespace v1 { namespace detail {

class PoolSlots;

/// Starts successors beside the workers of a pool, one at a time, and puts them into their slots. Guarded by the
/// dispatcher's mutex.
class Successors {
 public:
  explicit Successors(PoolSlots& slots) noexcept : slots_(slots) {}

  /// See SlotState::Actions.
  void carry_out(std::size_t at, const SlotState::Actions& actions) {
    if (actions.ask_for_turn) turns_.ask(at);
    if (actions.withdraw) turns_.withdraw(at);
    if (actions.end_turn) turns_.end(at);
    if (actions.ask_for_turn || actions.end_turn) give_turns();
  }
  /// The slot is being removed.
  void forget(std::size_t at) noexcept { turns_.end(at); }
  void give_turns();
  void promote(std::size_t at, const SlotState::Actions& actions);
  void failed(std::size_t at, const std::exception_ptr& cause);

 private:
  // Without the mutex.
  void start(std::size_t at);
  std::shared_ptr<WorkerSession> put(std::size_t at);

  PoolSlots& slots_;
  ReplacementTurns turns_;
};

}}}  // namespace drover::v1::detail
