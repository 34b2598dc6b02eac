#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <drover/detail/resource_pool/entry.hpp>
#include <drover/detail/resource_pool/event_chain.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The entries that are ending: those that are being finalized, and those that were cleared while being created. They
/// are numbered in the order in which they began to end, so that clear() can wait for all that were ending when it was
/// called, and for no later one.
template <class Entry>
class EndingEntries {
 public:
  void add(Entry& entry) noexcept {
    entry.ending_number = ++last_number_;
    entries_.push_back(entry);
  }

  /// The entry has ended. Calls `wake` with each event that only waited for this entry.
  template <class Wake>
  void remove(Entry& entry, Wake wake) noexcept {
    entries_.erase(entry);
    while (!barriers_.empty() && (entries_.empty() || entries_.front().ending_number > barriers_.front().last_number)) {
      wake(barriers_.front().event);
      barriers_.erase(barriers_.begin());
    }
  }

  /// Makes room for the next wait_for_all().
  void reserve_barrier() { barriers_.reserve(barriers_.size() + 1); }

  /// The event is set when all entries that are ending now have ended. There is at least one. Call reserve_barrier()
  /// before.
  void wait_for_all(std::shared_ptr<ChainedEvent> event) noexcept {
    barriers_.push_back({entries_.back().ending_number, std::move(event)});
  }

  bool empty() const noexcept { return entries_.empty(); }

  template <class F>
  void for_each(F f) const {
    entries_.for_each(std::move(f));
  }

 private:
  /// Waits for the entries up to this number.
  struct Barrier {
    std::uint64_t last_number;
    std::shared_ptr<ChainedEvent> event;
  };

  List<Entry> entries_;
  std::uint64_t last_number_ = 0;
  std::vector<Barrier> barriers_;
};

}}}}  // namespace drover::v1::detail::resource_pool
