#pragma once

#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <optional>
#include <signal.h>
#include <string>
#include <unistd.h>
#include <utility>

#include <drover/os/fd.hpp>
#include <drover/os/signals.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Who works with a terminal, as seen by the parent of a process that inherits it: see "Orphaned process groups" and
/// job control in credentials(7) and termios(3).
struct TerminalView {
  enum class Holder { parent, child, other };
  Holder holder{};
  std::optional<int> stopped{};  ///< the signal that has stopped the child
};

enum class TerminalStep {
  nothing,
  hand_over,          ///< to the child, which goes on
  take_back,          ///< from the child
  take_back_and_stop  ///< and stop this program too, as the user who typed the suspend character expects
};

/// A stopped child must not keep the terminal: nobody could reach the program any more. One that has stopped because it
/// lacked the terminal, or with this program, goes on once this program has the terminal (again). SIGSTOP is somebody's
/// wish and stays in force.
constexpr TerminalStep next_step(const TerminalView& view) noexcept {
  if (!view.stopped) return TerminalStep::nothing;
  if (view.holder == TerminalView::Holder::child)
    return *view.stopped == SIGTSTP ? TerminalStep::take_back_and_stop : TerminalStep::take_back;
  if (view.holder == TerminalView::Holder::other || *view.stopped == SIGSTOP) return TerminalStep::nothing;
  return TerminalStep::hand_over;
}

/// The controlling terminal while a child that has inherited it as its stdin works in the foreground. The child's group
/// is not this program's, so without this it would be stopped when it reads (SIGTTIN).
class ChildTerminal {
 public:
  static constexpr auto between_looks = std::chrono::milliseconds(200);

  ChildTerminal() noexcept = default;

  /// Empty if stdin is no terminal that has job control here. Throws std::system_error if it is and this program does
  /// not have it: nobody could give it to the child.
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
    if (!terminal.fd_) throw_errno("cannot start '" + program + "': there is no descriptor to keep its terminal by");
    return terminal;
  }

  explicit operator bool() const noexcept { return static_cast<bool>(fd_); }

  /// The child may have been stopped before, when it read too early. Where the terminal is lost it gets an error from
  /// its own read.
  void hand_over(pid_t child) noexcept {
    if (!fd_) return;
    set_foreground(child);
    ::kill(-child, SIGCONT);
  }

  /// From time to time while the child is known to run.
  void look(pid_t child, std::optional<int> stopped) noexcept {
    switch (next_step({holder(child), stopped})) {
      case TerminalStep::nothing: return;
      case TerminalStep::hand_over: return hand_over(child);
      case TerminalStep::take_back: return set_foreground(::getpgrp());
      case TerminalStep::take_back_and_stop: set_foreground(::getpgrp()); ::kill(0, SIGTSTP);
    }
  }

  /// Before its id can be another process's. The child does not get it again.
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

  // From the background that is SIGTTOU, unless it is blocked.
  void set_foreground(pid_t group) noexcept {
    const BlockAllSignals blocked;
    if (fd_.ours()) ::tcsetpgrp(fd_.get(), group);
  }

  KeptFd fd_;
};

}}}  // namespace drover::v1::detail
