#pragma once

#include <algorithm>
#include <new>
#include <stdexcept>

#include <asio/error.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/slots.hpp>

/// Planned replacements, and reload().
namespace drover { inline namespace v1 { namespace detail {

// ---- one replacement ------------------------------------------------------------------------------------------------

/// Gives the next slot its turn, if none has one.
inline void PoolSlots::give_replacement_turns() {
  while (const auto at = turns_.next()) {
    const SlotState::Actions actions = slots_[*at].state.turn_came();
    if (actions.end_turn) turns_.end(*at);
    if (!actions.start_successor) continue;
    const bool posted = executor_.try_post([weak = weak_from_this(), at = *at] {
      if (const auto slots = weak.lock()) slots->start_successor(at);
    });
    if (!posted) successor_failed(*at, std::make_exception_ptr(std::bad_alloc()));
  }
}

inline void PoolSlots::start_successor(std::size_t at) {
  Sessions over;
  try {
    std::shared_ptr<WorkerSession> session;
    {
      const auto held = lock();
      if (stopping_ || at >= slots_.size()) return;
      Slot& slot = slots_[at];
      if (slot.state.successor() != SlotState::Successor::starting || slot.successor) return;
      retired_.reserve(over);
      session = make_worker(at, *slot.options, slot.environment);
      const auto& child = slot.session->record().child;
      events_.emit(Event::Kind::replacing, child ? child->pid() : 0, [](Event&) {});
      session->begin_start();  // under the mutex: a stop that comes now finds it started
      slot.successor = session;
      slot.successor_options = slot.options;
      retired_.take_over(over);
    }
    for (const auto& retired : over) retired->owner_destroyed();
    session->spawn(options_.start_timeout);
  } catch (...) {
    const auto held = lock();
    if (stopping_ || at >= slots_.size()) return;
    ++crashes_;
    successor_failed(at, std::current_exception());
    advance_reloads();
  }
}

/// Before it was ready. The worker goes on.
inline void PoolSlots::successor_failed(std::size_t at, const std::exception_ptr& cause) {
  Slot& slot = slots_[at];
  if (slot.successor) {
    reload_failed(at, slot.successor_options, cause);
    retired_.reserve(1);
    retired_.add(std::exchange(slot.successor, nullptr));
  } else {
    reload_failed(at, slot.options, cause);
  }
  carry_out(at, slot.state.successor_exited(Clock::now()));
}

/// The successor is ready, and has begun to take calls. There is room among the retired workers.
inline void PoolSlots::promote(std::size_t at, const SlotState::Actions& actions) {
  Slot& slot = slots_[at];
  start_is_over(slot);
  slot.timer.reset();
  const auto before = std::exchange(slot.session, std::exchange(slot.successor, nullptr));
  slot.session_options = slot.successor_options;
  retired_.add(before);
  ++restarts_;
  if (!actions.retire) return;
  slot.retired = before;
  before->retire(options_.recycle.drain);
}

// ---- reload() -------------------------------------------------------------------------------------------------------

inline std::shared_ptr<Reload> PoolSlots::begin_reload(std::optional<Command> command) {
  if (command && command->program.empty())
    throw std::invalid_argument(
        "the Command for reload() has no program; name one, or call reload() without a Command");
  const auto reload = std::make_shared<Reload>(std::move(command));
  const auto held = lock();
  if (stopping_) throw Error(Errc::stopping, "the pool is being stopped");
  reloads_.push_back(reload);
  advance_reloads();
  return reload;
}

inline void PoolSlots::cancel_reload(const std::shared_ptr<Reload>& reload) {
  const auto held = lock();
  const auto found = std::find(reloads_.begin(), reloads_.end(), reload);
  if (found == reloads_.end()) return;
  const std::size_t at = reload->slot();
  const bool under_way = reload->slot_begun();
  end_reload(found, aborted());
  if (under_way && at < slots_.size()) carry_out(at, slots_[at].state.keep_worker());
  advance_reloads();
}

inline void PoolSlots::end_reload(Reloads::iterator at, std::exception_ptr failure) noexcept {
  Reload& reload = **at;
  if (failure && reload.slot_begun() && reload.slot() < slots_.size())
    slots_[reload.slot()].options = reload.options_before();
  reload.end(std::move(failure));
  ended_reloads_.splice(ended_reloads_.end(), reloads_, at);
  std::erase_if(ended_reloads_, [](const auto& ended) { return ended->over()->try_set(); });
}

/// A worker with those options did not get ready.
inline void PoolSlots::reload_failed(std::size_t at, const std::shared_ptr<const WorkerOptions>& options,
                                     std::exception_ptr cause) {
  if (reloads_.empty()) return;
  const Reload& reload = *reloads_.front();
  if (reload.slot_begun() && reload.slot() == at && reload.made(options))
    end_reload(reloads_.begin(), std::move(cause));
}

inline void PoolSlots::advance_reloads() {
  std::erase_if(ended_reloads_, [](const auto& ended) { return ended->over()->try_set(); });
  while (!stopping_ && !reloads_.empty() && advance(*reloads_.front())) {
    latest_options_ = reloads_.front()->options(*latest_options_);
    end_reload(reloads_.begin(), nullptr);
  }
}

/// Takes all steps that can be taken now. True if the reload is complete.
inline bool PoolSlots::advance(Reload& reload) {
  for (; reload.slot() < slots_.size(); reload.end_slot()) {
    const std::size_t at = reload.slot();
    Slot& slot = slots_[at];
    if (!reload.slot_begun()) {
      reload.begin_slot(slot.options);
      slot.options = reload.options(*latest_options_);
      carry_out(at, slot.state.replace(false));
    }
    const bool is_new = reload.made(slot.session_options);
    if (!is_new && slot.state.worker() != SlotState::Worker::none) carry_out(at, slot.state.replace(false));
    if (!is_new || slot.state.worker() != SlotState::Worker::ready || !slot.retired.expired()) return false;
  }
  return true;
}

}}}  // namespace drover::v1::detail
