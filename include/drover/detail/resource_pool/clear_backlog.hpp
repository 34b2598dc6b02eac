#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include <drover/detail/intrusive_list.hpp>
#include <drover/detail/resource_pool/actions.hpp>
#include <drover/detail/resource_pool/entry.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The entries that a clear() of all keys has cleared, and whose State does not say so yet: to visit all of them at
/// once would take too long. They are recognised by their round, see EndingEntries.
template <class Entry>
class ClearBacklog {
 public:
  bool empty() const noexcept { return in_use_ == 0 && idle_.empty() && discarded_.empty(); }

  bool contains(const Entry& entry, std::uint32_t round) const noexcept {
    if (entry.round == round) return false;
    switch (entry.state) {
      case State::creating: return !entry.cleared;
      case State::leased:
      case State::discarded:
      case State::idle: return true;
      default: return false;
    }
  }

  /// All entries of the lists, which are then empty, and this number of entries that are leased or being created.
  void add(IntrusiveList<Entry>& idle, IntrusiveList<Entry>& discarded, std::size_t in_use) noexcept {
    idle_.append(idle);
    discarded_.append(discarded);
    in_use_ += in_use;
    next_bucket_ = 0;
  }

  void remove(Entry& entry) noexcept {
    if (entry.state == State::idle)
      idle_.erase(entry);
    else if (entry.state == State::discarded)
      discarded_.erase(entry);
    else
      --in_use_;
  }

  /// An entry of the backlog. Returns null if there is none, or none in the next buckets of the table, whose number is
  /// limited.
  template <class Table>
  Entry* find_one(const Table& table, std::uint32_t round) noexcept {
    if (!idle_.empty()) return &idle_.front();
    if (in_use_ == 0) return discarded_.empty() ? nullptr : &discarded_.front();
    // A growing table moves entries to later buckets only.
    for (std::size_t i = 0; i < 4 * piece && next_bucket_ < table.buckets(); ++i, ++next_bucket_)
      for (Entry* entry = table.first_in(next_bucket_); entry != nullptr; entry = entry->chain)
        if (contains(*entry, round)) return entry;
    return nullptr;
  }

  /// Those that count as being finalized.
  template <class Table, class F>
  void for_each_finalizing(const Table& table, std::uint32_t round, F f) const {
    discarded_.for_each(f);
    idle_.for_each(f);
    if (in_use_ == 0) return;
    table.for_each([&](const Entry& entry) {
      if (entry.state == State::leased && contains(entry, round)) f(entry);
    });
  }

 private:
  IntrusiveList<Entry> idle_, discarded_;
  std::size_t in_use_ = 0;  // leased or being created; they are found in the table
  std::size_t next_bucket_ = 0;
};

}}}}  // namespace drover::v1::detail::resource_pool
