#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/state.hpp>

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
  /// Keeps a prepared call, and empties `call`. False if another one is kept already. Without the mutex.
  bool keep_last(std::shared_ptr<Call>& call) noexcept {
    Call* const last = call.get();
    Call* none = nullptr;
    last->kept = std::move(call);
    if (last_.compare_exchange_strong(none, last, std::memory_order_release, std::memory_order_relaxed)) return true;
    call = std::move(last->kept);
    return false;
  }

  /// Prepares a call for another one. False if it has not ended, or somebody else refers to it. Without the mutex.
  static bool prepare(const std::shared_ptr<Call>& call) noexcept {
    if (call.use_count() != 1) return false;
#if !defined(__SANITIZE_THREAD__)                         // GCC's ThreadSanitizer knows no fences, and warns
    std::atomic_thread_fence(std::memory_order_acquire);  // after all that its other owners have done with it
#endif
    if (call->state != CallState::ended) return false;
    call->reset(most_bytes);
    return true;
  }

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
