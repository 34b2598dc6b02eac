#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>
#include <utility>

#include <drover/detail/current_call.hpp>
#include <drover/wire/cancel_reason.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Where a running call learns why it was cancelled: its loop.
class CancelNews {
 public:
  virtual CancelReason reason_for(std::uint64_t call) = 0;

 protected:
  ~CancelNews() = default;
};

/// What this_call reports: a call from the beginning of its routine to its end. Used on the main thread.
struct RunningCall : CurrentCall {
  RunningCall(std::uint64_t call, Deadline until, std::string_view text, CancelNews& loop) noexcept
      : CurrentCall{until}, id(call), context(text), news(&loop) {}

  bool has_ended() const noexcept { return news == nullptr; }
  /// The loop and the bytes of the context are not used any more.
  void end() noexcept {
    news = nullptr;
    deadline.reset();
    context = {};
  }
  CancelReason reason_now() {
    if (reason == CancelReason::none && !has_ended()) reason = news->reason_for(id);
    return reason;
  }

  std::uint64_t id;
  unsigned attempt = 1;
  std::string_view context;  // refers to the body of its CALL
  CancelReason reason = CancelReason::none;
  CancelNews* news;
};

/// While it exists, this call is the one that runs on this thread; null: none is.
class CurrentCallScope {
 public:
  explicit CurrentCallScope(RunningCall* call) noexcept : before_(std::exchange(current_call, call)) {}
  CurrentCallScope(const CurrentCallScope&) = delete;
  CurrentCallScope& operator=(const CurrentCallScope&) = delete;
  ~CurrentCallScope() { current_call = before_; }

 private:
  CurrentCall* const before_;
};

/// The call whose coroutine runs on the main thread at this moment; 0: none does. For the control thread, see
/// LoopProbe.
inline constinit std::atomic<std::uint64_t> running_coroutine{0};

/// A CurrentCallScope for a coroutine, which is resumed many times.
class ResumedCallScope {
 public:
  explicit ResumedCallScope(RunningCall* call) noexcept
      : scope_(call), before_(running_coroutine.load(std::memory_order_relaxed)) {
    running_coroutine.store(call == nullptr ? 0 : call->id, std::memory_order_relaxed);
  }
  ResumedCallScope(const ResumedCallScope&) = delete;
  ResumedCallScope& operator=(const ResumedCallScope&) = delete;
  ~ResumedCallScope() { running_coroutine.store(before_, std::memory_order_relaxed); }

 private:
  const CurrentCallScope scope_;
  const std::uint64_t before_;
};

}}}  // namespace drover::v1::detail
