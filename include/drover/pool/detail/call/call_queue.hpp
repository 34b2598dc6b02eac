#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include <drover/pool/detail/call/call.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// A list of calls in order, from which any call can be removed. No operation allocates. Guarded by the dispatcher's
/// mutex.
class CallQueue {
 public:
  CallQueue() = default;
  CallQueue(CallQueue&& other) noexcept { swap(other); }
  CallQueue& operator=(CallQueue&&) = delete;
  ~CallQueue() {
    while (first_) pop();  // one by one: a long chain of owners would be destroyed recursively
  }

  bool empty() const noexcept { return first_ == nullptr; }
  std::size_t size() const noexcept { return size_; }
  Call& front() const noexcept { return *first_; }

  void push(std::shared_ptr<Call> call) noexcept {
    call->previous = last_;
    Call* const added = call.get();
    (last_ != nullptr ? last_->next : first_) = std::move(call);
    last_ = added;
    ++size_;
  }

  void push_front(std::shared_ptr<Call> call) noexcept {
    call->previous = nullptr;
    call->next = std::move(first_);
    (call->next ? call->next->previous : last_) = call.get();
    first_ = std::move(call);
    ++size_;
  }

  std::shared_ptr<Call> remove(Call& call) noexcept {
    std::shared_ptr<Call>& owner = call.previous != nullptr ? call.previous->next : first_;
    std::shared_ptr<Call> removed = std::move(owner);
    owner = std::move(removed->next);
    (owner ? owner->previous : last_) = removed->previous;
    removed->previous = nullptr;
    removed->next = nullptr;
    --size_;
    return removed;
  }

  void swap(CallQueue& other) noexcept {
    std::swap(first_, other.first_);
    std::swap(last_, other.last_);
    std::swap(size_, other.size_);
  }

  void append(CallQueue other) noexcept {
    while (!other.empty()) push(other.pop());
  }

  std::shared_ptr<Call> pop() noexcept { return remove(*first_); }

 private:
  std::shared_ptr<Call> first_;
  Call* last_ = nullptr;
  std::size_t size_ = 0;
};

/// Completes calls that have failed. Without the dispatcher's mutex.
inline void complete_all_with_error(CallQueue calls, const Cause& cause) {
  while (!calls.empty()) Call::complete_with_error(calls.pop(), failure_of(cause));
}

}}}  // namespace drover::v1::detail
