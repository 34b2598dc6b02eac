#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include <drover/error.hpp>
#include <drover/pool/detail/slots.hpp>

/// resize().
namespace drover { inline namespace v1 { namespace detail {

inline PoolChanges::Resize PoolChanges::begin_resize(std::size_t size) {
  if (size == 0) throw std::invalid_argument("the size for resize() must be at least 1; stop() ends a pool");
  if (size > most_workers)
    throw std::invalid_argument("the size for resize() must not be over " + std::to_string(most_workers));
  std::size_t known = 0;
  std::vector<Slot::Environment> environments;  // of the slots from `known` on; user code does not run under the mutex
  for (;;) {
    {
      const auto held = slots_.lock();
      if (!slots_.takes_changes()) slots_.refuse_change();
      if (slots_.size() >= size || (known != 0 && slots_.size() >= known)) {
        Resize resized = resize(size, environments, known);
        slots_.has_changed(nullptr);
        return resized;
      }
      known = slots_.size();
    }
    environments.clear();
    for (std::size_t at = known; at < size; ++at) environments.push_back(slots_.factory().environment_of(at));
  }
}

/// environments[0] is that of the slot `first`. New slots of an earlier growth that are left belong to the new one.
inline PoolChanges::Resize PoolChanges::resize(std::size_t size, std::vector<Slot::Environment>& environments,
                                               std::size_t first) {
  const std::size_t from = std::min(grows() ? growth_->from() : slots_.least(), size);
  if (grows()) end_growth(aborted());
  Resize resized;
  if (slots_.elasticity().on())
    change_least(size, environments, first, resized.removed);
  else if (size < slots_.size())
    shrink(size, resized.removed);
  else
    add_slots(size, environments, first);
  std::size_t unready = 0;
  for (std::size_t at = 0; at < slots_.size(); ++at) unready += slots_.slot(at)->growth != nullptr;
  if (unready == 0) return resized;
  growth_ = std::make_shared<Growth>(from, unready, growth_);
  for (std::size_t at = 0; at < slots_.size(); ++at)
    if (slots_.slot(at)->growth) slots_.slot(at)->growth = growth_;
  resized.growth = growth_;
  return resized;
}

inline void PoolChanges::add_slots(std::size_t size, std::vector<Slot::Environment>& environments, std::size_t first) {
  const std::size_t before = slots_.size();
  const auto unready = std::make_shared<Growth>(before, size - before, nullptr);
  try {
    slots_.reserve(size);
    for (std::size_t at = before; at < size; ++at) {
      Slot& slot = slots_.add(std::move(environments[at - first]), latest_);
      slot.growth = unready;
      slots_.carry_out(slot, slot.state.replace(false));
    }
  } catch (...) {  // no memory
    Sessions removed;
    shrink(before, removed);
    throw;
  }
}

/// The workers of the last slots drain. They are added to `removed`.
inline void PoolChanges::shrink(std::size_t size, Sessions& removed) {
  if (size < slots_.size()) slots_.remove_from(size, removed);
}

/// Of an elastic pool that gets smaller: slots without a worker that is ready are the first to go, then the last ones.
inline void PoolChanges::sleep_down_to(std::size_t size, Sessions& removed) {
  for (const bool ready_ones : {false, true})
    for (std::size_t at = slots_.size(); at-- > 0 && slots_.active() > size;) {
      const Slot& slot = *slots_.slot(at);
      if (!slot.dormant && (ready_ones || slot.state.worker() != SlotState::Worker::ready))
        slots_.put_to_sleep(at, removed);
    }
}

/// Of an elastic pool. Workers above the size that it had are left to Elasticity, unless it gets smaller.
inline void PoolChanges::change_least(std::size_t size, std::vector<Slot::Environment>& environments, std::size_t first,
                                      Sessions& removed) {
  if (size > slots_.size()) slots_.reserve(size);
  for (std::size_t at = slots_.size(); at < size; ++at) slots_.add_dormant(std::move(environments[at - first]));
  Elasticity& elasticity = slots_.elasticity();
  const std::size_t before = elasticity.least();
  elasticity.set_least(size);
  if (size < before) sleep_down_to(size, removed);
  const std::size_t missing = size - std::min(size, slots_.active());
  const auto unready = std::make_shared<Growth>(before, missing, nullptr);
  try {
    for (std::size_t at = 0; slots_.active() < size; ++at) {
      Slot& slot = *slots_.slot(at);
      if (!slot.dormant) continue;
      slots_.wake(slot);
      slot.growth = unready;
    }
    // Those that start because calls wait are awaited, too.
    for (std::size_t at = 0; size > before && at < slots_.size(); ++at)
      if (Slot& slot = *slots_.slot(at); !slot.dormant && !slot.was_ready && !slot.growth) slot.growth = unready;
  } catch (...) {  // no memory
    undo(*unready, removed);
    throw;
  }
}

/// The slots of that growth whose workers are not ready, or all of them in a pool that is not elastic.
inline void PoolChanges::undo(const Growth& growth, Sessions& removed) {
  if (!slots_.elasticity().on()) return shrink(growth.from(), removed);
  slots_.elasticity().set_least(growth.from());
  for (std::size_t at = 0; at < slots_.size(); ++at)
    if (slots_.slot(at)->growth.get() == &growth) slots_.put_to_sleep(at, removed);
  slots_.elasticity().watch();
}

inline void PoolChanges::end_growth(std::exception_ptr failure) noexcept {
  growth_->end(std::move(failure));
  if (growth_->try_complete_caller()) growth_.reset();
}

inline void PoolChanges::cancel(const std::shared_ptr<Growth>& growth) {
  if (slots_.foreign()) return;
  {
    const auto held = slots_.lock();
    if (growth_ != growth || !grows()) return;
    Sessions removed;
    end_growth(aborted());
    undo(*growth, removed);
    slots_.has_changed(nullptr);
  }
  slots_.complete_dropped_calls();
}

}}}  // namespace drover::v1::detail
