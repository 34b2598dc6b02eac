#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <drover/detail/intrusive_list.hpp>
#include <drover/detail/resource_pool/event_chain.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The entries that are ending: those that are being finalized, and those that were cleared while being created. A
/// clear() of all keys ends a round. It waits for the entries of its round and of those before, and for no later one.
/// The round of an entry is the one in which it was added to the table: a clear() ends all that are in it.
template <class Entry>
class EndingEntries {
 public:
  std::uint32_t round() const noexcept { return round_; }

  /// An entry of this round.
  void add(Entry& entry) noexcept {
    ++in_round_;
    entries_.push_back(entry);
  }
  /// An entry that end_round() has counted.
  void add_counted(Entry& entry) noexcept { entries_.push_back(entry); }

  /// The entry has ended. Calls `wake` with each event that only waited for this entry.
  template <class Wake>
  void remove(Entry& entry, Wake wake) noexcept {
    entries_.erase(entry);
    if (entry.round == round_) {
      --in_round_;
      return;
    }
    const auto first = round_ - static_cast<std::uint32_t>(rounds_.size());
    --rounds_[entry.round - first].left;
    for (; over_ < rounds_.size() && rounds_[over_].left == 0; ++over_) {
      wake(rounds_[over_].event);
      rounds_[over_].event.reset();
    }
    if (over_ == rounds_.size()) drop_those_over();
  }

  /// Makes room for the next end_round(). Throws std::bad_alloc; then nothing has changed.
  void reserve_round() {
    if (rounds_.size() < rounds_.capacity()) return;
    if (over_ > rounds_.size() / 2)
      drop_those_over();
    else
      rounds_.reserve(2 * rounds_.size() + 1);
  }

  /// This number of entries will be added, with add_counted(). The event is set when they and all that are ending now
  /// have ended. There is at least one. Call reserve_round() before.
  void end_round(std::size_t to_add, std::shared_ptr<ChainedEvent> event) noexcept {
    rounds_.push_back({std::exchange(in_round_, 0) + to_add, std::move(event)});
    ++round_;
  }

  template <class F>
  void for_each(F f) const {
    entries_.for_each(std::move(f));
  }

 private:
  /// A round that has ended, with entries that have not.
  struct Round {
    std::size_t left;
    std::shared_ptr<ChainedEvent> event;
  };

  void drop_those_over() noexcept {
    rounds_.erase(rounds_.begin(), rounds_.begin() + static_cast<std::ptrdiff_t>(over_));
    over_ = 0;
  }

  IntrusiveList<Entry> entries_;
  std::uint32_t round_ = 0;
  std::size_t in_round_ = 0;  // the entries of this round that are ending
  std::vector<Round> rounds_;
  std::size_t over_ = 0;  // the first ones of them, whose entries have ended
};

}}}}  // namespace drover::v1::detail::resource_pool
