#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/resource_pool/entry.hpp>

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

  /// An event that is set when all entries that are ending now have ended; null if there are none.
  std::shared_ptr<AsyncEvent> all_ended_event() {
    if (entries_.empty()) return nullptr;
    const auto event = std::make_shared<AsyncEvent>();
    barriers_.push_back({entries_.back().ending_number, event});
    return event;
  }

  template <class F>
  void for_each(F f) const {
    entries_.for_each(std::move(f));
  }

 private:
  /// Waits for the entries up to this number.
  struct Barrier {
    std::uint64_t last_number;
    std::shared_ptr<AsyncEvent> event;
  };

  List<Entry> entries_;
  std::uint64_t last_number_ = 0;
  std::vector<Barrier> barriers_;
};

}}}}  // namespace drover::v1::detail::resource_pool
