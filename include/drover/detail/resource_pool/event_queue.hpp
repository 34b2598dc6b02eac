#pragma once

#include <cstdint>
#include <exception>
#include <utility>
#include <vector>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The enumerators are those of ResourcePool::Event::Kind.
enum class EventKind : std::uint8_t { made, revived, expired, evicted, discarded, finalized, failed };

/// Its entry is not deleted before the event is delivered.
template <class Entry>
struct PendingEvent {
  EventKind kind;
  Entry* entry;
  std::exception_ptr error;
};

template <class Entry>
using PendingEvents = std::vector<PendingEvent<Entry>>;

/// The events that are not delivered yet. Only one delivery runs at a time, so that events arrive in order on any
/// number of threads.
template <class Entry>
class EventQueue {
 public:
  /// Returns true if a delivery has to begin; false if one is running.
  bool push(EventKind kind, Entry& entry, std::exception_ptr error) {
    events_.push_back({kind, &entry, std::move(error)});
    ++entry.pending_events;
    return !std::exchange(delivering_, true);
  }

  /// For the running delivery. If there is no event, the delivery has ended.
  PendingEvents<Entry> take() noexcept {
    if (events_.empty()) delivering_ = false;
    return std::exchange(events_, {});
  }

  /// Ends the running delivery.
  PendingEvents<Entry> take_all() noexcept {
    delivering_ = false;
    return std::exchange(events_, {});
  }

 private:
  PendingEvents<Entry> events_;
  bool delivering_ = false;
};

}}}}  // namespace drover::v1::detail::resource_pool
