#pragma once

#include <array>
#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <memory>
#include <new>
#include <signal.h>
#include <spawn.h>
#include <stdexcept>
#include <string>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <variant>
#include <vector>

#include <drover/os/command.hpp>
#include <drover/os/detail/environment.hpp>
#include <drover/os/detail/lines.hpp>
#include <drover/os/detail/terminal.hpp>
#include <drover/os/fd.hpp>
#include <drover/os/signals.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

struct StdioAccess {
  static const auto& what(const Stdio& stdio) { return stdio.what_; }
  static bool inherits(const Stdio& stdio) { return std::holds_alternative<Stdio::Inherit>(stdio.what_); }
};

/// The attributes and file actions of posix_spawn(3).
class SpawnSettings {
 public:
  SpawnSettings() {
    check(::posix_spawnattr_init(&attributes_));
    if (const int error = ::posix_spawn_file_actions_init(&actions_)) {
      ::posix_spawnattr_destroy(&attributes_);
      check(error);
    }
  }
  ~SpawnSettings() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  /// Default signal dispositions, no blocked signals, a process group of its own.
  void clean_slate() {
    const sigset_t all = all_signals();
    sigset_t none;
    ::sigemptyset(&none);
    check(::posix_spawnattr_setsigdefault(&attributes_, &all));
    check(::posix_spawnattr_setsigmask(&attributes_, &none));
    check(::posix_spawnattr_setpgroup(&attributes_, 0));
    check(::posix_spawnattr_setflags(&attributes_,
                                     POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP));
  }
  /// Also needed if both are the same: glibc then clears the close-on-exec flag.
  void place(int fd, int target) { check(::posix_spawn_file_actions_adddup2(&actions_, fd, target)); }
  void change_folder(const char* path) { check(::posix_spawn_file_actions_addchdir_np(&actions_, path)); }
  void close_from(int first) { check(::posix_spawn_file_actions_addclosefrom_np(&actions_, first)); }

  const posix_spawnattr_t* attributes() const noexcept { return &attributes_; }
  const posix_spawn_file_actions_t* actions() const noexcept { return &actions_; }

 private:
  static void check(int error) {
    if (error == ENOMEM) throw std::bad_alloc();
    if (error != 0) throw_errno("cannot prepare the start of a process", error);
  }

  posix_spawnattr_t attributes_;
  posix_spawn_file_actions_t actions_;
};

/// One start of a command. Owns the descriptors opened for it until the start is done or has failed.
class SpawnRequest {
 public:
  /// Checks and opens everything, but starts nothing.
  SpawnRequest(const Command& command, const std::vector<int>& descriptors, const Variables& last)
      : command_(command), name_(own_name_of(command.program)) {
    if (command.program.empty()) throw std::invalid_argument("a command needs a program");
    require_no_nul(name_, "a program's path");
    require_no_nul(command.cwd.native(), "a working directory's path");
    require_not_negative(command.group_grace, "Command::group_grace");
    arguments_.add(name_);
    for (const auto& argument : command.args) {
      require_no_nul(argument, "an argument");
      arguments_.add(argument);
    }
    own_environment_ = !command.inherit_env || !command.env.empty() || !last.empty();
    if (own_environment_) environment_ = environment_of(command, last);

    const int end = 3 + static_cast<int>(descriptors.size());
    prepare_stdio(command.in, 0, end);
    prepare_stdio(command.out, 1, end);
    prepare_stdio(command.err, 2, end);
    for (std::size_t i = 0; i < descriptors.size(); ++i) prepare(descriptors[i], 3 + static_cast<int>(i), end);
    if (!command.cwd.empty()) settings_.change_folder(command.cwd.c_str());
    settings_.close_from(end);
    settings_.clean_slate();
  }

  /// The reading end of stdout (1) or stderr (2), if the command wants its lines.
  std::shared_ptr<LineReader> reader(int target) const { return readers_[static_cast<std::size_t>(target - 1)]; }

  Duration group_grace() const noexcept { return command_.group_grace; }

  /// The descriptor that the child has as number `target`.
  int source_of(int target) const noexcept {
    for (const auto& [fd, placed] : placed_)
      if (placed == target) return fd;
    return target;
  }
  char* const* environment() { return own_environment_ ? environment_.pointers() : environ; }
  /// Empty: that of this program.
  const std::filesystem::path& folder() const noexcept { return command_.cwd; }

  /// The terminal, if the child inherits it as its stdin.
  ChildTerminal take_terminal() noexcept { return std::move(terminal_); }

  /// Starts the process and returns its id. Throws std::system_error that names the cause.
  pid_t run() {
    const auto file = file_to_execute();
    pid_t pid = 0;
    const int error = (has_slash(file) ? ::posix_spawn : ::posix_spawnp)(
        &pid, file.c_str(), settings_.actions(), settings_.attributes(), arguments_.pointers(), environment());
    if (error != 0) fail(error, file);
    return pid;
  }

