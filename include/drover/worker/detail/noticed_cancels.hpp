#pragma once

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include <drover/wire/cancel_reason.hpp>
#include <drover/worker/detail/running_call.hpp>
#include <drover/worker/detail/shared_state.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// What the control thread has sent in the middle of a routine that has asked why it is cancelled. It is to be carried
/// out later. Used on the main thread.
class NoticedCancels final : public CancelNews {
 public:
  explicit NoticedCancels(WorkerState& state) noexcept : state_(state) {}

  CancelReason reason_for(std::uint64_t call) override {
    for (;;) {
      if (calls_.size() == calls_.capacity()) calls_.reserve(2 * calls_.size() + 4);
      const auto packed = state_.cancelled_calls.pop();
      if (!packed) break;
      calls_.emplace_back(*packed);
    }
    for (const CancelledCall& cancelled : calls_)
      if (cancelled.id == call) return cancelled.reason;
    return why_all();
  }
  /// Why all calls are cancelled, if they are.
  CancelReason why_all() const noexcept {
    const std::uint32_t flags = state_.flags.load(std::memory_order_acquire);
    if ((flags & WorkerFlag::cancel_calls) == 0) return CancelReason::none;
    return (flags & WorkerFlag::parent_gone) != 0 ? CancelReason::parent_died : CancelReason::stop;
  }

  bool empty() const noexcept { return calls_.empty(); }
  std::vector<CancelledCall> take() noexcept { return std::exchange(calls_, {}); }

 private:
  WorkerState& state_;
  std::vector<CancelledCall> calls_;
};

}}}  // namespace drover::v1::detail
