#pragma once

#include <algorithm>
#include <string>

#include <drover/detail/what_of.hpp>
#include <drover/error.hpp>
#include <drover/pool/detail/slots.hpp>

/// What the workers report, and what follows from it.
namespace drover { inline namespace v1 { namespace detail {

inline Slot* PoolSlots::slot_of(const WorkerSession& session) noexcept {
  return session.slot() < slots_.size() ? &slots_[session.slot()] : nullptr;
}
inline bool PoolSlots::is_current(const WorkerSession& session) noexcept {
  const Slot* const slot = slot_of(session);
  return slot != nullptr && slot->session.get() == &session;
}

// ---- reports --------------------------------------------------------------------------------------------------------

inline void PoolSlots::worker_ready(WorkerSession& session) {
  if (session.slot() == no_slot) return spares_.worker_ready();
  Slot* const slot = slot_of(session);
  if (slot == nullptr) return;
  const std::size_t at = session.slot();
  const bool is_successor = slot->successor.get() == &session;
  if (is_successor) retired_.reserve(1);
  const SlotState::Actions actions = is_successor ? slot->state.successor_ready() : slot->state.worker_ready();
  if (actions.promote) successors_.promote(at, actions);
  start_is_over(at);
  // Half-open: it gets calls, and has to prove itself.
  if (std::exchange(failed_, false) && !draining_) dispatcher_->refuse(nullptr);
  carry_out(at, actions);
  changes_.worker_ready(at);
  if (first_start_.under_way()) first_start_.one_is_ready();
}

inline void PoolSlots::worker_answered(WorkerSession& session) {
  if (is_current(session)) carry_out(session.slot(), slots_[session.slot()].state.worker_answered());
}

inline void PoolSlots::worker_worn_out(const WorkerSession& session) {
  if (takes_changes() && is_current(session)) carry_out(session.slot(), slots_[session.slot()].state.replace(true));
}

inline void PoolSlots::worker_leaving(WorkerSession& session) {
  if (stopping_ || first_start_.under_way() || !is_current(session)) return;
  const bool served = session.record().answered_a_call();
  carry_out(session.slot(), slots_[session.slot()].state.worker_leaves(Clock::now(), served));
}

inline void PoolSlots::worker_exited(WorkerSession& session) {
  auto cause = session.take_start_failure();
  CallQueue dropped;
  Cause refusal;
  {
    const auto held = lock();
    if (stopping_) return;
    const WorkerRecord& worker = session.record();
    const auto exit = worker.exit_status();
    const Supervisor::Death death{.served = worker.answered_a_call(),
                                  .graceful = worker.exited_gracefully(),
                                  .asked_for = worker.lifecycle.exit_reason() == ExitReason::kill_after ||
                                               worker.lifecycle.exit_reason() == ExitReason::stop};
    if (first_start_.under_way()) {
      if (!cause)
        cause = std::make_exception_ptr(Error(
            Errc::start_failed, "worker '" + options_.worker.name + "' exited while the others were started", exit));
      return first_start_.one_failed(std::move(cause));
    }
    totals_.count(death, worker.death_cause());
    const std::size_t at = session.slot();
    Slot* const slot = slot_of(session);
    if (slot == nullptr) return spares_.worker_exited(session, death);
    if (slot->session.get() == &session) {
      start_is_over(at);
      const SlotState::Actions actions = slot->state.worker_exited(Clock::now(), death);
      fail_if_all_are_down(cause, exit, dropped);
      if (!cause || !changes_.start_failed(at, slot->session_options, cause)) carry_out(at, actions, exit);
    } else if (slot->successor.get() == &session) {
      successors_.failed(at, cause);
      fail_if_all_are_down(cause, exit, dropped);
    } else {
      const bool retired = slot->retired.lock().get() == &session;
      if (retired) slot->retired.reset();
      if (retired) changes_.retired_exited(at, worker.stop_report());
      carry_out(at, slot->state.predecessor_exited(Clock::now(), retired));
    }
    changes_.advance();
    refusal = dispatcher_->refusal();
  }
  complete_all_with_error(std::move(dropped), refusal);
}

// ---- what follows ---------------------------------------------------------------------------------------------------

inline void PoolSlots::carry_out(std::size_t at, const SlotState::Actions& actions, std::optional<ExitStatus> exit) {
  const auto emit = [&](Event::Kind kind) { events_.emit(kind, 0, [&](Event& event) { event.exit = exit; }); };
  if (actions.recovered) emit(Event::Kind::recovered);
  if (actions.gave_up) emit(Event::Kind::gave_up);
  if (actions.restarting) emit(Event::Kind::restarting);
  Slot& slot = slots_[at];
  if (actions.start_in) {
    const bool at_once = !slot.state.down() && spares_.has_ready(slot.options);
    after(slot.timer, at_once ? Duration::zero() : *actions.start_in, [this, at] { start_again(at); });
  }
  if (actions.prove && options_.restart.within > Duration::zero())
    after(slot.timer, options_.restart.within, [this, at] {
      const auto held = lock();
      if (at < slots_.size()) carry_out(at, slots_[at].state.lived());  // its timer may be another one by now
    });
  if (actions.replace_in) recycle_later(at, *actions.replace_in);
  if (actions.drop_successor && slot.successor) slot.successor->drop();
  successors_.carry_out(at, actions);
}

inline void PoolSlots::recycle_later(std::size_t at, Duration delay) {
  after(slots_[at].recycle_timer, delay, [this, at] {
    const auto held = lock();
    if (takes_changes() && at < slots_.size()) carry_out(at, slots_[at].state.replace(true));
  });
}

inline std::string all_are_down_text(const RestartPolicy& restart, const std::exception_ptr& cause) {
  std::string why = "in every slot more than " + std::to_string(restart.max_restarts) +
                    " workers ended within RestartPolicy::within and had answered no call; others are tried after "
                    "RestartPolicy::max_backoff; the last one";
  try {
    if (cause) std::rethrow_exception(cause);
    return why + " ended";
  } catch (const std::exception& error) {
    return why + ": " + what_of(error);
  }
}

inline void PoolSlots::fail_if_all_are_down(const std::exception_ptr& cause, std::optional<ExitStatus> exit,
                                            CallQueue& dropped) {
  if (!std::all_of(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.state.down(); })) return;
  const std::string why = all_are_down_text(options_.restart, cause);
  failed_ = true;
  dispatcher_->refuse([why, exit] { return std::make_exception_ptr(Error(Errc::pool_failed, why, exit)); });
  dropped.append(dispatcher_->take_queued_calls());
}

// ---- the end --------------------------------------------------------------------------------------------------------

inline bool PoolSlots::stop_starting(const Cause& cause) noexcept {
  if (std::exchange(stopping_, true)) return false;
  for (Slot& slot : slots_) {
    slot.timer.reset();
    slot.recycle_timer.reset();
  }
  spares_.stop();
  changes_.end_all(cause);
  return true;
}

inline void PoolSlots::release_timers() noexcept {
  for (Slot& slot : slots_) {
    (void)slot.timer.release();
    (void)slot.recycle_timer.release();
  }
  changes_.release_timers();
  spares_.release_timer();
}

}}}  // namespace drover::v1::detail
