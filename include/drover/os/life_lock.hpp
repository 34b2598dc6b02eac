#pragma once

#include <drover/detail/platform.hpp>

#include <fcntl.h>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>

#include <drover/os/fd.hpp>

/// On a kernel without pidfds, children watch their parent by a record lock: the parent holds it as long as it lives,
/// and a child that gets it knows that the parent has exited. Forked copies of the parent do not hold it, see fcntl(2).
namespace drover { inline namespace v1 { namespace detail {

/// The file on which this process holds the lock. drover never closes it, nor a duplicate of it: that would release the
/// lock. If the program closes it, running children take that for the parent's exit; later children get another file.
/// *Errors:* std::system_error.
/// *Threads:* any.
inline int life_lock() {
  static std::mutex mutex;
  static KeptFd& file = *new KeptFd;  // never destroyed
  static pid_t holder = 0;
  const std::lock_guard held(mutex);
  if (holder == ::getpid() && file.ours()) return file.get();
  file.forget();  // a forked copy leaves the original's file alone
  // Far above the numbers that a spawn moves descriptors to, so that the file is never duplicated in this process.
  UniqueFd made(::memfd_create("drover life lock", MFD_CLOEXEC));
  if (!made) throw_errno("cannot create the lock file by which workers detect this process's death");
  UniqueFd high(::fcntl(made.get(), F_DUPFD_CLOEXEC, 64));
  if (!high) throw_errno("cannot move the lock file by which workers detect this process's death to a high number");
  made.reset();  // before the lock is taken: closing any descriptor of the file releases it
  struct flock whole{};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(high.get(), F_SETLK, &whole) != 0)
    throw_errno("cannot take the lock by which workers detect this process's death");
  file = KeptFd(std::move(high));
  if (!file) throw_errno("cannot identify the lock file by which workers detect this process's death");
  holder = ::getpid();
  return file.get();
}

/// In a child: waits until the process that holds the lock has exited. False on an error. All children get the lock at
/// the same time, because they share it.
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
