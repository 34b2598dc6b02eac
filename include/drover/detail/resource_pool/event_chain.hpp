#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <utility>

#include <drover/detail/context/async_event.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// An event of a pool. It can be queued without an allocation, which might fail where nothing may fail.
class ChainedEvent : public AsyncEvent {
  friend class EventChain;
  std::shared_ptr<ChainedEvent> next_;
};

/// A queue of events. An event is in at most one.
class EventChain {
 public:
  constexpr EventChain() noexcept = default;
  EventChain(EventChain&& other) noexcept { append(std::move(other)); }
  EventChain& operator=(EventChain&& other) noexcept {
    EventChain old(std::move(*this));
    append(std::move(other));
    return *this;
  }
  ~EventChain() {
    while (!empty()) pop();  // one by one: the default would recurse
  }

  bool empty() const noexcept { return last_ == nullptr; }

  void push(std::shared_ptr<ChainedEvent> event) noexcept {
    ChainedEvent* const last = event.get();
    (last_ != nullptr ? last_->next_ : first_) = std::move(event);
    last_ = last;
  }

  void append(EventChain&& other) noexcept {
    if (other.empty()) return;
    (last_ != nullptr ? last_->next_ : first_) = std::move(other.first_);
    last_ = std::exchange(other.last_, nullptr);
  }

  std::shared_ptr<ChainedEvent> pop() noexcept {
    auto event = std::move(first_);
    first_ = std::move(event->next_);
    if (!first_) last_ = nullptr;
    return event;
  }

 private:
  std::shared_ptr<ChainedEvent> first_;
  ChainedEvent* last_ = nullptr;
};

/// Sets events. To resume a coroutine takes memory. An event for which there was not enough, at two attempts, is kept
/// and set with the next ones, of any pool.
class EventSetter {
 public:
  static void set(EventChain events) noexcept {
    if (any_kept_.load(std::memory_order_relaxed)) events.append(take_kept());
    EventChain failed;
    while (!events.empty()) {
      auto event = events.pop();
      if (!event->try_set() && !event->try_set()) failed.push(std::move(event));
    }
    if (!failed.empty()) keep(std::move(failed));
  }

 private:
  static EventChain take_kept() noexcept {
    const std::lock_guard held(mutex_);
    any_kept_.store(false, std::memory_order_relaxed);
    return std::move(kept_);
  }

  static void keep(EventChain events) noexcept {
    const std::lock_guard held(mutex_);
    kept_.append(std::move(events));
    any_kept_.store(true, std::memory_order_relaxed);
  }

  static constinit inline std::mutex mutex_{};
  static constinit inline EventChain kept_{};
  static constinit inline std::atomic<bool> any_kept_{false};
};

}}}}  // namespace drover::v1::detail::resource_pool
