#pragma once

#include <utility>

#include <drover/pool/detail/slots.hpp>
#include <drover/pool/detail/worker_starts.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline void WorkerStarts::due(const std::shared_ptr<Slot>& slot) {
  {
    const auto held = slots_.lock();
    if (slots_.stopping() || slot->removed) return;
    slot->timer.cancel();
    if (!queue_.begin(slot->at)) return;
  }
  launch(slot);
}

/// Starts the next worker that waits for it, after other handlers have run. If there is no memory for that, the end of
/// the next start tries again.
inline void WorkerStarts::give_turn() noexcept {
  if (!slots_.try_post([this] { next(); })) queue_.forgo_turn();
}

inline void WorkerStarts::next() {
  std::shared_ptr<Slot> next;
  {
    const auto held = slots_.lock();
    const auto at = queue_.next();
    if (slots_.stopping() || !at) return;
    next = slots_.slot(*at);
  }
  launch(next);
}

inline void WorkerStarts::over(const Slot& slot) noexcept {
  if (queue_.settled(slot.at)) give_turn();
}

inline void WorkerStarts::forget(const Slot& slot) noexcept {
  if (queue_.forget(slot.at)) give_turn();
}

/// False: launch() is called again, once the fork server is ready. A spare worker needs none.
inline bool WorkerStarts::may_launch(const std::shared_ptr<Slot>& slot) {
  {
    const auto held = slots_.lock();
    give_turn();  // others do not wait for this one
    if (slots_.stopping() || slot->removed || slot->dormant) return true;
    if (may_take_spare(*slot) && slots_.spares().has_ready(slot->options)) return true;
  }
  return slots_.may_start(*slot, [this, slot] { launch(slot); });
}

/// A failure before there is a process counts as a death.
inline void WorkerStarts::launch(const std::shared_ptr<Slot>& slot) {
  std::shared_ptr<WorkerSession> session;
  try {
    if (!may_launch(slot)) return;
    session = put_worker(slot);
  } catch (...) {
    return failed(slot, nullptr, std::current_exception());
  }
  if (session)
    slots_.factory().spawn(session,
                           [this, slot, session](const std::exception_ptr& cause) { failed(slot, session, cause); });
}

inline void WorkerStarts::failed(const std::shared_ptr<Slot>& slot, const std::shared_ptr<WorkerSession>& session,
                                 const std::exception_ptr& cause) {
  {
    const auto held = slots_.lock();
    if (slots_.stopping() || slot->removed || (session && slot->session != session)) return;
    over(*slot);
    slots_.totals().count({}, DeathCause::failed_start);
    const SlotState::Actions actions = slot->state.start_failed(Clock::now());
    if (!slots_.changes().start_failed(*slot, slot->options, cause)) slots_.carry_out(*slot, actions);
    slots_.has_changed(cause);
  }
  slots_.complete_dropped_calls();
}

/// Puts a worker into the slot: a spare one that is ready, or a new one, for which a process is to be spawned. Null if
/// none is to be spawned.
inline std::shared_ptr<WorkerSession> WorkerStarts::put_worker(const std::shared_ptr<Slot>& slot) {
  RetiredWorkers::Sessions gone;
  std::shared_ptr<WorkerSession> session;
  {
    const auto held = slots_.lock();
    if (slots_.stopping() || slot->removed) return nullptr;
    if (slot->dormant || !slot->state.awaits_start()) {
      over(*slot);
      return nullptr;
    }
    if (slots_.elasticity().is_unwanted(*slot)) {
      RetiredWorkers::Sessions none;
      slots_.put_to_sleep(slot->at, none);
      slots_.has_changed(nullptr);
      return nullptr;
    }
    slots_.retired().reserve(gone);
    if (may_take_spare(*slot)) session = slots_.spares().take(slot->options);
    const bool is_spare = session != nullptr;
    if (!is_spare) {
      session = slots_.factory().worker(slot->options, slot.get());
      session->begin_start();  // under the mutex: a stop that comes now finds it started
    }
    if (slot->session && !slot->growth) ++slots_.totals().restarts;
    if (slot->session) slots_.retired().add(slot->session);
    slot->session = session;
    slot->session_options = slot->options;
    slot->recycle_timer.cancel();
    slot->state.launched();
    slots_.retired().take_over(gone);
    if (is_spare) place_spare(*slot, *std::exchange(session, nullptr));
  }
  for (const auto& retired : gone) retired->owner_destroyed();
  if (!session) slots_.dispatcher().run_completions(true);
  return session;
}

inline void WorkerStarts::place_spare(Slot& slot, WorkerSession& spare) {
  try {
    spare.take_slot(slot.at, std::weak_ptr<void>(slots_.slot(slot.at)), slot.environment);
    slots_.took(spare);
  } catch (...) {  // no memory: it ends, and is replaced
    spare.drop();
  }
  slots_.spares().fill_later();
}

}}}  // namespace drover::v1::detail
