#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <asio/any_io_executor.hpp>

#include <drover/detail/brace_safe.hpp>
#include <drover/detail/config.hpp>
#include <drover/os/lines_options.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {
namespace detail {

struct StdioAccess;
class LineTarget;

inline constexpr const char* own_program = "/proc/self/exe";

}  // namespace detail

/// One of a child's three standard descriptors. All three are always open in the child, whatever the parent has closed.
class Stdio {
 public:
  /// The parent's own descriptor, if a program started by plain exec would inherit it; /dev/null if the parent has
  /// closed it.
  ///
  /// If stdin is the controlling terminal, the child runs in the foreground, so it can read. What the user types,
  /// including the interrupt character, reaches the child and not the parent. The parent has the terminal again once
  /// the child has exited or its owner (Process, LocalWorker, ...) has been destroyed. The suspend character suspends
  /// the child and then, within 0.2 s, the parent; when the parent continues in the foreground, so does the child.
  /// *Errors:* the start fails with std::system_error (EIO) if another process group has the terminal, because the
  /// parent runs in the background or another such child has it: use null() or a file.
  static Stdio inherit() { return Stdio(Inherit{}); }

  /// /dev/null.
  static Stdio null() { return Stdio(Null{}); }

  /// A file. As stdin it is read; as stdout or stderr it is appended to, and created (mode 0666 less the umask) if it
  /// is missing. A relative path is relative to the parent's working directory. spawn() opens the file without waiting
  /// for a peer: a FIFO without a writer is empty, see fifo(7).
  /// *Errors:* spawn() fails with ENXIO for a FIFO without a reader.
  static Stdio file(std::filesystem::path path) { return Stdio(std::move(path)); }

  /// Passes the child's stdout or stderr to `handler`, line by line without the line end, on `executor`.
  ///
  /// The child never waits for the handler: the reaper thread reads, and keeps up to max_pending bytes that the handler
  /// has not taken. Beyond that the oldest lines are dropped, one line in their place says how many, and
  /// ReapReport::lost_lines counts them. LinesOptions::WhenBehind::wait makes the child wait instead. A line longer
  /// than max_line is delivered in pieces of that length. When the process exits, the content of the pipe, including an
  /// unfinished last line, is handed to the executor before the coroutines that wait for the process are resumed. Then
  /// the pipe is closed, even if another process holds its other end.
  ///
  /// The handler is called in order and one call at a time, also if one Stdio serves several processes. Its exceptions
  /// are ignored. Pending lines do not keep the context running.
  /// *Errors:* std::invalid_argument if executor or handler is empty.
  /// *Lifetime:* lines that arrive after the context or the owner of the running process (Process, LocalWorker, ...)
  /// was destroyed are discarded. The Stdio may outlive the context. The handler is destroyed with the last Stdio and
  /// process that need it, or with the context.
  static Stdio lines(asio::any_io_executor executor, std::function<void(std::string_view)> handler,
                     LinesOptions options = {});

  static constexpr std::size_t max_line = detail::max_line;              ///< bytes: 64 KiB
  static constexpr std::size_t max_pending = detail::max_pending_lines;  ///< bytes: 1 MiB

 private:
  friend struct detail::StdioAccess;
  struct Inherit {};
  struct Null {};
  using What = std::variant<Inherit, Null, std::filesystem::path, std::shared_ptr<detail::LineTarget>>;

  explicit Stdio(What what) : what_(std::move(what)) {}

  detail::BraceSafe<What> what_;
};

/// A program to run, and how to run it.
struct Command {
  /// A name without a slash is searched for in the parent's PATH. A relative path with a slash is relative to the
  /// parent's working directory, also if cwd is set.
  detail::BraceSafe<std::filesystem::path> program{};
  detail::BraceSafe<std::vector<std::string>> args{};  ///< without the program's name
  /// Variables to set; nullopt removes one.
  detail::BraceSafe<std::map<std::string, std::optional<std::string>>> env{};
  bool inherit_env = true;                         ///< start from the parent's environment, not from an empty one
  detail::BraceSafe<std::filesystem::path> cwd{};  ///< working directory; empty: the parent's
  Stdio in = Stdio::null(), out = Stdio::inherit(), err = Stdio::inherit();
  /// How long the rest of the process group has between SIGTERM and SIGKILL after the process has exited by itself. 0:
  /// SIGKILL at once.
  Duration group_grace{};

  /// The program of this process: the same file, even if another version has been installed over it. Needs /proc.
  static Command self() { return self(std::vector<std::string>()); }
  static Command self(std::vector<std::string> args) {
    Command command;
    command.program = detail::own_program;
    command.args = std::move(args);
    return command;
  }
};

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/os/command.ipp>
#endif
