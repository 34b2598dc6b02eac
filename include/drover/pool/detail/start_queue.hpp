#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <vector>

#include <drover/pool/detail/slot_queue.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Decides which slots of a pool may start a worker now. When many workers are due at once, one is spawned in each turn
/// of the loop, so that other handlers run in between, and only so many start at a time, so that each of them is ready
/// in time.
///
/// Pure: no I/O, no clock. No function allocates but the constructor and resize().
class StartQueue {
 public:
  /// How many workers start at a time, with so many cores.
  static constexpr std::size_t limit(std::size_t cores) noexcept { return std::max<std::size_t>(16, 8 * cores); }

  StartQueue(std::size_t slots, std::size_t most) : waiting_(slots), starts_(slots), most_(most) {}

  std::size_t most() const noexcept { return most_; }

  /// The pool has so many slots from now on. Those that are removed neither wait nor start any more. With more slots it
  /// may throw std::bad_alloc; then nothing has changed.
  void resize(std::size_t slots) {
    starts_.reserve(slots);
    waiting_.resize(slots);
    for (std::size_t slot = slots; slot < starts_.size(); ++slot)
      if (starts_[slot]) --starting_;
    starts_.resize(slots);
  }

  /// A worker is due in that slot. True if it may be started now. Otherwise next() returns the slot later. No effect if
  /// one is due there already.
  bool begin(std::size_t slot) noexcept {
    if (starts_[slot] || waiting_.contains(slot)) return false;
    if (!turn_taken_ && starting_ < most_) return take(slot);
    waiting_.push(slot);
    return false;
  }
  /// After a worker was spawned, other handlers have run. Returns a slot in which a worker may be started now.
  std::optional<std::size_t> next() noexcept {
    turn_taken_ = false;
    if (waiting_.empty() || starting_ >= most_) return std::nullopt;
    const std::size_t slot = waiting_.pop();
    take(slot);
    return slot;
  }
  /// No worker is due in that slot any more. True as of settled().
  bool forget(std::size_t slot) noexcept {
    if (!waiting_.contains(slot)) return settled(slot);
    waiting_.remove(slot);
    return false;
  }
  /// next() will not be called after the last spawn.
  void forgo_turn() noexcept { turn_taken_ = false; }
  /// A worker that was started in that slot is ready, or has ended. True if next() must be called, after other handlers
  /// have run.
  bool settled(std::size_t slot) noexcept {
    if (slot >= starts_.size() || !starts_[slot]) return false;
    starts_[slot] = false;
    --starting_;
    return !waiting_.empty() && !turn_taken_;
  }

 private:
  bool take(std::size_t slot) noexcept {
    starts_[slot] = true;
    ++starting_;
    return turn_taken_ = true;
  }

  SlotQueue waiting_;
  std::vector<bool> starts_;  // by slot: a worker that was started there has not settled
  const std::size_t most_;
  std::size_t starting_ = 0;
  bool turn_taken_ = false;
};

}}}  // namespace drover::v1::detail
