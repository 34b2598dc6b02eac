#pragma once

#include <utility>

namespace drover { inline namespace v1 { namespace detail {

/// A list of entries that it does not own, linked through them. An entry is in at most one list.
template <class Entry>
class IntrusiveList {
 public:
  bool empty() const noexcept { return first_ == nullptr; }
  Entry& front() const noexcept { return *first_; }
  Entry& back() const noexcept { return *last_; }

  void push_back(Entry& entry) noexcept {
    entry.previous = last_;
    entry.next = nullptr;
    (last_ != nullptr ? last_->next : first_) = &entry;
    last_ = &entry;
  }

  void erase(Entry& entry) noexcept {
    (entry.previous != nullptr ? entry.previous->next : first_) = entry.next;
    (entry.next != nullptr ? entry.next->previous : last_) = entry.previous;
    entry.previous = entry.next = nullptr;
  }

  /// Takes all entries of another list.
  void append(IntrusiveList& other) noexcept {
    if (other.empty()) return;
    (last_ != nullptr ? last_->next : first_) = other.first_;
    other.first_->previous = last_;
    last_ = std::exchange(other.last_, nullptr);
    other.first_ = nullptr;
  }

  template <class F>
  void for_each(F f) const {
    for (const Entry* entry = first_; entry != nullptr; entry = entry->next) f(*entry);
  }

 private:
  Entry* first_ = nullptr;
  Entry* last_ = nullptr;
};

}}}  // namespace drover::v1::detail
