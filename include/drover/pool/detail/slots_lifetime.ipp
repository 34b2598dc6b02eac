#pragma once

#include <memory>
#include <utility>

#include <drover/pool/detail/slots.hpp>

/// Slots that come and go, and slots that sleep.
namespace drover { inline namespace v1 { namespace detail {

// ---- slots that come and go -----------------------------------------------------------------------------------------

inline void PoolSlots::reserve(std::size_t size) {
  if (size > slots_.size()) starts_.resize(size);
  slots_.reserve(size);
  elasticity_.reserve(size);
  successors_.reserve(size);
}

inline Slot& PoolSlots::add(Slot::Environment environment, Slot::Options options) {
  slots_.push_back(std::make_shared<Slot>(slots_.size(), options_.restart, std::move(environment), std::move(options)));
  return *slots_.back();
}

inline void PoolSlots::remove_from(std::size_t size, Sessions& removed) {
  make_room_for_removed(slots_.size() - size, removed);
  retire_predecessors(size, slots_.size(), removed);
  while (slots_.size() > size) {
    const std::shared_ptr<Slot> slot = std::move(slots_.back());
    slots_.pop_back();
    close(*slot, removed);
  }
  starts_.resize(size);
  successors_.give_turns();
}

inline void PoolSlots::make_room_for_removed(std::size_t slots, Sessions& removed) {
  retired_.reserve(2 * slots);
  removed.reserve(removed.size() + 2 * slots + retired_.all().size());
}

/// Of those slots: they still drain.
inline void PoolSlots::retire_predecessors(std::size_t from, std::size_t to, Sessions& removed) {
  for (const auto& session : retired_.all()) {
    const auto slot = slot_of(*session);
    if (!slot || slot->at < from || slot->at >= to || session->record().lifecycle.has_exited()) continue;
    session->retire(options_.shutdown_grace);
    removed.push_back(session);
  }
}

/// The slot is no slot of the pool any more. There is room for its workers.
inline void PoolSlots::close(Slot& slot, Sessions& removed) {
  starts_.forget(slot);
  const SlotState::Actions actions = slot.state.close();
  slot.removed = true;
  slot.timer.cancel();
  slot.recycle_timer.cancel();
  // One without calls has nothing to finish, and must not be left behind if it does not exit.
  if (actions.retire)
    slot.session->retire(slot.session->has_calls() ? options_.shutdown_grace : Timeout(options_.worker.shutdown_grace));
  if (slot.successor) slot.successor->drop();
  for (const auto& session : {slot.session, slot.successor}) {
    if (!session) continue;
    if (!session->record().lifecycle.has_exited()) removed.push_back(session);
    retired_.add(session);
  }
  successors_.forget(slot, slot.successor);
}

// ---- slots that sleep -----------------------------------------------------------------------------------------------

inline void PoolSlots::add_dormant(Slot::Environment environment) {
  add(std::move(environment), nullptr).dormant = true;
  ++dormant_;
}

inline void PoolSlots::wake(Slot& slot) {
  slot.options = changes_.options_of_a_new_worker(slot.at);
  slot.dormant = false;
  --dormant_;
  try {
    carry_out(slot, slot.state.replace(false));
  } catch (...) {
    slot.timer.cancel();
    slot.dormant = true;
    ++dormant_;
    throw;
  }
  elasticity_.changed(slot);
}

inline void PoolSlots::put_to_sleep(std::size_t at, Sessions& removed) {
  make_room_for_removed(1, removed);
  const std::shared_ptr<Slot> slot = slots_[at];
  const auto dormant = std::make_shared<Slot>(at, options_.restart, slot->environment, nullptr);
  dormant->dormant = true;
  retire_predecessors(at, at + 1, removed);
  slots_[at] = dormant;
  ++dormant_;
  close(*slot, removed);
  successors_.give_turns();
  elasticity_.reconsider();
}

}}}  // namespace drover::v1::detail
