#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <utility>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The enumerators are those of ResourcePool::Event::Kind.
enum class EventKind : std::uint8_t { made, revived, expired, evicted, discarded, finalized, failed };

/// Its entry is not deleted before the event is delivered.
template <class Entry>
struct PendingEvent {
  EventKind kind{};
  Entry* entry = nullptr;
  std::exception_ptr error;
  PendingEvent* next = nullptr;
};

/// A chain of events, which it owns.
template <class Entry>
class PendingEvents {
 public:
  using Event = PendingEvent<Entry>;

  PendingEvents() = default;
  explicit PendingEvents(Event* first) noexcept : first_(first) {}
  PendingEvents(PendingEvents&& other) noexcept : first_(std::exchange(other.first_, nullptr)) {}
  PendingEvents& operator=(PendingEvents&& other) noexcept {
    PendingEvents old(std::exchange(first_, std::exchange(other.first_, nullptr)));
    return *this;
  }
  ~PendingEvents() {
    while (first_ != nullptr) pop();
  }

  bool empty() const noexcept { return first_ == nullptr; }

  void push(std::unique_ptr<Event> event) noexcept {
    event->next = first_;
    first_ = event.release();
  }

  std::unique_ptr<Event> pop() noexcept { return std::unique_ptr<Event>(std::exchange(first_, first_->next)); }

  template <class F>
  void for_each(F f) const {
    for (const Event* event = first_; event != nullptr; event = event->next) f(*event);
  }

 private:
  Event* first_ = nullptr;
};

/// The events that are not delivered yet. Only one delivery runs at a time, so that events arrive in order on any
/// number of threads.
template <class Entry>
class EventQueue {
 public:
  /// An entry has at most this many events, unless it is revived: its creation, why it ends, its end.
  static constexpr int events_of_an_entry = 3;

  /// Makes room for events of this entry, so that push() cannot fail.
  static void reserve(Entry& entry, int events) {
    for (; events > 0; --events) entry.spare_events.push(std::make_unique<PendingEvent<Entry>>());
  }

  /// Returns true if a delivery has to begin; false if one is running.
  bool push(EventKind kind, Entry& entry, std::exception_ptr error) noexcept {
    PendingEvent<Entry>* const event = entry.spare_events.pop().release();
    *event = {kind, &entry, std::move(error), nullptr};
    (first_ == nullptr ? first_ : last_->next) = event;
    last_ = event;
    ++entry.pending_events;
    return !std::exchange(delivering_, true);
  }

  /// For the running delivery: at most `limit` events. If there is none, the delivery has ended.
  PendingEvents<Entry> take(std::size_t limit) noexcept {
    if (first_ == nullptr) delivering_ = false;
    PendingEvent<Entry>** end = &first_;
    for (; limit > 0 && *end != nullptr; --limit) end = &(*end)->next;
    PendingEvent<Entry>* const rest = std::exchange(*end, nullptr);
    return PendingEvents<Entry>(std::exchange(first_, rest));
  }

  /// These events are delivered. Calls the function with each entry of which no event is left.
  template <class F>
  static void finish(const PendingEvents<Entry>& delivered, F none_left) {
    delivered.for_each([&](const PendingEvent<Entry>& event) {
      if (--event.entry->pending_events == 0) none_left(*event.entry);
    });
  }

  /// Ends the running delivery.
  PendingEvents<Entry> take_all() noexcept {
    delivering_ = false;
    return PendingEvents<Entry>(std::exchange(first_, nullptr));
  }

  EventQueue() = default;
  EventQueue(const EventQueue&) = delete;
  EventQueue& operator=(const EventQueue&) = delete;
  ~EventQueue() { take_all(); }

 private:
  PendingEvent<Entry>* first_ = nullptr;
  PendingEvent<Entry>* last_ = nullptr;
  bool delivering_ = false;
};

}}}}  // namespace drover::v1::detail::resource_pool
