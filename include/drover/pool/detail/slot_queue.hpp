#pragma once

#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

namespace drover { inline namespace v1 { namespace detail {

/// Numbers of slots, in the order in which they were added. Each is in it at most once, and can be removed from any
/// place. Pure.
///
/// Each operation but resize() takes constant time. None but the constructor and resize() allocates.
class SlotQueue {
 public:
  explicit SlotQueue(std::size_t slots = 0) : places_(slots) {}

  /// So many slots may be in it.
  std::size_t slots() const noexcept { return places_.size(); }
  /// Slots that it has no room for are removed. With more room it may throw std::bad_alloc; then nothing has changed.
  void resize(std::size_t slots) {
    for (std::size_t slot = slots; slot < places_.size(); ++slot) remove(slot);
    places_.resize(slots);
  }

  bool empty() const noexcept { return first_ == none; }
  bool contains(std::size_t slot) const noexcept { return slot < places_.size() && places_[slot].queued; }

  /// There is room for the slot. No effect if it is in the queue already.
  void push(std::size_t slot) noexcept {
    if (places_[slot].queued) return;
    places_[slot] = Place{.previous = last_, .next = none, .queued = true};
    (last_ != none ? places_[last_].next : first_) = slot;
    last_ = slot;
  }
  /// There is one.
  std::size_t pop() noexcept {
    const std::size_t slot = first_;
    remove(slot);
    return slot;
  }
  /// No effect if it is not in the queue.
  void remove(std::size_t slot) noexcept {
    if (!contains(slot)) return;
    const Place place = std::exchange(places_[slot], Place{});
    (place.previous != none ? places_[place.previous].next : first_) = place.next;
    (place.next != none ? places_[place.next].previous : last_) = place.previous;
  }

 private:
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  struct Place {
    std::size_t previous = none, next = none;  // slots
    bool queued = false;
  };

  std::vector<Place> places_;  // by slot
  std::size_t first_ = none, last_ = none;
};

}}}  // namespace drover::v1::detail
