#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include <drover/pool/detail/call/call_queue.hpp>
#include <drover/pool/detail/call/waiting_calls.hpp>
#include <drover/pool/detail/worker/data_link.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The calls that wait for one certain worker: those of a CallOptions::key, and those of a broadcast. Each link has a
/// number, which is never used again. No link has such calls and room for them: see CallSender::send_pinned(). Guarded
/// by the dispatcher's mutex.
class PinnedCalls {
 public:
  /// Throws std::bad_alloc; then nothing has changed.
  void add(DataLink& link) {
    links_.emplace_hint(links_.end(), last_ + 1, &link);
    link.number = ++last_;
    slots_ += link.slots().capacity();
  }
  /// Returns the calls that wait for it.
  CallQueue remove(DataLink& link) noexcept {
    if (links_.erase(link.number) != 0) slots_ -= link.slots().capacity();
    return take(link);
  }
  /// The calls that wait for it, the most urgent ones first.
  CallQueue take(DataLink& link) noexcept {
    CallQueue all;
    while (auto call = unpinned(link.pinned.take_any())) all.push(std::move(call));
    return all;
  }

  /// Null if the link is gone or its worker takes no calls.
  DataLink* find(std::uint64_t number) const noexcept {
    const auto found = links_.find(number);
    return found != links_.end() && found->second->load().ready ? found->second : nullptr;
  }
  /// For a new key: a link with room, so that keys are spread over all workers in turn. Null if none of the next few
  /// has room.
  DataLink* next_home() noexcept {
    constexpr int few = 8;
    for (int tried = 0; tried < few && !links_.empty(); ++tried) {
      auto next = links_.upper_bound(last_home_);
      if (next == links_.end()) next = links_.begin();
      last_home_ = next->first;
      const auto load = next->second->load();
      if (load.ready && load.in_flight < load.capacity && next->second->pinned.empty()) return next->second;
    }
    return nullptr;
  }
  std::size_t links() const noexcept { return links_.size(); }
  /// The slots of all links.
  std::size_t slots() const noexcept { return slots_; }
  template <class F>
  void for_each_link(F f) const {
    for (const auto& [number, link] : links_) f(*link);
  }

  std::size_t size() const noexcept { return size_; }
  void push(DataLink& link, std::shared_ptr<Call> call) noexcept {
    pin(*call, link);
    link.pinned.push(std::move(call));
  }
  void push_front(DataLink& link, std::shared_ptr<Call> call) noexcept {
    pin(*call, link);
    link.pinned.push_front(std::move(call));
  }
  /// The link has room: the call whose turn it is among those that wait for it, of which there are some, and those that
  /// wait for any worker. Of one priority it is the older one.
  std::shared_ptr<Call> pop_next(DataLink& link, WaitingCalls& others) noexcept {
    const PriorityShares::Waiting own = link.pinned.waiting(), shared = others.waiting();
    PriorityShares::Waiting all{};
    for (std::size_t level = 0; level < all.size(); ++level) all[level] = own[level] || shared[level];
    const std::size_t level = link.shares.next(all);
    link.shares.took(level, all);
    if (!own[level] || (shared[level] && others.front(level).order < link.pinned.front(level).order))
      return others.pop(level);
    return unpinned(link.pinned.pop(level));
  }
  void remove(Call& call) noexcept {
    std::exchange(call.pinned_at, nullptr)->pinned.remove(call);
    --size_;
  }
  /// Null if there is none. To take all of them visits each link once.
  std::shared_ptr<Call> take_any() noexcept {
    if (size_ == 0) return nullptr;
    for (auto at = links_.lower_bound(first_with_calls_); at != links_.end(); ++at) {
      first_with_calls_ = at->first;
      if (!at->second->pinned.empty()) return unpinned(at->second->pinned.take_any());
    }
    return nullptr;
  }

 private:
  void pin(Call& call, DataLink& link) noexcept {
    ++size_;
    call.pinned_at = &link;
    first_with_calls_ = std::min(first_with_calls_, link.number);
  }
  std::shared_ptr<Call> unpinned(std::shared_ptr<Call> call) noexcept {
    if (!call) return nullptr;
    call->pinned_at = nullptr;
    --size_;
    return call;
  }

  std::map<std::uint64_t, DataLink*> links_;
  std::size_t slots_ = 0;
  std::uint64_t last_ = 0;
  std::uint64_t last_home_ = 0;
  std::uint64_t first_with_calls_ = 0;  // no link with a lower number has calls
  std::size_t size_ = 0;
};

}}}  // namespace drover::v1::detail
