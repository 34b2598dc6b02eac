#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include <drover/pool/detail/call/call_queue.hpp>
#include <drover/pool/detail/call/priority_queues.hpp>
#include <drover/pool/detail/call/priority_shares.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The calls that wait for a worker, by priority, and those that rest between two attempts. No operation allocates.
/// Guarded by the dispatcher's mutex.
class WaitingCalls {
 public:
  /// None waits for a worker.
  bool empty() const noexcept { return queues_.empty(); }
  /// How many wait for a worker.
  std::size_t size() const noexcept { return queues_.size(); }
  std::size_t resting() const noexcept { return resting_.size(); }

  /// The call whose turn it is.
  Call& front() const noexcept { return queues_.front(shares_.next(queues_.waiting())); }
  std::shared_ptr<Call> pop() noexcept { return pop(shares_.next(queues_.waiting())); }
  /// For each priority: calls wait for a worker.
  PriorityShares::Waiting waiting() const noexcept { return queues_.waiting(); }
  /// The first call of that priority. There is one.
  Call& front(std::size_t level) const noexcept { return queues_.front(level); }
  std::shared_ptr<Call> pop(std::size_t level) noexcept {
    shares_.took(level, queues_.waiting());
    return queues_.pop(level);
  }
  void push(std::shared_ptr<Call> call) noexcept { queues_.push(std::move(call)); }
  /// The next one of its priority.
  void push_front(std::shared_ptr<Call> call) noexcept { queues_.push_front(std::move(call)); }
  /// A call that waits for a worker.
  void remove(Call& call) noexcept { queues_.remove(call); }

  void rest(std::shared_ptr<Call> call) noexcept { resting_.push(std::move(call)); }
  std::shared_ptr<Call> end_rest(Call& call) noexcept { return resting_.remove(call); }

  /// Any of them. Null if there is none.
  std::shared_ptr<Call> take_any() noexcept { return resting_.empty() ? queues_.take_any() : resting_.pop(); }

 private:
  PriorityQueues queues_;
  CallQueue resting_;
  PriorityShares shares_;
};

}}}  // namespace drover::v1::detail
