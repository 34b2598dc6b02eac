#pragma once

#include <stdexcept>

#include <drover/error.hpp>
#include <drover/pool/detail/slots.hpp>

/// Slots that are added and removed: resize().
namespace drover { inline namespace v1 { namespace detail {

inline PoolSlots::Resize PoolSlots::begin_resize(std::size_t size) {
  if (size == 0) throw std::invalid_argument("the size for resize() must be at least 1; stop() ends a pool");
  std::size_t known = 0;
  std::vector<Environment> environments;  // of the slots from `known` on; user code is not called under the mutex
  for (;;) {
    {
      const auto held = lock();
      if (stopping_) throw Error(Errc::stopping, "the pool is being stopped");
      if (slots_.size() >= size || (known != 0 && slots_.size() >= known)) {
        if (growth_) end_growth(aborted());
        Resize resize;
        if (size > slots_.size())
          resize.growth = add_slots(size, environments, known);
        else
          remove_slots(size, resize.removed);
        advance_reloads();
        return resize;
      }
      known = slots_.size();
    }
    environments.clear();
    for (std::size_t at = known; at < size; ++at) environments.push_back(environment_of(at));
  }
}

/// environments[0] is that of the slot `first`.
inline std::shared_ptr<PoolSlots::Growth> PoolSlots::add_slots(std::size_t size, std::vector<Environment>& environments,
                                                               std::size_t first) {
  const auto growth = std::make_shared<Growth>();
  growth->from = slots_.size();
  growth->left = size - slots_.size();
  starts_.resize(size);
  slots_.reserve(size);
  growth_ = growth;
  try {
    for (std::size_t at = slots_.size(); at < size; ++at) {
      Slot& slot = slots_.emplace_back(options_.restart);
      slot.environment = std::move(environments[at - first]);
      slot.options = latest_options_;
      slot.growth = growth;
      carry_out(at, slot.state.replace(false));
    }
  } catch (...) {  // no memory for a timer
    Sessions none;
    growth_.reset();
    remove_slots(growth->from, none);
    throw;
  }
  return growth;
}

/// Their workers drain. They are added to `removed`.
inline void PoolSlots::remove_slots(std::size_t size, Sessions& removed) {
  const std::size_t most = 2 * (slots_.size() - size);
  retired_.reserve(most);
  removed.reserve(removed.size() + most);
  while (slots_.size() > size) {
    const std::size_t at = slots_.size() - 1;
    Slot& slot = slots_.back();
    const SlotState::Actions actions = slot.state.close();
    if (actions.retire) slot.session->retire(options_.shutdown_grace);
    for (const auto& session : {slot.session, slot.successor}) {
      if (!session) continue;
      removed.push_back(session);
      retired_.add(session);
    }
    carry_out(at, actions);
    turns_.withdraw(at);
    turns_.end(at);
    start_is_over(slot);
    slots_.pop_back();
  }
  starts_.resize(size);
  give_replacement_turns();
}

inline void PoolSlots::end_growth(std::exception_ptr failure) {
  const auto growth = std::exchange(growth_, nullptr);
  growth->failure = std::move(failure);
  growth->over->set();
}

/// True if the slot was new and its first worker did not get ready. Then it has been removed with the other new ones.
inline bool PoolSlots::growth_failed(const Slot& slot, const std::exception_ptr& cause) {
  if (!slot.growth || slot.growth != growth_) return false;
  Sessions removed;
  const std::size_t from = growth_->from;
  end_growth(cause);
  remove_slots(from, removed);
  return true;
}

inline void PoolSlots::cancel_growth(const std::shared_ptr<Growth>& growth) {
  const auto held = lock();
  if (!growth_ || growth_ != growth) return;
  Sessions removed;
  end_growth(aborted());
  remove_slots(growth->from, removed);
  advance_reloads();
}

}}}  // namespace drover::v1::detail
