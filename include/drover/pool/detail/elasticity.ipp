#pragma once

#include <new>
#include <utility>
#include <vector>

#include <drover/pool/detail/elasticity.hpp>
#include <drover/pool/detail/slots.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline void Elasticity::begin() {
  if (on_) slots_.dispatcher().watch_queue(this);
}

inline void Elasticity::stop() noexcept {
  if (!on_) return;
  slots_.dispatcher().watch_queue(nullptr);
  timer_.reset();
}

inline void Elasticity::changed(const Slot& slot) {
  if (on_) size_.changed(slot.at, Clock::now());
}

// ---- growth ---------------------------------------------------------------------------------------------------------

/// After other handlers have run: by then the results that are there have been read, and the queue may be empty. If
/// there is no memory for that, the next call that waits tries again.
inline void Elasticity::reconsider() noexcept {
  if (!on_) return;
  covered_ = 0;
  if (posted_ || slots_.dispatcher().waiting() == 0 || !slots_.takes_changes()) return;
  posted_ = slots_.try_post([this] { grow(); });
}

inline ElasticSize::Demand Elasticity::demand() const noexcept {
  ElasticSize::Demand demand{.waiting = slots_.dispatcher().waiting(), .active = slots_.active(), .starting = 0};
  std::size_t down = 0;
  for (std::size_t at = 0; at < slots_.size(); ++at) {
    const Slot& slot = *slots_.slot(at);
    const SlotState::Worker worker = slot.state.worker();
    const bool has_none = worker == SlotState::Worker::none || worker == SlotState::Worker::starting;
    if (!slot.dormant && has_none) ++(slot.state.down() ? down : demand.starting);
  }
  // One more slot is tried if one is down. Further ones would hardly fare better.
  if (down > 1) demand.starting += down - 1;
  return demand;
}

inline void Elasticity::grow() {
  const auto held = slots_.lock();
  posted_ = false;
  if (slots_.foreign() || !slots_.takes_changes()) return;
  const ElasticSize::Demand before = demand();
  const std::size_t count = size_.starts(before);
  if (!wake(count)) return;
  covered_ =
      size_.covered({.waiting = before.waiting, .active = before.active + count, .starting = before.starting + count});
  watch();
}

/// The first slots that are dormant. False if there is no memory for it.
inline bool Elasticity::wake(std::size_t count) noexcept {
  for (std::size_t at = 0; at < slots_.size() && count != 0; ++at) {
    if (!slots_.slot(at)->dormant) continue;
    try {
      slots_.wake(*slots_.slot(at));
    } catch (const std::bad_alloc&) {
      watch();
      return false;
    }
    --count;
  }
  return true;
}

inline bool Elasticity::is_unwanted(const Slot& slot) const noexcept {
  return on_ && !slot.session && !slot.growth && slots_.active() > least_ && slots_.dispatcher().waiting() == 0 &&
         slots_.takes_changes() && !slots_.is_being_replaced(slot);
}

// ---- shrinking ------------------------------------------------------------------------------------------------------

inline void Elasticity::watch() noexcept {
  if (on_) slots_.dispatcher().use_few(slots_.active() > least_);
  if (!on_ || timer_ || slots_.active() <= least_ || !slots_.takes_changes()) return;
  try {
    slots_.after(timer_, size_.pause(), [this] { look(); });
  } catch (const std::bad_alloc&) {  // the next worker that gets ready tries again
    timer_.reset();
  }
}

inline void Elasticity::look() {
  {
    const auto held = slots_.lock();
    if (slots_.foreign()) return;
    timer_.reset();
    if (!slots_.takes_changes()) return;
    try {
      if (let_idle_ones_go()) slots_.has_changed(nullptr);
    } catch (const std::bad_alloc&) {  // the next look tries again
    }
    reconsider();
    watch();
  }
  slots_.complete_dropped_calls();
}

inline ElasticSize::Seen Elasticity::seen(const Slot& slot) const noexcept {
  using Worker = ElasticSize::Seen::Worker;
  ElasticSize::Seen seen{.slot = slot.at};
  const SlotState::Worker worker = slot.state.worker();
  if (slot.state.down() || worker == SlotState::Worker::none)
    seen.worker = Worker::none;
  else if (worker == SlotState::Worker::ready)
    seen.worker = Worker::ready;
  else
    seen.worker = Worker::starting;
  seen.kept = slot.growth || slots_.is_being_replaced(slot) || worker == SlotState::Worker::leaving;
  if (seen.worker != Worker::ready) return seen;
  seen.answers = slot.session->record().answers;
  seen.busy = slot.session->has_calls();
  return seen;
}

/// True if there are any.
inline bool Elasticity::let_idle_ones_go() {
  std::vector<ElasticSize::Seen> active;
  active.reserve(slots_.active());
  for (std::size_t at = 0; at < slots_.size(); ++at)
    if (!slots_.slot(at)->dormant) active.push_back(seen(*slots_.slot(at)));
  const auto ends = size_.look(active, least_, slots_.dispatcher().waiting(), Clock::now());
  RetiredWorkers::Sessions removed;  // nobody waits for them
  for (const std::size_t at : ends) slots_.put_to_sleep(at, removed);
  return !ends.empty();
}

}}}  // namespace drover::v1::detail
