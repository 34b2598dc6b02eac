#pragma once

#include <memory>
#include <new>
#include <utility>

#include <drover/pool/detail/slots.hpp>
#include <drover/pool/detail/successors.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Gives the next slot its turn, if none has one.
inline void Successors::give_turns() {
  while (const auto at = turns_.next()) {
    const SlotState::Actions actions = slots_.slot(*at).state.turn_came();
    if (actions.end_turn) turns_.end(*at);
    if (actions.start_successor && !slots_.try_post([this, at = *at] { start(at); }))
      failed(*at, std::make_exception_ptr(std::bad_alloc()));
  }
}

inline void Successors::start(std::size_t at) {
  try {
    if (const auto session = put(at)) session->spawn(slots_.options().start_timeout);
  } catch (...) {
    const auto held = slots_.lock();
    if (slots_.stopping() || at >= slots_.size()) return;
    slots_.totals().count({}, DeathCause::failed_start);
    failed(at, std::current_exception());
    slots_.changes().advance();
  }
}

/// Null if none is wanted any more.
inline std::shared_ptr<WorkerSession> Successors::put(std::size_t at) {
  RetiredWorkers::Sessions over;
  std::shared_ptr<WorkerSession> session;
  {
    const auto held = slots_.lock();
    if (slots_.stopping() || at >= slots_.size()) return nullptr;
    Slot& slot = slots_.slot(at);
    if (slot.state.successor() != SlotState::Successor::starting || slot.successor) return nullptr;
    slots_.retired().reserve(over);
    session = slots_.make_worker(at, *slot.options, slot.environment);
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

/// Before it was ready. The worker goes on.
inline void Successors::failed(std::size_t at, const std::exception_ptr& cause) {
  Slot& slot = slots_.slot(at);
  (void)slots_.changes().start_failed(at, slot.successor ? slot.successor_options : slot.options, cause);
  if (slot.successor) {
    slots_.retired().reserve(1);
    slots_.retired().add(std::exchange(slot.successor, nullptr));
  }
  slots_.carry_out(at, slot.state.successor_exited(Clock::now()));
}

/// The successor is ready, and has begun to take calls. There is room among the retired workers.
inline void Successors::promote(std::size_t at, const SlotState::Actions& actions) {
  Slot& slot = slots_.slot(at);
  slot.timer.reset();
  const auto before = std::exchange(slot.session, std::exchange(slot.successor, nullptr));
  slot.session_options = slot.successor_options;
  slots_.retired().add(before);
  ++slots_.totals().restarts;
  if (!actions.retire) return;
  slot.retired = before;
  before->retire(slots_.options().recycle.drain);
}

}}}  // namespace drover::v1::detail
