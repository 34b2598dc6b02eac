#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>

#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/call_queue.hpp>
#include <drover/pool/detail/worker/data_link.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Not a large one, which might have to be sent twice. Nor one with descriptors: a worker that gives it back while it
/// is busy would have them open until it looks for its next call. Nor one with items: they would be behind it.
inline bool may_go_ahead(const Call& call) noexcept {
  return call.request.size() < worth_moving && !call.request.has_descriptors() && !call.stream;
}

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

  /// Asks for the call back: RECALL.
  void recall(Call& call) {
    if (std::exchange(call.recalled, true)) return;
    if (call.state == CallState::ahead) calls_.remove(call);
    call.link->send_nothing_ahead();
    call.link->worker().send_recall(call.id);
  }
  /// The look, if its time has come. Calls that are late wait behind a long call. They are recalled, so that another
  /// worker can run them.
  void recall_late(Clock::time_point now) noexcept {
    if (!next_ || *next_ > now) return;
    next_ = now + pause;
    try {
      while (!calls_.empty() && calls_.front().ahead_since != look_) recall(calls_.front());
    } catch (...) {  // the control socket is lost, and there was no memory to report that: the worker's exit does
      return;
    }
    ++look_;
    if (calls_.empty()) next_.reset();
  }

 private:
  CallQueue calls_;
  Deadline next_;
  std::uint64_t look_ = 0;  // number of the next one
};

}}}  // namespace drover::v1::detail
