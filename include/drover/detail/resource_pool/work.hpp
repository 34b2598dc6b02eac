#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/resource_pool/disposal.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// What the transitions of a state machine have decided, to be done without the lock.
template <class Entry>
struct Work {
  Disposable* to_run = nullptr;  // chained by next_task: call the factory or the finalizer
  Entry* to_delete = nullptr;    // chained by chain
  std::vector<std::shared_ptr<AsyncEvent>> to_set;
  bool deliver_events = false;  // begin a delivery
};

/// Collects work.
template <class Entry>
class WorkCollector {
 public:
  bool empty() const noexcept { return empty_; }

  Work<Entry> take() noexcept {
    empty_ = true;
    last_to_run_ = nullptr;
    return std::exchange(work_, Work<Entry>{});
  }

  /// Calls the factory or the finalizer, depending on the state of the entry.
  void run(Entry& entry) noexcept {
    (last_to_run_ != nullptr ? last_to_run_->next_task : work_.to_run) = &entry;
    last_to_run_ = &entry;
    entry.next_task = nullptr;
    empty_ = false;
  }

  void delete_entry(Entry& entry) noexcept {
    entry.chain = std::exchange(work_.to_delete, &entry);
    empty_ = false;
  }

  /// Takes the event, which may be null.
  void set_event(std::shared_ptr<AsyncEvent>& event) noexcept {
    if (!event) return;
    work_.to_set.push_back(std::move(event));
    empty_ = false;
  }

  void deliver_events() noexcept {
    work_.deliver_events = true;
    empty_ = false;
  }

 private:
  Work<Entry> work_;
  Entry* last_to_run_ = nullptr;
  bool empty_ = true;
};

}}}}  // namespace drover::v1::detail::resource_pool
