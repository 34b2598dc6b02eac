#pragma once

#include <algorithm>
#include <string>
#include <utility>

#include <drover/detail/what_of.hpp>
#include <drover/error.hpp>
#include <drover/pool/detail/slots.hpp>

/// What the workers report, and what follows from it.
namespace drover { inline namespace v1 { namespace detail {

inline std::shared_ptr<Slot> PoolSlots::slot_of(const WorkerSession& session) noexcept {
  auto slot = std::static_pointer_cast<Slot>(session.place());
  return slot && !slot->removed ? slot : nullptr;
}
inline std::shared_ptr<Slot> PoolSlots::slot_with(const WorkerSession& session) noexcept {
  auto slot = slot_of(session);
  return slot && slot->session.get() == &session ? slot : nullptr;
}

inline bool PoolSlots::uses(const Slot::Options& options) const noexcept {
  return options == changes_.latest_options() ||
         std::any_of(slots_.begin(), slots_.end(), [&](const auto& slot) { return slot->options == options; });
}

// ---- reports --------------------------------------------------------------------------------------------------------

inline void PoolSlots::worker_ready(WorkerSession& session) {
  if (stopping_) return;  // nobody looks at what would begin now
  if (session.slot() == no_slot) return spares_.worker_ready(session);
  const auto slot = slot_of(session);
  if (!slot) return;
  const bool is_successor = slot->successor.get() == &session;
  if (!is_successor && slot->session.get() != &session) return;
  if (is_successor) retired_.reserve(1);
  const SlotState::Actions actions = is_successor ? slot->state.successor_ready() : slot->state.worker_ready();
  if (actions.promote) successors_.promote(*slot, actions);
  starts_.over(*slot);
  slot->was_ready = true;
  forks_.report_refusals();
  if (actions.promote)
    elasticity_.replaced(*slot);
  else
    elasticity_.changed(*slot);
  if (first_start_.under_way()) return first_start_.one_is_ready();
  // Half-open: it gets calls, and has to prove itself.
  if (std::exchange(failed_, false) && !draining_) dispatcher_->refuse(nullptr);
  carry_out(*slot, actions);
  changes_.worker_ready(*slot);
  elasticity_.reconsider();
  elasticity_.watch();
}

inline void PoolSlots::worker_answered(WorkerSession& session) {
  if (const auto slot = slot_with(session)) carry_out(*slot, slot->state.worker_answered());
}

inline void PoolSlots::worker_worn_out(const WorkerSession& session) {
  if (!takes_changes()) return;
  if (const auto slot = slot_with(session)) carry_out(*slot, slot->state.replace(true));
}

inline void PoolSlots::worker_leaving(WorkerSession& session) {
  if (stopping_ || first_start_.under_way()) return;
  if (const auto slot = slot_with(session))
    carry_out(*slot, slot->state.worker_leaves(Clock::now(), session.record().answered_a_call()));
}

/// A worker that was retired, and is killed by one of its last calls, has crashed.
inline bool has_crashed_in_its_stop(const WorkerRecord& worker) {
  const auto exit = worker.exit_status();
  const StopReport stop = worker.stop_report();
  return exit && exit->kind == ExitStatus::Kind::signaled && !stop.terminated && !stop.killed;
}

inline Supervisor::Death PoolSlots::death_of(const WorkerSession& session) {
  const WorkerRecord& worker = session.record();
  const ExitReason reason = worker.lifecycle.exit_reason();
  return {
      .served = worker.answered_a_call(),
      .graceful = worker.exited_gracefully(),
      .asked_for = worker.lifecycle.was_killed() || (reason == ExitReason::stop && !has_crashed_in_its_stop(worker))};
}

inline void PoolSlots::worker_exited(WorkerSession& session) {
  auto cause = session.take_start_failure();
  {
    const auto held = lock();
    if (stopping_) return;
    const WorkerRecord& worker = session.record();
    const auto exit = worker.exit_status();
    if (first_start_.under_way()) {
      if (!cause)
        cause = std::make_exception_ptr(Error(
            Errc::start_failed, "worker '" + options_.worker.name + "' exited while the others were started", exit));
      return first_start_.one_failed(std::move(cause));
    }
    if (!cause && !worker.lifecycle.was_ready()) cause = std::make_exception_ptr(std::bad_alloc());
    const Supervisor::Death death = death_of(session);
    const bool crashed = worker.lifecycle.exit_reason() == ExitReason::stop && !death.asked_for;
    totals_.count(death, crashed ? DeathCause::crashed : worker.death_cause());
    const bool retired = successors_.is_retired(session);
    if (retired) successors_.end_turn();
    const auto slot = slot_of(session);
    if (!slot) {
      spares_.worker_exited(session, death);
    } else if (slot->session.get() == &session) {
      starts_.over(*slot);
      slot->recycle_timer.cancel();
      const SlotState::Actions actions = slot->state.worker_exited(Clock::now(), death);
      if (!cause || !changes_.start_failed(*slot, slot->session_options, cause)) carry_out(*slot, actions, exit);
    } else if (slot->successor.get() == &session) {
      successors_.failed(*slot, cause);
    } else {
      if (retired) changes_.retired_exited(*slot, worker.stop_report());
      carry_out(*slot, slot->state.predecessor_exited(Clock::now(), retired));
    }
    successors_.give_turns();
    has_changed(cause, exit);
  }
  complete_dropped_calls();
}

// ---- what follows ---------------------------------------------------------------------------------------------------

inline void PoolSlots::carry_out(Slot& slot, const SlotState::Actions& actions, std::optional<ExitStatus> exit) {
  const auto emit = [&](Event::Kind kind) { events_.emit(kind, 0, [&](Event& event) { event.exit = exit; }); };
  if (actions.recovered) emit(Event::Kind::recovered);
  if (actions.gave_up) emit(Event::Kind::gave_up);
  if (actions.restarting) emit(Event::Kind::restarting);
  if (actions.start_in) {
    const bool at_once = WorkerStarts::may_take_spare(slot) && spares_.has_ready(slot.options);
    after(slot, &Slot::timer, at_once ? Duration::zero() : *actions.start_in,
          [this](const std::shared_ptr<Slot>& due) { starts_.due(due); });
  }
  if (actions.prove && options_.restart.within > Duration::zero())
    after(slot, &Slot::timer, options_.restart.within, [this](const std::shared_ptr<Slot>& alive) {
      const auto held = lock();
      if (!stopping_ && !alive->removed) carry_out(*alive, alive->state.lived());
    });
  if (actions.replace_in) recycle_later(slot, *actions.replace_in);
  successors_.carry_out(slot, actions);
}

/// Calls then(slot) without the mutex, unless the timer is set anew or cancelled, or the slot is removed.
template <class F>
void PoolSlots::after(Slot& slot, SlotTimer Slot::* timer, Duration delay, F then) {
  SlotTimer& set = slot.*timer;
  set.cancel();
  const auto handler = [this, weak = std::weak_ptr(slots_[slot.at]), timer, setting = set.setting, then] {
    const auto found = weak.lock();
    if (!found) return;
    {
      const auto held = lock();
      if (found->removed || (*found.*timer).setting != setting) return;
    }
    then(found);
  };
  after(set.timer, delay, handler);
}

inline void PoolSlots::recycle_later(Slot& slot, Duration delay) {
  after(slot, &Slot::recycle_timer, delay, [this](const std::shared_ptr<Slot>& due) {
    const auto held = lock();
    if (takes_changes() && !due->removed) carry_out(*due, due->state.replace(true));
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

inline void PoolSlots::has_changed(const std::exception_ptr& cause, std::optional<ExitStatus> exit) {
  changes_.advance();
  forks_.end_unused();
  forks_.report_refusals();
  elasticity_.reconsider();
  if (failed_ && !cause) return;
  const auto is_down = [](const auto& slot) { return slot->dormant || slot->state.down(); };
  if (!std::all_of(slots_.begin(), slots_.end(), is_down)) return;
  const std::string why = all_are_down_text(options_.restart, cause);
  failed_ = true;
  dispatcher_->refuse([why, exit] { return std::make_exception_ptr(Error(Errc::pool_failed, why, exit)); });
  dropped_.append(dispatcher_->take_queued_calls());
}

inline void PoolSlots::complete_dropped_calls() {
  CallQueue dropped;
  std::vector<SharedDescriptors> descriptors;  // without the mutex
  Cause refusal;
  {
    const auto held = lock();
    dropped_.swap(dropped);
    descriptors = dispatcher_->take_dropped();
    refusal = dispatcher_->refusal();
  }
  descriptors.clear();
  complete_all_with_error(std::move(dropped), refusal);
}

// ---- the end --------------------------------------------------------------------------------------------------------

inline bool PoolSlots::stop_starting(const Cause& cause) noexcept {
  if (std::exchange(stopping_, true)) return false;
  for (const auto& slot : slots_) {
    slot->timer.cancel();
    slot->recycle_timer.cancel();
  }
  spares_.stop();
  forks_.stop();
  elasticity_.stop();
  changes_.end_all(cause);
  return true;
}

inline void PoolSlots::release_timers() noexcept {
  for (const auto& slot : slots_) {
    (void)slot->timer.timer.release();
    (void)slot->recycle_timer.timer.release();
  }
  changes_.release_timers();
  spares_.release_timer();
  elasticity_.release_timer();
}

inline void PoolSlots::refuse_change() const {
  const Cause& refusal = dispatcher_->refusal();
  if (refusal && !failed_) std::rethrow_exception(failure_of(refusal));
  throw Error(Errc::stopping, "the pool is being stopped");
}

}}}  // namespace drover::v1::detail
