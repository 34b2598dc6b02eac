#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <utility>

#include <drover/pool/detail/call/call_queue.hpp>
#include <drover/pool/detail/call/priority_shares.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The calls that wait for a worker, by priority, and those that rest between two attempts. No operation allocates.
/// Guarded by the dispatcher's mutex.
class WaitingCalls {
 public:
  /// None waits for a worker.
  bool empty() const noexcept { return size_ == 0; }
  /// How many wait for a worker.
  std::size_t size() const noexcept { return size_; }
  std::size_t resting() const noexcept { return resting_.size(); }

  /// The call whose turn it is.
  Call& front() const noexcept { return queues_[next()].front(); }
  std::shared_ptr<Call> pop() noexcept {
    const auto before = waiting();
    const std::size_t level = shares_.next(before);
    shares_.took(level, before);
    --size_;
    return queues_[level].pop();
  }
  void push(std::shared_ptr<Call> call) noexcept {
    ++size_;
    CallQueue& queue = queue_of(*call);
    queue.push(std::move(call));
  }
  /// The next one of its priority.
  void push_front(std::shared_ptr<Call> call) noexcept {
    ++size_;
    CallQueue& queue = queue_of(*call);
    queue.push_front(std::move(call));
  }
  /// A call that waits for a worker.
  void remove(Call& call) noexcept {
    --size_;
    queue_of(call).remove(call);
  }

  void rest(std::shared_ptr<Call> call) noexcept { resting_.push(std::move(call)); }
  std::shared_ptr<Call> end_rest(Call& call) noexcept { return resting_.remove(call); }

  /// Any of them. Null if there is none.
  std::shared_ptr<Call> take_any() noexcept {
    if (!resting_.empty()) return resting_.pop();
    return empty() ? nullptr : pop();
  }

 private:
  PriorityShares::Waiting waiting() const noexcept {
    PriorityShares::Waiting waiting{};
    for (std::size_t level = 0; level < waiting.size(); ++level) waiting[level] = !queues_[level].empty();
    return waiting;
  }
  std::size_t next() const noexcept { return shares_.next(waiting()); }
  CallQueue& queue_of(const Call& call) noexcept { return queues_[call.priority]; }

  std::array<CallQueue, PriorityShares::levels> queues_;
  CallQueue resting_;
  PriorityShares shares_;
  std::size_t size_ = 0;
};

}}}  // namespace drover::v1::detail