 private:
  void prepare_stdio(const Stdio& stdio, int target, int end) {
    if (const auto* path = std::get_if<std::filesystem::path>(&StdioAccess::what(stdio))) {
      open(*path, target, end);
    } else if (const auto* lines = std::get_if<std::shared_ptr<LineTarget>>(&StdioAccess::what(stdio))) {
      if (target == 0) throw std::invalid_argument("Stdio::lines is for output; it can't be a process's stdin");
      auto [reading, writing] = pipe_for_lines();
      readers_[static_cast<std::size_t>(target - 1)] = std::make_shared<LineReader>(std::move(reading), *lines);
      prepare(keep(std::move(writing)), target, end);
    } else {
      // A close-on-exec descriptor is not the parent's stdio: it took the number of a closed one.
      const int flags = StdioAccess::inherits(stdio) ? ::fcntl(target, F_GETFD) : -1;
      if (flags < 0 || (flags & FD_CLOEXEC) != 0)
        prepare(null_device(), target, end);
      else if (target == 0)
        terminal_ = ChildTerminal::of_stdin(name_);
    }
  }

  std::pair<UniqueFd, UniqueFd> pipe_for_lines() const try {
    return pipe_pair();
  } catch (const std::system_error& error) {
    throw_errno("cannot start '" + name_ + "': the pipe for its lines cannot be created", error.code().value());
  }

  /// Opened for each start: a kept number may be another file's by then, if the program closes descriptors that are not
  /// its own.
  int null_device() {
    if (null_ >= 0) return null_;
    UniqueFd opened(::open("/dev/null", O_RDWR | O_CLOEXEC | O_NOCTTY));
    if (!opened) throw_errno("cannot start '" + name_ + "': /dev/null cannot be opened for its stdio");
    return null_ = keep(above_stdio(std::move(opened)));
  }

  void open(const std::filesystem::path& path, int target, int end) {
    require_no_nul(path.native(), "the path of a process's stdio");
    const int how = target == 0 ? O_RDONLY : O_WRONLY | O_CREAT | O_APPEND;
    // A FIFO without a peer must not block this thread: opening one to write fails (ENXIO).
    UniqueFd opened(::open(path.c_str(), how | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666));
    if (!opened) {
      static constexpr const char* names[] = {"stdin", "stdout", "stderr"};
      throw_errno("cannot start '" + name_ + "': its " + names[target] + " '" + path.native() + "' cannot be opened");
    }
    ::fcntl(opened.get(), F_SETFL, how & O_APPEND);
    prepare(keep(std::move(opened)), target, end);
  }

  /// A source with a number that is another one's target would be overwritten before or after it is copied.
  void prepare(int fd, int target, int end) {
    if (fd < end && fd != target) {
      UniqueFd moved(::fcntl(fd, F_DUPFD_CLOEXEC, end));
      if (!moved) throw_errno("cannot start '" + name_ + "': a descriptor meant for it cannot be copied");
      fd = keep(std::move(moved));
    }
    settings_.place(fd, target);
    placed_.emplace_back(fd, target);
  }

  int keep(UniqueFd fd) { return opened_.emplace_back(std::move(fd)).get(); }

  // Relative folders and files are relative to the parent's working directory, not to the child's.
  std::filesystem::path file_to_execute() const {
    if (command_.cwd.empty() || command_.program.is_absolute()) return command_.program;
    if (has_slash(command_.program)) return std::filesystem::absolute(command_.program);
    int error = 0;
    auto found = search_path(command_.program, error);
    if (found.empty()) fail(error, command_.program);
    return found;
  }

  [[noreturn]] void fail(int error, const std::filesystem::path& file) const {
    std::string what = "cannot start '" + name_ + "'";
    struct stat status{};
    if (!command_.cwd.empty() && ::stat((command_.cwd / ".").c_str(), &status) != 0)
      what += ": its working directory '" + command_.cwd.native() + "' cannot be entered";
    else if (command_.program.native() == own_program && ::access(own_program, X_OK) != 0)
      what += ": Command::self() needs /proc, and " + std::string(own_program) + " cannot be executed";
    else if (error == ENOENT && has_slash(file) && ::stat(file.c_str(), &status) == 0)
      what += ": the interpreter that it names is missing";
    throw_errno(what, error);
  }

  const Command& command_;
  std::string name_;
  StringArray arguments_;
  bool own_environment_ = false;
  StringArray environment_;
  SpawnSettings settings_;
  std::vector<UniqueFd> opened_;
  std::vector<std::pair<int, int>> placed_;  // descriptors and their numbers in the child
  int null_ = -1;                            // one of opened_
  ChildTerminal terminal_;
  std::array<std::shared_ptr<LineReader>, 2> readers_;
};

}}}  // namespace drover::v1::detail
