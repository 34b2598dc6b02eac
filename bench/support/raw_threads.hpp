#pragma once

#include <cstdint>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>

#include "raw.hpp"

/// The least that drover's threads cost: the baselines with a reaper thread in the parent and a control thread in the
/// worker. Each adds one wake-up, and does nothing else that drover's threads do.
namespace bench {

/// A thread that waits for processes to exit, and reports each exit through an eventfd(2).
class ReaperThread {
 public:
  ReaperThread()
      : exits_(checked(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
        reported_(checked(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")),
        loop_(reported_.get()),
        thread_([this] { run(); }) {}
  ~ReaperThread() {
    epoll_event stop{};
    const auto [ours, theirs] = stream_pair();
    stop.events = EPOLLIN | EPOLLHUP;
    stop.data.fd = -1;
    ::epoll_ctl(exits_.get(), EPOLL_CTL_ADD, ours.get(), &stop);
    ::shutdown(ours.get(), SHUT_RDWR);
    thread_.join();
  }
  ReaperThread(const ReaperThread&) = delete;
  ReaperThread& operator=(const ReaperThread&) = delete;

  void watch(pid_t pid) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = static_cast<int>(checked(::syscall(SYS_pidfd_open, pid, 0), "pidfd_open"));
    checked(::epoll_ctl(exits_.get(), EPOLL_CTL_ADD, event.data.fd, &event), "epoll_ctl");
  }

  /// Waits until one of the watched processes has been reaped.
  void wait() {
    loop_.wait();
    std::uint64_t count = 0;
    checked(::read(reported_.get(), &count, sizeof count), "read");
  }

 private:
  void run() {
    constexpr auto by_pidfd = static_cast<idtype_t>(3);  // P_PIDFD, which older headers of glibc lack
    for (;;) {
      epoll_event event{};
      if (::epoll_wait(exits_.get(), &event, 1, -1) != 1) continue;
      if (event.data.fd < 0) return;
      siginfo_t info{};
      ::waitid(by_pidfd, static_cast<id_t>(event.data.fd), &info, WEXITED);
      ::close(event.data.fd);
      const std::uint64_t one = 1;
      if (::write(reported_.get(), &one, sizeof one) < 0) return;
    }
  }

  Descriptor exits_, reported_;
  ReadableLoop loop_;
  std::thread thread_;
};

inline constexpr std::string_view threaded_raw_worker_role = "--threaded-raw-worker";

/// As run_if_raw_worker(), for a worker with a control thread. The thread waits for the stop message, wakes the loop,
/// and runs until the process exits. The worker replies to the message.
inline bool run_if_threaded_raw_worker(int argc, char** argv) {
  if (argc < 2 || argv[1] != threaded_raw_worker_role) return false;
  pin_as_requested();
  asio::io_context context;
  asio::posix::stream_descriptor stop(context, checked(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd"));
  stop.async_wait(asio::posix::stream_descriptor::wait_read, [](std::error_code) {});
  std::thread([wake = stop.native_handle()] {
    receive_byte(3);
    const std::uint64_t one = 1;
    if (::write(wake, &one, sizeof one) < 0) ::_exit(1);
    receive_byte(3);
  }).detach();
  asio::post(context, [] { send_byte(3); });
  context.run();
  send_byte(3);
  return true;
}

}  // namespace bench
