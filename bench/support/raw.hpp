#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string>
#include <string_view>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/io_context.hpp>
#include <asio/local/stream_protocol.hpp>
#include <asio/post.hpp>

#include "bench.hpp"

/// The baselines: what plain system calls take for the same work. No reaping under a lock, no groups, no guarantees.
namespace bench {

inline std::pair<Descriptor, Descriptor> stream_pair(int flags = 0) {
  int ends[2];
  checked(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0, ends), "socketpair");
  return {Descriptor(ends[0]), Descriptor(ends[1])};
}
inline void wait_for(pid_t pid) {
  siginfo_t info{};
  checked(::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED), "waitid");
}

/// While it lives, what this process's children write to stderr comes out of read_end().
class CapturedStderr {
 public:
  CapturedStderr() : saved_(checked(::fcntl(2, F_DUPFD_CLOEXEC, 10), "fcntl")) {
    auto [reading, writing] = pipe_pair();
    checked(::dup2(writing.get(), 2), "dup2");
    reading_ = std::move(reading);
  }
  ~CapturedStderr() { ::dup2(saved_.get(), 2); }
  CapturedStderr(const CapturedStderr&) = delete;
  CapturedStderr& operator=(const CapturedStderr&) = delete;

  int read_end() const noexcept { return reading_.get(); }

 private:
  Descriptor saved_, reading_;
};

/// A forked child that runs body(fd) at the other end of a socket pair, and is waited for.
class ForkedPeer {
 public:
  template <class Body>
  ForkedPeer(Placement placement, int flags, Body body) {
    auto [ours, theirs] = stream_pair(flags);
    pid_ = checked(::fork(), "fork");
    if (pid_ == 0) {
      ours.reset();
      pin_worker(placement);
      body(theirs.get());
      ::_exit(0);
    }
    ours_ = std::move(ours);
    pin_parent(placement);
  }
  ~ForkedPeer() {
    ours_.reset();
    ::waitpid(pid_, nullptr, 0);
  }
  ForkedPeer(const ForkedPeer&) = delete;
  ForkedPeer& operator=(const ForkedPeer&) = delete;

  int fd() const noexcept { return ours_.get(); }
  pid_t pid() const noexcept { return pid_; }

 private:
  Descriptor ours_;
  pid_t pid_ = 0;
};

/// Waits with epoll for one descriptor to be readable, as an event loop does.
class ReadableLoop {
 public:
  explicit ReadableLoop(int fd) : epoll_(checked(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {
    epoll_event event{};
    event.events = EPOLLIN;
    checked(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
  }
  void wait() {
    epoll_event event{};
    ::epoll_wait(epoll_.get(), &event, 1, -1);
  }

 private:
  Descriptor epoll_;
};

/// For posix_spawn(3): the child as drover promises it, but for its descriptors. Default dispositions, nothing blocked,
/// a group of its own.
class CleanSlate {
 public:
  CleanSlate() {
    ::posix_spawnattr_init(&attributes_);
    sigset_t all, none;
    ::sigfillset(&all);
    ::sigemptyset(&none);
    ::posix_spawnattr_setsigdefault(&attributes_, &all);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    ::posix_spawnattr_setpgroup(&attributes_, 0);
    ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
  }
  ~CleanSlate() { ::posix_spawnattr_destroy(&attributes_); }
  CleanSlate(const CleanSlate&) = delete;
  CleanSlate& operator=(const CleanSlate&) = delete;

  const posix_spawnattr_t* attributes() const noexcept { return &attributes_; }

 private:
  posix_spawnattr_t attributes_;
};

/// Ends at once, or stays if it is told to; says a byte to stderr first.
inline pid_t spawn_tiny(const char* argument = nullptr, const FileActions* actions = nullptr,
                        const posix_spawnattr_t* attributes = nullptr) {
  char* const arguments[] = {const_cast<char*>(DROVER_BENCH_TINY), const_cast<char*>(argument), nullptr};
  return spawn_process(DROVER_BENCH_TINY, arguments, actions, attributes);
}

// This program again, until it has an Asio loop running ---------------------------------------------------------------

inline constexpr std::string_view raw_worker_role = "--raw-worker";

/// For main(): if this is such a process, says that its loop runs, and returns true after it has been told to stop.
inline bool was_raw_worker(int argc, char** argv) {
  if (argc < 2 || argv[1] != raw_worker_role) return false;
  pin_as_told();
  asio::io_context context;
  asio::local::stream_protocol::socket socket(context, asio::local::stream_protocol(), 3);
  socket.async_wait(asio::socket_base::wait_read, [](std::error_code) {});  // the stop message
  asio::post(context, [&] { send_byte(socket.native_handle()); });
  context.run();
  return true;
}

class RawWorker {
 public:
  explicit RawWorker(Placement placement, std::string_view as = raw_worker_role, const CleanSlate* slate = nullptr) {
    auto [ours, theirs] = stream_pair();
    FileActions actions;
    actions.duplicate(theirs.get(), 3);
    std::string role(as), program = "/proc/self/exe", pin = pin_variable + ("=" + pin_value(placement));
    char* arguments[] = {program.data(), role.data(), nullptr};
    std::vector<char*> environment;
    for (char** variable = environ; *variable != nullptr; ++variable) environment.push_back(*variable);
    environment.push_back(pin.data());
    environment.push_back(nullptr);
    if (slate != nullptr) actions.close_from(4);
    pid_ = spawn_process(program.c_str(), arguments, &actions, slate != nullptr ? slate->attributes() : nullptr,
                         environment.data());
    ours_ = std::move(ours);
  }
  void wait_until_ready() { wait_for_answer(); }
  void wait_for_answer() { receive_byte(ours_.get()); }
  void tell_to_stop() { send_byte(ours_.get()); }
  void wait_for_end() { wait_for(pid_); }
  pid_t pid() const noexcept { return pid_; }

 private:
  Descriptor ours_;
  pid_t pid_ = 0;
};

}  // namespace bench
