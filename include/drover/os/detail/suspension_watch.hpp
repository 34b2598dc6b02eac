#pragma once

#include <chrono>
#include <optional>
#include <utility>

#include <drover/os/detail/child_events.hpp>
#include <drover/os/detail/child_syscalls.hpp>
#include <drover/os/detail/terminal.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Looks at intervals whether a child is suspended, for its observer and for the terminal that it may have inherited.
/// Guarded by the child's lock.
class SuspensionWatch {
 public:
  SuspensionWatch(const ChildSyscalls& handle, ChildEvents& events, bool observed) noexcept
      : handle_(handle), events_(events), observed_(observed) {}
  SuspensionWatch(const SuspensionWatch&) = delete;
  SuspensionWatch& operator=(const SuspensionWatch&) = delete;

  void hand_over(ChildTerminal terminal) noexcept {
    terminal_ = std::move(terminal);
    terminal_.hand_over(handle_.pid());
  }
  /// See ChildTerminal::release().
  void release_terminal() noexcept { terminal_.release(handle_.pid()); }

  /// Returns when to look again.
  Deadline look(Clock::time_point now) noexcept {
    if (!terminal_ && !observed_) return std::nullopt;
    const std::optional<int> stopped = handle_.stopped();
    Deadline look_again;
    if (observed_) {
      report(stopped);
      // At full seconds, so that many processes are checked in one turn.
      look_again = std::chrono::floor<std::chrono::seconds>(now) + std::chrono::seconds(1);
    }
    if (terminal_) {
      terminal_.look(handle_.pid(), stopped);
      look_again = earlier(look_again, now + ChildTerminal::between_looks);
    }
    return look_again;
  }

 private:
  void report(std::optional<int> stopped) noexcept {
    if (stopped == stopped_by_ || !events_.half_empty()) return;  // leave room for the other events
    stopped_by_ = stopped;
    events_.add(stopped ? ChildEvent::Kind::stopped : ChildEvent::Kind::continued, handle_.pid(), stopped.value_or(0));
  }

  const ChildSyscalls& handle_;
  ChildEvents& events_;
  const bool observed_;
  std::optional<int> stopped_by_;  // as last reported
  ChildTerminal terminal_;
};

}}}  // namespace drover::v1::detail
