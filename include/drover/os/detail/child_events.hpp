#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <sys/types.h>
#include <utility>

#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

struct ChildEvent {
  enum class Kind {
    terminate_sent,
    kill_sent,
    stopped,    // suspended by the signal `signo`, seen within a second
    continued,  // running again after `stopped`
    ended,      // the process has been reaped
    group_over  // nothing of its group is left, or the rest cannot be ended
  };
  Kind kind{};
  Clock::time_point at{};
  pid_t pid = 0;
  int signo = 0;
};

/// Called with each event in order, on any thread, under the child's lock: must not block or call back. If it throws
/// because memory is short, it is called again a little later.
using ChildObserver = std::function<void(const ChildEvent&)>;

/// The events that a child's observer has not received yet. Guarded by the child's lock.
class ChildEvents {
 public:
  explicit ChildEvents(ChildObserver observer) noexcept : observer_(std::move(observer)) {}

  void add(ChildEvent::Kind kind, pid_t pid, int signo = 0) noexcept {
    if (observer_ && count_ < pending_.size()) pending_[count_++] = {kind, Clock::now(), pid, signo};
  }

  bool half_empty() const noexcept { return count_ < pending_.size() / 2; }

  /// False if an event could not be delivered because memory was short.
  bool deliver() noexcept {
    while (count_ != 0) {
      try {
        observer_(pending_[0]);
      } catch (...) {
        return false;
      }
      std::move(pending_.begin() + 1, pending_.end(), pending_.begin());
      --count_;
    }
    return true;
  }

 private:
  const ChildObserver observer_;
  std::array<ChildEvent, 8> pending_{};
  std::size_t count_ = 0;
};

}}}  // namespace drover::v1::detail
