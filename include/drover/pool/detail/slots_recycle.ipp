#pragma once

#include <algorithm>

#include <drover/os/detail/process_figures.hpp>
#include <drover/pool/detail/slots.hpp>

/// Recycling, see RecyclePolicy.
namespace drover { inline namespace v1 { namespace detail {

/// Somewhat less than `limit`, so that the workers of a pool are not all due at the same time.
inline std::uint64_t PoolSlots::jittered(std::uint64_t limit) {
  const double part = std::uniform_real_distribution<double>(0, std::clamp(options_.recycle.jitter, 0.0, 1.0))(random_);
  const auto less = static_cast<std::uint64_t>(static_cast<double>(limit) * part);
  return limit == 0 ? 0 : std::max<std::uint64_t>(limit - std::min(less, limit), 1);
}

/// The slot has another worker, which is ready.
inline void PoolSlots::begin_age(std::size_t at) {
  Slot& slot = slots_[at];
  slot.recycle_timer.reset();
  if (!options_.recycle.age) return;
  const auto age = static_cast<std::uint64_t>(std::max<Duration::rep>(options_.recycle.age->count(), 1));
  start_timer(slot.recycle_timer, at, Duration(static_cast<Duration::rep>(jittered(age))), &PoolSlots::recycle);
}

inline void PoolSlots::recycle(std::size_t at) {
  const auto held = lock();
  if (stopping_ || at >= slots_.size()) return;
  carry_out(at, slots_[at].state.replace(true));
}

inline void PoolSlots::worker_worn_out(WorkerSession& session) {
  if (stopping_ || !is_current(session)) return;
  carry_out(session.slot(), slots_[session.slot()].state.replace(true));
}

// ---- memory ---------------------------------------------------------------------------------------------------------

inline void PoolSlots::watch_memory() {
  if (options_.recycle.rss == 0) return;
  executor_.after(memory_timer_, std::chrono::seconds(1), [weak = weak_from_this()] {
    if (const auto slots = weak.lock()) slots->look_at_memory(0);
  });
}

/// Looks at some workers that have had calls, from that slot on. The others follow after other handlers have run: each
/// look reads a file.
inline void PoolSlots::look_at_memory(std::size_t from) {
  constexpr std::size_t most = 32;
  Sessions active;
  {
    const auto held = lock();
    if (stopping_) return;
    for (; from < slots_.size() && active.size() < most; ++from)
      if (slots_[from].state.worker() == SlotState::Worker::ready && slots_[from].session->was_active())
        active.push_back(slots_[from].session);
  }
  std::erase_if(active, [this](const auto& session) {
    const auto rss = resident_set(session->metadata()->pid);
    return !rss || *rss < options_.recycle.rss;
  });
  const auto held = lock();
  for (const auto& session : active) worker_worn_out(*session);
  if (stopping_) return;
  const bool posted = from < slots_.size() && executor_.try_post([weak = weak_from_this(), from] {
    if (const auto slots = weak.lock()) slots->look_at_memory(from);
  });
  if (!posted) watch_memory();
}

}}}  // namespace drover::v1::detail
