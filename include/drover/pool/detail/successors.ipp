#pragma once

#include <memory>
#include <new>
#include <utility>

#include <drover/pool/detail/slots.hpp>
#include <drover/pool/detail/successors.hpp>

namespace drover { inline namespace v1 { namespace detail {

// ---- turns ----------------------------------------------------------------------------------------------------------

inline void Successors::carry_out(Slot& slot, const SlotState::Actions& actions) {
  if (actions.ask_for_turn) turns_.ask(slot.at);
  if (actions.withdraw) turns_.withdraw(slot.at);
  if (actions.end_turn && turns_.has_turn(slot.at)) end_turn();
  if (actions.ask_for_turn || actions.end_turn) give_turns();
  if (!actions.drop_successor) return;
  if (slot.successor)
    slot.successor->drop();
  else  // it has not been started yet
    failed(slot, aborted());
}

inline void Successors::forget(const Slot& slot, const std::shared_ptr<WorkerSession>& last) noexcept {
  turns_.withdraw(slot.at);
  if (!turns_.has_turn(slot.at)) return;
  if (last)
    retired_ = last;
  else if (retired_.expired())
    end_turn();
}

inline void Successors::end_turn() noexcept {
  retired_.reset();
  if (const auto current = turns_.current()) turns_.end(*current);
}

/// Gives the next slot its turn, if none has one.
inline void Successors::give_turns() {
  while (const auto at = turns_.next()) {
    const std::shared_ptr<Slot> slot = slots_.slot(*at);
    const SlotState::Actions actions = slot->state.turn_came();
    if (actions.end_turn) turns_.end(*at);
    if (actions.start_successor && !slots_.try_post([this, slot] { start(slot); }))
      failed(*slot, std::make_exception_ptr(std::bad_alloc()));
  }
}

// ---- a successor ----------------------------------------------------------------------------------------------------

inline void Successors::start(const std::shared_ptr<Slot>& slot) {
  std::shared_ptr<WorkerSession> session;
  try {
    if (!slots_.may_start(*slot, [this, slot] { start(slot); })) return;
    session = put(*slot);
  } catch (...) {
    return start_failed(slot, nullptr, std::current_exception());
  }
  if (session)
    slots_.factory().spawn(
        session, [this, slot, session](const std::exception_ptr& cause) { start_failed(slot, session, cause); });
}

inline void Successors::start_failed(const std::shared_ptr<Slot>& slot, const std::shared_ptr<WorkerSession>& session,
                                     const std::exception_ptr& cause) {
  {
    const auto held = slots_.lock();
    if (slots_.stopping()) return;
    if (session && is_retired(*session)) {  // the slot has been removed
      end_turn();
      give_turns();
    }
    if (slot->removed || slot->successor != session) return;
    slots_.totals().count({}, DeathCause::failed_start);
    failed(*slot, cause);
    slots_.has_changed(cause);
  }
  slots_.complete_dropped_calls();
}

/// Null if none is wanted any more.
inline std::shared_ptr<WorkerSession> Successors::put(Slot& slot) {
  RetiredWorkers::Sessions over;
  std::shared_ptr<WorkerSession> session;
  {
    const auto held = slots_.lock();
    if (slots_.stopping() || slot.removed) return nullptr;
    if (slot.state.successor() != SlotState::Successor::starting || slot.successor) return nullptr;
    slots_.retired().reserve(over);
    session = slots_.factory().worker(slot.options, &slot);
    const auto& child = slot.session->record().child;
    slots_.events().emit(Event::Kind::replacing, child ? child->pid() : 0, [](Event&) {});
    session->begin_start();  // under the mutex: a stop that comes now finds it started
    slot.successor = session;
    slot.successor_options = slot.options;
    slots_.retired().take_over(over);
  }
  for (const auto& retired : over) retired->owner_destroyed();
  return session;
}

inline void Successors::failed(Slot& slot, const std::exception_ptr& cause) {
  slots_.changes().successor_failed(slot, slot.successor ? slot.successor_options : slot.options, cause);
  if (slot.successor) {
    slots_.retired().reserve(1);
    slots_.retired().add(std::exchange(slot.successor, nullptr));
  }
  slots_.carry_out(slot, slot.state.successor_exited(Clock::now()));
}

inline void Successors::promote(Slot& slot, const SlotState::Actions& actions) {
  slot.timer.cancel();
  const auto before = std::exchange(slot.session, std::exchange(slot.successor, nullptr));
  slot.session_options = slot.successor_options;
  slots_.retired().add(before);
  ++slots_.totals().restarts;
  if (!actions.retire) return;
  retired_ = before;
  before->retire(slots_.options().recycle.drain);
}

}}}  // namespace drover::v1::detail
