#pragma once

#include <algorithm>
#include <chrono>

#include <drover/os/detail/process_figures.hpp>
#include <drover/pool/detail/slots.hpp>

/// Recycling, see RecyclePolicy.
namespace drover { inline namespace v1 { namespace detail {

/// The generator is SplitMix64.
inline double PoolChanges::next_random() noexcept {
  random_ += 0x9e3779b97f4a7c15;
  std::uint64_t mixed = random_;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
  mixed ^= mixed >> 31;
  return static_cast<double>(mixed >> 11) * 0x1p-53;
}

/// Somewhat less than `limit`, so that the workers of a pool are not all due at the same time.
inline std::uint64_t PoolChanges::jittered(std::uint64_t limit) {
  if (limit == 0 || policy_.jitter <= 0) return limit;
  const double part = next_random() * policy_.jitter;
  const auto less = static_cast<std::uint64_t>(static_cast<double>(limit) * part);
  return std::max<std::uint64_t>(limit - std::min(less, limit), 1);
}

inline void PoolChanges::begin_age(Slot& slot) {
  slot.recycle_timer.cancel();
  if (!policy_.age) return;
  const auto age = static_cast<std::uint64_t>(policy_.age->count());
  slots_.recycle_later(slot, Duration(static_cast<Duration::rep>(jittered(age))));
}

inline void PoolChanges::watch_memory() {
  if (policy_.rss == 0) return;
  slots_.after(memory_timer_, std::chrono::seconds(1), [this] { look_at_memory(0); });
}

/// Looks at some workers that have had calls, from that slot on. The others follow after other handlers have run: each
/// look reads a file.
inline void PoolChanges::look_at_memory(std::size_t from) {
  constexpr std::size_t most = 32;
  Sessions active;
  {
    const auto held = slots_.lock();
    if (slots_.stopping()) return;
    for (; from < slots_.size() && active.size() < most; ++from) {
      const Slot& slot = *slots_.slot(from);
      if (slot.state.worker() == SlotState::Worker::ready && slot.session->was_active()) active.push_back(slot.session);
    }
  }
  std::erase_if(active, [this](const auto& session) {
    const auto rss = resident_set(session->metadata()->pid);
    return !rss || *rss < policy_.rss;
  });
  const auto held = slots_.lock();
  for (const auto& session : active) slots_.recycle(*session);
  if (slots_.stopping()) return;
  if (from >= slots_.size() || !slots_.try_post([this, from] { look_at_memory(from); })) watch_memory();
}

}}}  // namespace drover::v1::detail
