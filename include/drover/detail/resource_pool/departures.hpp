#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/resource_pool/entry.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The entries that are leaving: being finalized, or cleared while being created. In the order of their departures.
template <class Entry>
class Departures {
 public:
  void join(Entry& entry) noexcept {
    entry.departure = ++last_;
    leaving_.push_back(entry);
  }

  /// Calls `wake` with the event of each barrier for which this entry was the last one.
  template <class Wake>
  void depart(Entry& entry, Wake wake) noexcept {
    leaving_.erase(entry);
    while (!barriers_.empty() && (leaving_.empty() || leaving_.front().departure > barriers_.front().departure)) {
      wake(barriers_.front().event);
      barriers_.erase(barriers_.begin());
    }
  }

  /// An event that is set when all entries that are leaving now have departed; null if there are none.
  std::shared_ptr<AsyncEvent> all_gone_event() {
    if (leaving_.empty()) return nullptr;
    const auto event = std::make_shared<AsyncEvent>();
    barriers_.push_back({leaving_.back().departure, event});
    return event;
  }

  template <class F>
  void for_each(F f) const {
    leaving_.for_each(std::move(f));
  }

 private:
  struct Barrier {
    std::uint64_t departure;
    std::shared_ptr<AsyncEvent> event;
  };

  List<Entry> leaving_;
  std::uint64_t last_ = 0;
  std::vector<Barrier> barriers_;
};

}}}}  // namespace drover::v1::detail::resource_pool
