#pragma once

#include <algorithm>
#include <optional>
#include <utility>

#include <drover/detail/intrusive_list.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The idle entries of a shard, in the order of their deadlines.
template <class Entry>
class IdleEntries {
 public:
  bool empty() const noexcept { return list_.empty(); }
  Entry& front() const noexcept { return list_.front(); }
  template <class F>
  void for_each(F f) const {
    list_.for_each(std::move(f));
  }
  IntrusiveList<Entry>& list() noexcept { return list_; }

  /// When the first entry expires.
  Deadline next_due() const noexcept {
    if (empty() || front().deadline() == Clock::time_point::max()) return std::nullopt;
    return front().deadline();
  }

  void add(Entry& entry, const Deadline& expires) noexcept {
    auto deadline = expires.value_or(Clock::time_point::max());
    // Another thread may have read the clock later and got the lock first. The list stays in the order of deadlines.
    if (!empty()) deadline = std::max(deadline, list_.back().deadline());
    entry.set_deadline(deadline);
    list_.push_back(entry);
  }
  void erase(Entry& entry) noexcept { list_.erase(entry); }

 private:
  IntrusiveList<Entry> list_;
};

}}}}  // namespace drover::v1::detail::resource_pool
