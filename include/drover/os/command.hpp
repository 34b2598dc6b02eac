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
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {
namespace detail {

struct StdioAccess;
class LineTarget;

inline constexpr std::size_t max_line = 64 * 1024;
inline constexpr std::size_t max_pending_lines = 1024 * 1024;
inline constexpr const char* own_program = "/proc/self/exe";

}  // namespace detail

/// How Stdio::lines() treats a handler that is behind.
struct LinesOptions {
  enum class WhenBehind {
    drop,  ///< the oldest lines are dropped; ReapReport::lost_lines counts them
    /// Nothing is read while Stdio::max_pending bytes wait for the handler, so the child soon blocks in write(2), for
    /// as long as nothing runs the handler's executor. The child's exit is reported in time all the same, a reap takes
    /// as long as ever, and what is in the pipe at the exit (64 KiB, see pipe(7)) is delivered on top of max_pending.
    wait
  };
  WhenBehind when_behind = WhenBehind::drop;
};

/// What one of a child's three standard descriptors is. They are always open in the child, whatever the host has
/// closed.
class Stdio {
 public:
  /// The host's own, if a program started by plain exec would get it; /dev/null where the host has closed it.
  ///
  /// As stdin, if that is the controlling terminal: the child works in the foreground, so it can read, and what the
  /// user types there (the interrupt character too) reaches the child and not this program, which has the terminal
  /// again once the child has exited or its owner (Process, LocalWorker, ...) has been destroyed. The suspend character
  /// stops the child and then, within 0.2 s, this program; both go on with the terminal. If another process group has
  /// the terminal (this program runs in the background, or another such child does) the start fails with
  /// std::system_error (EIO): give it null() or a file.
  static Stdio inherit() { return Stdio(Inherit{}); }

  /// /dev/null.
  static Stdio null() { return Stdio(Null{}); }

  /// A file: read from as stdin; as stdout or stderr appended to, and made (mode 0666 less the umask) if it is missing.
  /// Opened by spawn(), which waits for nobody: a FIFO that nobody reads is an error (ENXIO), one that nobody writes is
  /// empty, see fifo(7). A relative path is seen from the host's working directory.
  static Stdio file(std::filesystem::path path) { return Stdio(std::move(path)); }

  /// stdout or stderr, given to `handler` line by line without the line end, on `executor`.
  ///
  /// The child never waits for the handler: drover's background thread reads, and keeps up to max_pending bytes of what
  /// the handler has not taken. Beyond that the oldest lines are dropped, one line in their place tells how many, and
  /// ReapReport::lost_lines counts them. LinesOptions::WhenBehind::wait makes the child wait instead. A line longer
  /// than max_line comes in pieces of that length. What is in the pipe when the process ends is handed to the executor
  /// before those that wait for the process are told, an unfinished last line too; then the pipe is closed even if some
  /// other process holds its other end.
  ///
  /// The handler runs in order and one call at a time, also where one Stdio serves several processes. What it throws is
  /// ignored. Lines to come are no work that keeps a context running; when it is gone they go nowhere, nor once the
  /// owner of the running process (Process, LocalWorker, ...) has been destroyed.
  /// The Stdio may outlive it. The handler is destroyed with the last Stdio and process that need it, or with the
  /// context. Throws std::invalid_argument if executor or handler is empty.
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

/// A program to run, and with what.
struct Command {
  /// Without a slash it is searched for in the caller's PATH. A relative path with a slash is seen from the caller's
  /// working directory, also if cwd is set.
  detail::BraceSafe<std::filesystem::path> program{};
  detail::BraceSafe<std::vector<std::string>> args{};  ///< without the program's name
  /// Set these; nullopt removes one.
  detail::BraceSafe<std::map<std::string, std::optional<std::string>>> env{};
  bool inherit_env = true;                         ///< start from the caller's environment, not from an empty one
  detail::BraceSafe<std::filesystem::path> cwd{};  ///< working directory; empty: the caller's
  Stdio in = Stdio::null(), out = Stdio::inherit(), err = Stdio::inherit();
  /// What is left of its process group when it has ended by itself gets SIGTERM, and SIGKILL after this time. 0:
  /// SIGKILL at once.
  Duration group_grace{};

  /// This very program again: the same file, even if another version has been installed over it. Needs /proc.
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
