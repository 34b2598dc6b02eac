#pragma once

#include <cerrno>
#include <fcntl.h>
#include <spawn.h>
#include <system_error>
#include <unistd.h>
#include <utility>

/// System calls whose failure ends the benchmark, and owners of what they return. The programs in peers/ include this
/// file, too: it is C++17 and knows nothing of drover.
namespace bench {

/// Throws std::system_error if `result` is -1.
template <class Result>
Result checked(Result result, const char* what) {
  if (result == -1) throw std::system_error(errno, std::system_category(), what);
  return result;
}

/// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) noexcept : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    reset();
    fd_ = std::exchange(other.fd_, -1);
    return *this;
  }
  ~Descriptor() { reset(); }

  int get() const noexcept { return fd_; }
  void reset() noexcept {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

/// A pipe: the end to read from, and the end to write to.
inline std::pair<Descriptor, Descriptor> pipe_pair() {
  int ends[2];
  checked(::pipe2(ends, O_CLOEXEC), "pipe2");
  return {Descriptor(ends[0]), Descriptor(ends[1])};
}

inline void send_byte(int fd) { checked(::write(fd, "x", 1), "write"); }

/// Returns false at the end of file.
inline bool receive_byte(int fd) {
  char byte = 0;
  return checked(::read(fd, &byte, 1), "read") == 1;
}

/// The changes that posix_spawn(3) makes to the child's descriptors.
class FileActions {
 public:
  FileActions() { ::posix_spawn_file_actions_init(&actions_); }
  ~FileActions() { ::posix_spawn_file_actions_destroy(&actions_); }
  FileActions(const FileActions&) = delete;
  FileActions& operator=(const FileActions&) = delete;

  void duplicate(int from, int to) { ::posix_spawn_file_actions_adddup2(&actions_, from, to); }
  void close_from(int first) { ::posix_spawn_file_actions_addclosefrom_np(&actions_, first); }

  const posix_spawn_file_actions_t* get() const noexcept { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_;
};

/// posix_spawn(3). Throws std::system_error if it fails.
inline pid_t spawn_process(const char* program, char* const arguments[], const FileActions* actions = nullptr,
                           const posix_spawnattr_t* attributes = nullptr, char* const environment[] = environ) {
  pid_t pid = 0;
  errno =
      ::posix_spawn(&pid, program, actions != nullptr ? actions->get() : nullptr, attributes, arguments, environment);
  if (errno != 0) throw std::system_error(errno, std::system_category(), "posix_spawn");
  return pid;
}

}  // namespace bench
