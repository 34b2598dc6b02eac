#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <vector>

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

  StartQueue(std::size_t slots, std::size_t most) : waiting_(slots), states_(slots), most_(most) {}

  std::size_t most() const noexcept { return most_; }

  /// The pool has so many slots from now on. Those that are removed neither wait nor start any more. With more slots it
  /// may throw std::bad_alloc; then nothing has changed.
  void resize(std::size_t slots) {
    waiting_.reserve(slots);
    states_.reserve(slots);
    std::rotate(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(first_), waiting_.end());
    const auto waiting_end = waiting_.begin() + static_cast<std::ptrdiff_t>(count_);
    const auto end = std::remove_if(waiting_.begin(), waiting_end, [&](std::size_t slot) { return slot >= slots; });
    count_ = static_cast<std::size_t>(end - waiting_.begin());
    first_ = 0;
    for (std::size_t slot = slots; slot < states_.size(); ++slot)
      if (states_[slot] == State::starting) --starting_;
    waiting_.resize(slots);
    states_.resize(slots);
  }

  /// A worker is due in that slot. True if it may be started now. Otherwise next() returns the slot later. No effect if
  /// one is due there already.
  bool begin(std::size_t slot) noexcept {
    if (states_[slot] != State::idle) return false;
    if (!turn_taken_ && starting_ < most_) return take(slot);
    states_[slot] = State::waiting;
    waiting_[(first_ + count_++) % waiting_.size()] = slot;
    return false;
  }
  /// After a worker was spawned, other handlers have run. Returns a slot in which a worker may be started now.
  std::optional<std::size_t> next() noexcept {
    turn_taken_ = false;
    if (count_ == 0 || starting_ >= most_) return std::nullopt;
    const std::size_t slot = waiting_[first_];
    first_ = (first_ + 1) % waiting_.size();
    --count_;
    take(slot);
    return slot;
  }
  /// No worker is due in that slot any more. True as of settled().
  bool forget(std::size_t slot) noexcept {
    if (slot >= states_.size() || states_[slot] != State::waiting) return settled(slot);
    std::size_t kept = 0;
    for (std::size_t at = 0; at < count_; ++at) {
      const std::size_t other = waiting_[(first_ + at) % waiting_.size()];
      if (other != slot) waiting_[(first_ + kept++) % waiting_.size()] = other;
    }
    count_ = kept;
    states_[slot] = State::idle;
    return false;
  }
  /// next() will not be called after the last spawn.
  void forgo_turn() noexcept { turn_taken_ = false; }
  /// A worker that was started in that slot is ready, or has ended. True if next() must be called, after other handlers
  /// have run.
  bool settled(std::size_t slot) noexcept {
    if (slot >= states_.size() || states_[slot] != State::starting) return false;
    states_[slot] = State::idle;
    --starting_;
    return count_ != 0 && !turn_taken_;
  }

 private:
  enum class State : unsigned char { idle, waiting, starting };

  bool take(std::size_t slot) noexcept {
    states_[slot] = State::starting;
    ++starting_;
    return turn_taken_ = true;
  }

  std::vector<std::size_t> waiting_;  // a ring
  std::vector<State> states_;
  std::size_t first_ = 0, count_ = 0;
  const std::size_t most_;
  std::size_t starting_ = 0;
  bool turn_taken_ = false;
};

}}}  // namespace drover::v1::detail
