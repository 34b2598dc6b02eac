#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

namespace drover { inline namespace v1 { namespace detail {

/// Call ids on their way from one thread to another: unbounded, without locks, and with one allocation per thousand
/// ids. One thread pushes, one pops.
class IdQueue {
 public:
  IdQueue() : head_(new Block), tail_(head_) {}
  IdQueue(const IdQueue&) = delete;
  IdQueue& operator=(const IdQueue&) = delete;
  ~IdQueue() {
    while (head_ != nullptr) delete std::exchange(head_, head_->next.load());
  }

  void push(std::uint64_t id) {
    std::size_t filled = tail_->filled.load(std::memory_order_relaxed);
    if (filled == block_size) {
      Block* const fresh = new Block;
      tail_->next.store(fresh, std::memory_order_release);
      tail_ = fresh;
      filled = 0;
    }
    tail_->ids[filled] = id;
    tail_->filled.store(filled + 1, std::memory_order_release);
  }

  /// For the popping thread.
  bool empty() const noexcept {
    return popped_ == head_->filled.load(std::memory_order_acquire) &&
           (popped_ != block_size || head_->next.load(std::memory_order_acquire) == nullptr);
  }

  std::optional<std::uint64_t> pop() noexcept {
    if (popped_ == block_size) {
      Block* const next = head_->next.load(std::memory_order_acquire);
      if (next == nullptr) return std::nullopt;
      delete std::exchange(head_, next);
      popped_ = 0;
    }
    if (popped_ == head_->filled.load(std::memory_order_acquire)) return std::nullopt;
    return head_->ids[popped_++];
  }

 private:
  static constexpr std::size_t block_size = 1024;

  struct Block {
    std::array<std::uint64_t, block_size> ids;
    std::atomic<std::size_t> filled{0};
    std::atomic<Block*> next{nullptr};
  };

  Block* head_;  // used by the popping thread
  std::size_t popped_ = 0;
  alignas(64) Block* tail_;  // used by the pushing thread
};

}}}  // namespace drover::v1::detail
