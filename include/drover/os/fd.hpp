#pragma once

#include <drover/detail/platform.hpp>

#include <cerrno>
#include <fcntl.h>
#include <optional>
#include <string>
#include <sys/socket.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

/// Ownership of descriptors, and the creation of drover's own.
namespace drover { inline namespace v1 {

namespace detail {
using CloseFunction = void(int) noexcept;
/// On a thread where this is set, a UniqueFd calls it in place of close(2). See CloseElsewhere.
inline constinit thread_local CloseFunction* close_instead = nullptr;
}  // namespace detail

/// Owns a file descriptor and closes it; -1 means none. Move-only. It can be an argument and a result of a call, see
/// wire/codec.hpp.
class UniqueFd {
 public:
  UniqueFd() noexcept = default;
  explicit UniqueFd(int fd) noexcept : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }

  /// Gives up the descriptor without closing it.
  int release() noexcept { return std::exchange(fd_, -1); }

  /// Closes the owned descriptor and takes over `fd`. Preserves errno, so that it can run while an error is handled.
  void reset(int fd = -1) noexcept {
    const int old = std::exchange(fd_, fd);
    if (old < 0) return;
    const int saved = errno;
    if (detail::close_instead != nullptr) [[unlikely]]
      detail::close_instead(old);
    else
      ::close(old);  // never repeated, not even after EINTR: Linux has closed it anyway, see close(2)
    errno = saved;
  }

 private:
  int fd_ = -1;
};

namespace detail {

[[noreturn]] inline void throw_errno(const std::string& what, int error = errno) {
  throw std::system_error(error, std::system_category(), what);
}

/// A process may run with 0, 1 or 2 closed. A descriptor that drover opens must not take such a number: a child would
/// inherit it, or output be written to it, as if it were the process's stdio.
inline UniqueFd above_stdio(UniqueFd fd) {
  if (fd.get() > 2 || !fd) return fd;
  UniqueFd moved(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!moved) throw_errno("cannot move a descriptor above the standard ones");
  return moved;
}

inline void set_cloexec(int fd, bool on) {
  if (::fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0) != 0) throw_errno("cannot change a descriptor's close-on-exec flag");
}

inline void set_nonblocking(int fd, bool on = true) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) != 0)
    throw_errno("cannot change a descriptor's blocking mode");
}

/// Both ends of a Unix socket: close-on-exec, non-blocking.
inline std::pair<UniqueFd, UniqueFd> socket_pair(int type = SOCK_STREAM) {
  int ends[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
    throw_errno("cannot create a socket pair");
  UniqueFd first(ends[0]), second(ends[1]);
  first = above_stdio(std::move(first));
  second = above_stdio(std::move(second));
  return {std::move(first), std::move(second)};
}

/// Both ends of a pipe, the reading end first: close-on-exec, the reading end non-blocking.
inline std::pair<UniqueFd, UniqueFd> pipe_pair() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw_errno("cannot create a pipe");
  UniqueFd reading(ends[0]), writing(ends[1]);
  reading = above_stdio(std::move(reading));
  writing = above_stdio(std::move(writing));
  set_nonblocking(reading.get());
  return {std::move(reading), std::move(writing)};
}

/// Identifies the open file that a descriptor refers to, to check that a number still refers to it.
struct FdIdentity {
  dev_t device{};
  ino_t inode{};
  bool operator==(const FdIdentity&) const = default;
};

/// Empty if the descriptor is not open.
inline std::optional<FdIdentity> identity_of(int fd) noexcept {
  struct stat status;  // not zeroed: this is on the path of a call
  if (::fstat(fd, &status) != 0) return std::nullopt;
  return FdIdentity{status.st_dev, status.st_ino};
}

/// Owns a descriptor that is kept across calls. The program may close numbers that are not its own (closefrom(3), as
/// daemons do) and open other files under them, so call ours() before using the number. A number that has become
/// another file is left alone. Works for files with an inode of their own: pipes, sockets, memfds, pidfds since Linux
/// 6.9.
class KeptFd {
 public:
  KeptFd() noexcept = default;
  explicit KeptFd(UniqueFd fd) noexcept : fd_(std::move(fd)) {
    const auto identity = fd_ ? identity_of(fd_.get()) : std::nullopt;
    if (identity)
      identity_ = *identity;
    else
      fd_.reset();
  }
  KeptFd(KeptFd&&) noexcept = default;
  KeptFd& operator=(KeptFd&& other) noexcept {
    reset();
    fd_ = std::move(other.fd_);
    identity_ = other.identity_;
    return *this;
  }
  ~KeptFd() { reset(); }

  int get() const noexcept { return fd_.get(); }
  explicit operator bool() const noexcept { return static_cast<bool>(fd_); }

  /// True if the number still refers to the file that it was opened for.
  bool ours() const noexcept { return fd_ && identity_of(fd_.get()) == identity_; }

  /// Closes the descriptor if it is ours.
  void reset() noexcept { fd_ && !ours() ? forget() : close(); }
  void close() noexcept { fd_.reset(); }
  void forget() noexcept { (void)fd_.release(); }

 private:
  UniqueFd fd_;
  FdIdentity identity_;
};

}  // namespace detail
}}  // namespace drover::v1
