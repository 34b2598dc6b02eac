#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The position of an object in a queue of deadlines.
struct DeadlineHook {
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  Clock::time_point at{};
  std::size_t place = none;

  bool queued() const noexcept { return place != none; }
};

/// Deadlines, the earliest first. A binary heap of pointers: adding and removing take logarithmic time, and cost no
/// allocation once it has grown. T has a member `DeadlineHook deadline`.
template <class T>
class Deadlines {
 public:
  bool empty() const noexcept { return heap_.empty(); }
  T& first() const noexcept { return *heap_.front(); }
  Deadline next() const { return heap_.empty() ? Deadline{} : Deadline{heap_.front()->deadline.at}; }

  /// Makes room for `count` items, so that add() cannot fail. Called for one item more each time, it allocates as
  /// seldom as add() does.
  void reserve(std::size_t count) {
    if (count > heap_.capacity()) heap_.reserve(std::max(count, 2 * heap_.capacity()));
  }

  /// Adds the item, or moves it to another time. Allocates only beyond what is reserved.
  void add(T& item, Clock::time_point at) {
    remove(item);
    item.deadline.at = at;
    heap_.push_back(&item);
    item.deadline.place = heap_.size() - 1;
    up(heap_.size() - 1);
  }

  void remove(T& item) noexcept {
    const std::size_t place = item.deadline.place;
    if (place == DeadlineHook::none) return;
    item.deadline.place = DeadlineHook::none;
    T* last = heap_.back();
    heap_.pop_back();
    if (last == &item) return;
    put(place, last);
    up(place);
    down(last->deadline.place);
  }

 private:
  void put(std::size_t place, T* item) noexcept {
    heap_[place] = item;
    item->deadline.place = place;
  }

  void up(std::size_t place) noexcept {
    T* item = heap_[place];
    while (place > 0) {
      const std::size_t parent = (place - 1) / 2;
      if (heap_[parent]->deadline.at <= item->deadline.at) break;
      put(place, heap_[parent]);
      place = parent;
    }
    put(place, item);
  }

  void down(std::size_t place) noexcept {
    T* item = heap_[place];
    for (;;) {
      std::size_t child = 2 * place + 1;
      if (child >= heap_.size()) break;
      if (child + 1 < heap_.size() && heap_[child + 1]->deadline.at < heap_[child]->deadline.at) ++child;
      if (item->deadline.at <= heap_[child]->deadline.at) break;
      put(place, heap_[child]);
      place = child;
    }
    put(place, item);
  }

  std::vector<T*> heap_;
};

}}}  // namespace drover::v1::detail
