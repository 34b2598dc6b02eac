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

/// The baselines: the same work with plain system calls, without any of drover's guarantees.
namespace bench {

inline std::pair<Descriptor, Descriptor> stream_pair(int flags = 0) {
  int ends[2];
  checked(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0, ends), "socketpair");
  return {Descriptor(ends[0]), Descriptor(ends[1])};
}
inline void wait_for_exit(pid_t pid) {
  siginfo_t info{};
  checked(::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED), "waitid");
}

/// As long as it exists, read_end() receives what this process's children write to stderr.
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

/// A forked child that runs body(fd) at the other end of a socket pair. The destructor closes this end and waits for
/// the child.
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

/// Waits with epoll(7) until one descriptor is readable, as an event loop does.
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

/// The part of drover's promises about a child that posix_spawn(3) has attributes for: default signal dispositions, no
/// blocked signals, a process group of its own.
class ChildAttributes {
 public:
  ChildAttributes() {
    ::posix_spawnattr_init(&attributes_);
    sigset_t all, none;
    ::sigfillset(&all);
    ::sigemptyset(&none);
    ::posix_spawnattr_setsigdefault(&attributes_, &all);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    ::posix_spawnattr_setpgroup(&attributes_, 0);
    ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
  }
  ~ChildAttributes() { ::posix_spawnattr_destroy(&attributes_); }
  ChildAttributes(const ChildAttributes&) = delete;
  ChildAttributes& operator=(const ChildAttributes&) = delete;

  const posix_spawnattr_t* get() const noexcept { return &attributes_; }

 private:
  posix_spawnattr_t attributes_;
};

/// Spawns the program tiny.cpp. With an argument the program does not exit by itself.
inline pid_t spawn_tiny(const char* argument = nullptr, const FileActions* actions = nullptr,
                        const posix_spawnattr_t* attributes = nullptr) {
  char* const arguments[] = {const_cast<char*>(DROVER_BENCH_TINY), const_cast<char*>(argument), nullptr};
  return spawn_process(DROVER_BENCH_TINY, arguments, actions, attributes);
}

// A raw worker: this program executed again, with an Asio loop that runs ----------------------------------------------

inline constexpr std::string_view raw_worker_role = "--raw-worker";

/// For main(): runs a raw worker if this process is one. Returns whether it was, after the stop message. The worker
/// sends a byte once its loop runs.
inline bool run_if_raw_worker(int argc, char** argv) {
  if (argc < 2 || argv[1] != raw_worker_role) return false;
  pin_as_requested();
  asio::io_context context;
  asio::local::stream_protocol::socket socket(context, asio::local::stream_protocol(), 3);
  socket.async_wait(asio::socket_base::wait_read, [](std::error_code) {});  // the stop message
  asio::post(context, [&] { send_byte(socket.native_handle()); });
  context.run();
  return true;
}

/// The parent's side of a raw worker. With `attributes` the child is set up as drover's are.
class RawWorker {
 public:
  explicit RawWorker(Placement placement, std::string_view as = raw_worker_role,
                     const ChildAttributes* attributes = nullptr) {
    auto [ours, theirs] = stream_pair();
    FileActions actions;
    actions.duplicate(theirs.get(), 3);
    std::string role(as), program = "/proc/self/exe", pin = pin_variable + ("=" + pin_value(placement));
    char* arguments[] = {program.data(), role.data(), nullptr};
    std::vector<char*> environment;
    for (char** variable = environ; *variable != nullptr; ++variable) environment.push_back(*variable);
    environment.push_back(pin.data());
    environment.push_back(nullptr);
    if (attributes != nullptr) actions.close_from(4);
    pid_ = spawn_process(program.c_str(), arguments, &actions, attributes != nullptr ? attributes->get() : nullptr,
                         environment.data());
    ours_ = std::move(ours);
  }
  void wait_until_ready() { wait_for_reply(); }
  void wait_for_reply() { receive_byte(ours_.get()); }
  void request_stop() { send_byte(ours_.get()); }
  void wait_for_exit() { bench::wait_for_exit(pid_); }
  pid_t pid() const noexcept { return pid_; }

 private:
  Descriptor ours_;
  pid_t pid_ = 0;
};

}  // namespace bench
