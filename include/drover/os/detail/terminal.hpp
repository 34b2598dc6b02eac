#pragma once

#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <optional>
#include <signal.h>
#include <string>
#include <unistd.h>
#include <utility>

#include <drover/os/detail/send_signal.hpp>
#include <drover/os/fd.hpp>
#include <drover/os/signals.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The state of a terminal, as seen by the parent of a process that inherits it: see "Orphaned process groups" and job
/// control in credentials(7) and termios(3).
struct TerminalView {
  enum class Holder { parent, child, other };
  Holder holder{};
  std::optional<int> stopped{};  ///< the signal that has suspended the child
};

enum class TerminalStep {
  nothing,
  hand_over,          ///< to the child, which continues
  take_back,          ///< from the child
  take_back_and_stop  ///< and suspend the parent too, as the user who typed the suspend character expects
};

/// A suspended child must not keep the terminal: the user could not reach the parent any more. A child that was
/// suspended because it lacked the terminal, or together with the parent, continues once the parent has the terminal
/// (again). SIGSTOP was sent on purpose and stays in force.
constexpr TerminalStep next_step(const TerminalView& view) noexcept {
  if (!view.stopped) return TerminalStep::nothing;
  if (view.holder == TerminalView::Holder::child)
    return *view.stopped == SIGTSTP ? TerminalStep::take_back_and_stop : TerminalStep::take_back;
  if (view.holder == TerminalView::Holder::other || *view.stopped == SIGSTOP) return TerminalStep::nothing;
  return TerminalStep::hand_over;
}

/// The controlling terminal while a child that has inherited it as its stdin works in the foreground. The child's group
/// is not the parent's, so otherwise the child would be suspended when it reads (SIGTTIN).
class ChildTerminal {
 public:
  static constexpr auto between_looks = std::chrono::milliseconds(200);

  ChildTerminal() noexcept = default;

  /// Empty if stdin is not a terminal with job control here. Throws std::system_error if it is one and this process
  /// does not have it, because then it cannot be given to the child.
  static ChildTerminal of_stdin(const std::string& program) {
    const pid_t foreground = ::tcgetpgrp(0);
    if (foreground < 0) return {};
    if (foreground != ::getpgrp())
      throw_errno("cannot start '" + program +
                      "': its stdin would be the terminal, which another process group has in the foreground, so it "
                      "would stop when it reads; give it Stdio::null() or a file",
                  EIO);
    ChildTerminal terminal;
    terminal.fd_ = KeptFd(UniqueFd(::fcntl(0, F_DUPFD_CLOEXEC, 3)));
    if (!terminal.fd_) throw_errno("cannot start '" + program + "': the descriptor of its terminal cannot be copied");
    return terminal;
  }

  explicit operator bool() const noexcept { return static_cast<bool>(fd_); }

  /// The child may have been suspended before, because it read too early. If the terminal is lost, the child's own read
  /// fails.
  void hand_over(pid_t child) noexcept {
    if (!fd_) return;
    set_foreground(child);
    signal_group(child, SIGCONT);
  }

  /// Call it at intervals while the child is known to run.
  void look(pid_t child, std::optional<int> stopped) noexcept {
    switch (next_step({holder(child), stopped})) {
      case TerminalStep::nothing: return;
      case TerminalStep::hand_over: return hand_over(child);
      case TerminalStep::take_back: return set_foreground(::getpgrp());
      case TerminalStep::take_back_and_stop:
        set_foreground(::getpgrp());
        ::kill(0, SIGTSTP);  // to this program's own group, as the terminal would
    }
  }

  /// Call it before the child's id can be another process's. The child does not get the terminal again.
  void release(pid_t child) noexcept {
    if (fd_ && holder(child) == TerminalView::Holder::child) set_foreground(::getpgrp());
    fd_.reset();
  }

 private:
  TerminalView::Holder holder(pid_t child) const noexcept {
    const pid_t foreground = fd_.ours() ? ::tcgetpgrp(fd_.get()) : -1;
    if (foreground < 0) return TerminalView::Holder::other;
    if (foreground == child) return TerminalView::Holder::child;
    return foreground == ::getpgrp() ? TerminalView::Holder::parent : TerminalView::Holder::other;
  }

  // From the background this causes SIGTTOU, unless it is blocked.
  void set_foreground(pid_t group) noexcept {
    const BlockAllSignals blocked;
    if (fd_.ours()) ::tcsetpgrp(fd_.get(), group);
  }

  KeptFd fd_;
};

}}}  // namespace drover::v1::detail
