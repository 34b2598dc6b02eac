#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <utility>

#include <drover/pool/detail/call/call_queue.hpp>
#include <drover/pool/detail/call/priority_shares.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Calls that wait, by CallOptions::priority. No operation allocates. Guarded by the dispatcher's mutex.
class PriorityQueues {
 public:
  bool empty() const noexcept { return size_ == 0; }
  std::size_t size() const noexcept { return size_; }
  PriorityShares::Waiting waiting() const noexcept {
    PriorityShares::Waiting waiting{};
    for (std::size_t level = 0; level < waiting.size(); ++level) waiting[level] = !queues_[level].empty();
    return waiting;
  }

  /// Calls of that priority wait.
  Call& front(std::size_t level) const noexcept { return queues_[level].front(); }
  std::shared_ptr<Call> pop(std::size_t level) noexcept {
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
  void remove(Call& call) noexcept {
    --size_;
    queue_of(call).remove(call);
  }
  /// One of those that are most urgent. Null if there is none.
  std::shared_ptr<Call> take_any() noexcept {
    for (std::size_t level = queues_.size(); level-- > 0;)
      if (!queues_[level].empty()) return pop(level);
    return nullptr;
  }

 private:
  CallQueue& queue_of(const Call& call) noexcept { return queues_[call.priority]; }

  std::array<CallQueue, PriorityShares::levels> queues_;
  std::size_t size_ = 0;
};

}}}  // namespace drover::v1::detail
