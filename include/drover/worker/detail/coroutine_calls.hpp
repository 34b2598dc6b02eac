#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include <asio/cancellation_type.hpp>

#include <drover/wire/cancel_reason.hpp>
#include <drover/worker/detail/coroutine_call.hpp>
#include <drover/worker/detail/shared_state.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The calls in progress whose routines are coroutines, by their ids. It must outlive the coroutines' frames.
class CoroutineCalls {
 public:
  explicit CoroutineCalls(WorkerState& state) noexcept : state_(state) {}
  CoroutineCalls(const CoroutineCalls&) = delete;
  CoroutineCalls& operator=(const CoroutineCalls&) = delete;

  bool empty() const noexcept { return calls_.empty(); }
  /// Throws std::bad_alloc; then nothing has changed.
  void add(std::unique_ptr<CoroutineCall> call) { calls_.emplace(call->header.id, std::move(call)); }
  /// Null if there is none.
  const CoroutineCall* find(std::uint64_t id) const noexcept {
    const auto found = calls_.find(id);
    return found != calls_.end() ? found->second.get() : nullptr;
  }
  /// Null if there is none.
  std::unique_ptr<CoroutineCall> remove(std::uint64_t id) noexcept {
    auto node = calls_.extract(id);
    return node.empty() ? nullptr : std::move(node.mapped());
  }
  /// Tells the control thread how many there are.
  void publish_count() noexcept { state_.coroutines.store(calls_.size(), std::memory_order_relaxed); }

  /// A call that has ended may still be on the stack: it is kept until free_ended().
  void keep_ended(std::unique_ptr<CoroutineCall> call) { ended_.push_back(std::move(call)); }
  void free_ended() noexcept { ended_.clear(); }

  void cancel(std::uint64_t id, CancelReason reason) {
    const auto found = calls_.find(id);
    if (found == calls_.end() || std::exchange(found->second->cancelled, true)) return;
    if (found->second->running->reason == CancelReason::none) found->second->running->reason = reason;
    found->second->cancellation.emit(asio::cancellation_type::terminal);
  }
  /// To cancel one may end others.
  std::vector<std::uint64_t> ids() const {
    std::vector<std::uint64_t> ids;
    for (const auto& [id, call] : calls_) ids.push_back(id);
    return ids;
  }

 private:
  WorkerState& state_;
  std::unordered_map<std::uint64_t, std::unique_ptr<CoroutineCall>> calls_;
  std::vector<std::unique_ptr<CoroutineCall>> ended_;
};

}}}  // namespace drover::v1::detail
