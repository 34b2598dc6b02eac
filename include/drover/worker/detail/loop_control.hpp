#pragma once

#include <cstdint>

#include <drover/worker/detail/noticed_cancels.hpp>
#include <drover/worker/detail/shared_state.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The state that the control thread and the data socket have set for the main loop. Each part of the loop reads it.
class LoopControl {
 public:
  LoopControl(const LoopControl&) = delete;
  LoopControl& operator=(const LoopControl&) = delete;

  /// The control thread may have asked for something since the last time.
  bool has_news() const noexcept {
    const std::uint32_t seen = state_.flags.load(std::memory_order_acquire);
    return seen != flags_ || (seen & WorkerFlag::stop) != 0 || !noticed_.empty() || !state_.cancelled_calls.empty();
  }
  /// Carries that out.
  void poll_flags() {
    if (has_news()) carry_out_flags();
  }
  /// The data socket has failed: nothing can be sent or received any more.
  virtual void connection_lost() = 0;

  bool draining() const noexcept { return draining_; }
  /// All calls are cancelled.
  bool cancelling() const noexcept { return cancelling_; }
  /// No call begins any more, and the parent has been notified.
  bool takes_no_more() const noexcept { return takes_no_more_; }
  bool parent_gone() const noexcept { return parent_gone_; }
  bool lost() const noexcept { return lost_; }
  NoticedCancels& noticed() noexcept { return noticed_; }

 protected:
  explicit LoopControl(WorkerState& state) noexcept : state_(state), noticed_(state) {}
  ~LoopControl() = default;

  virtual void carry_out_flags() = 0;

  WorkerState& state_;
  NoticedCancels noticed_;
  std::uint32_t flags_ = 0;  // those already processed
  bool draining_ = false, cancelling_ = false, takes_no_more_ = false, parent_gone_ = false, lost_ = false;
};

}}}  // namespace drover::v1::detail
