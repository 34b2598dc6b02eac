#pragma once

#include <drover/detail/platform.hpp>

#include <fcntl.h>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>

#include <drover/os/fd.hpp>

/// Where a kernel has no pidfds, children watch their parent by a record lock: the parent holds it as long as it lives,
/// and whoever gets it knows that the parent has gone. Forked copies of the parent do not hold it, see fcntl(2).
namespace drover { inline namespace v1 { namespace detail {

/// The file that this process holds the lock on. drover never closes it, nor a duplicate of it: that would give the
/// lock up. If the program does, children that run take it for the program's end; those to come get another file.
/// Thread-safe; throws std::system_error.
inline int life_lock() {
  static std::mutex mutex;
  static KeptFd& file = *new KeptFd;  // never destroyed
  static pid_t holder = 0;
  const std::lock_guard held(mutex);
  if (holder == ::getpid() && file.ours()) return file.get();
  file.forget();  // a forked copy leaves the original's alone
  // Far above the numbers that a spawn moves descriptors to, so that it is never duplicated in this process.
  UniqueFd made(::memfd_create("drover life lock", MFD_CLOEXEC));
  if (!made) throw_errno("cannot make the file that tells workers of this process's end");
  UniqueFd high(::fcntl(made.get(), F_DUPFD_CLOEXEC, 64));
  if (!high) throw_errno("cannot place the file that tells workers of this process's end");
  made.reset();  // before it is locked: closing any descriptor of the file gives the lock up
  struct flock whole{};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(high.get(), F_SETLK, &whole) != 0)
    throw_errno("cannot take the lock that tells workers of this process's end");
  file = KeptFd(std::move(high));
  if (!file) throw_errno("cannot identify the file that tells workers of this process's end");
  holder = ::getpid();
  return file.get();
}

/// In a child: waits until the process that holds the lock has gone. False on an error. All children get the lock at
/// the same time, as they share it.
inline bool wait_for_life_lock(int fd) noexcept {
  struct flock whole{};
  whole.l_type = F_RDLCK;
  whole.l_whence = SEEK_SET;
  for (;;) {
    if (::fcntl(fd, F_SETLKW, &whole) == 0) return true;
    if (errno != EINTR) return false;
  }
}

}}}  // namespace drover::v1::detail
