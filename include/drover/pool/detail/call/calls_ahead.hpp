#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>

#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/call_queue.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The calls that were sent ahead and not recalled yet, the oldest first. A call is late if it has been here for two
/// looks; there is one look in each `pause`. Guarded by the dispatcher's mutex.
class CallsAhead {
 public:
  static constexpr Duration pause = std::chrono::milliseconds(1);

  void add(std::shared_ptr<Call> call) noexcept {
    call->ahead_since = look_;
    calls_.push(std::move(call));
  }
  void remove(Call& call) noexcept { calls_.remove(call); }

  /// The time of the next look, if there is to be one.
  const Deadline& next_look() const noexcept { return next_; }
  /// True if next_look() has changed.
  bool begin_looking() noexcept {
    if (next_ || calls_.empty()) return false;
    next_ = Clock::now() + pause;
    return true;
  }
  void stop_looking() noexcept { next_.reset(); }

  bool is_due(Clock::time_point now) const noexcept { return next_ && *next_ <= now; }
  /// A look. `recall` removes the call that it is given. Throws what it throws; the next look goes on then.
  template <class Recall>
  void look(Clock::time_point now, Recall recall) {
    next_ = now + pause;
    while (!calls_.empty() && calls_.front().ahead_since != look_) recall(calls_.front());
    ++look_;
    if (calls_.empty()) next_.reset();
  }

 private:
  CallQueue calls_;
  Deadline next_;
  std::uint64_t look_ = 0;  // number of the next one
};

}}}  // namespace drover::v1::detail
