#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include <drover/detail/resource_pool/disposal.hpp>
#include <drover/detail/resource_pool/event_chain.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The number of entries or events that one handler deals with. Other handlers run before the next ones.
inline constexpr std::size_t piece = 64;

/// The decisions of the state machine's transitions. They are performed without the lock.
template <class Entry>
struct Actions {
  /// Adds the actions of another shard, to be performed after these. They must delete nothing.
  void append(Actions&& later) noexcept {
    if (later.to_run != nullptr) {
      (last_to_run != nullptr ? last_to_run->next_task : to_run) = later.to_run;
      last_to_run = later.last_to_run;
    }
    to_set.append(std::move(later.to_set));
    deliver_events |= later.deliver_events;
  }

  Disposable* to_run = nullptr;  // the factories and finalizers to call, chained by next_task
  Disposable* last_to_run = nullptr;
  Entry* to_delete = nullptr;  // chained by chain; call StateMachine::emptied() once their values are destroyed
  EventChain to_set;
  bool deliver_events = false;  // a delivery of events has to begin
};

/// Collects actions until take() returns them.
template <class Entry>
class ActionCollector {
 public:
  bool empty() const noexcept { return empty_; }

  Actions<Entry> take() noexcept {
    empty_ = true;
    return std::exchange(actions_, Actions<Entry>{});
  }

  /// The factory or the finalizer, depending on the state of the entry.
  void run(Entry& entry) noexcept {
    (actions_.last_to_run != nullptr ? actions_.last_to_run->next_task : actions_.to_run) = &entry;
    actions_.last_to_run = &entry;
    entry.next_task = nullptr;
    empty_ = false;
  }

  /// The entry is removed, and without a reference.
  void delete_entry(Entry& entry) noexcept {
    entry.chain = std::exchange(actions_.to_delete, &entry);
    empty_ = false;
  }

  /// Takes the event, which may be null.
  void set_event(std::shared_ptr<ChainedEvent>& event) noexcept {
    if (!event) return;
    actions_.to_set.push(std::move(event));
    empty_ = false;
  }

  void deliver_events() noexcept {
    actions_.deliver_events = true;
    empty_ = false;
  }

 private:
  Actions<Entry> actions_;
  bool empty_ = true;
};

}}}}  // namespace drover::v1::detail::resource_pool
