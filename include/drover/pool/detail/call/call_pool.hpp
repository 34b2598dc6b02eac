#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include <drover/pool/detail/call/call.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Calls that have ended, kept for the next ones with the memory that they have allocated. The one that ended last is
/// kept apart: it can be taken and given back without a lock. The others are guarded by the dispatcher's mutex.
class CallPool {
 public:
  CallPool() = default;
  CallPool(const CallPool&) = delete;
  CallPool& operator=(const CallPool&) = delete;
  ~CallPool() { (void)take_last(); }

  /// Null if there is none. Without the mutex.
  std::shared_ptr<Call> take_last() noexcept {
    Call* const last = last_.exchange(nullptr, std::memory_order_acquire);
    return last == nullptr ? nullptr : std::move(last->kept);
  }
  /// Empties `call`, unless one is kept already. Without the mutex.
  void keep_last(std::shared_ptr<Call>& call) noexcept {
    Call* const last = call.get();
    Call* none = nullptr;
    last->kept = std::move(call);
    if (!last_.compare_exchange_strong(none, last, std::memory_order_release, std::memory_order_relaxed))
      call = std::move(last->kept);
  }

  /// Prepares a call that has ended, and that nobody else refers to, for another one.
  static void prepare(Call& call) noexcept { call.reset(most_bytes); }

  /// Null if none is left.
  std::shared_ptr<Call> take() noexcept {
    if (calls_.empty()) return nullptr;
    auto call = std::move(calls_.back());
    calls_.pop_back();
    return call;
  }

  /// Keeps a prepared call.
  void give_back(std::shared_ptr<Call> call) {
    if (calls_.size() >= most) return;
    try {
      calls_.push_back(std::move(call));
    } catch (const std::bad_alloc&) {  // then the next call allocates
    }
  }

 private:
  static constexpr std::size_t most = 256;
  static constexpr std::size_t most_bytes = 64 * 1024;  // of each buffer

  std::atomic<Call*> last_{nullptr};  // it owns itself
  std::vector<std::shared_ptr<Call>> calls_;
};

}}}  // namespace drover::v1::detail
