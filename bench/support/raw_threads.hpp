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

/// What drover's threads cost at least: plain system calls again, with a thread that reaps for all of a program, and
/// one in the worker that is told to stop. Each is one wake-up more, and nothing else that drover does.
namespace bench {

/// A thread that waits for the ends of processes; who waits for them is told by an eventfd(2).
class ReaperThread {
 public:
  ReaperThread()
      : ends_(checked(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
        told_(checked(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")),
        loop_(told_.get()),
        thread_([this] { run(); }) {}
  ~ReaperThread() {
    epoll_event stop{};
    const auto [ours, theirs] = stream_pair();
    stop.events = EPOLLIN | EPOLLHUP;
    stop.data.fd = -1;
    ::epoll_ctl(ends_.get(), EPOLL_CTL_ADD, ours.get(), &stop);
    ::shutdown(ours.get(), SHUT_RDWR);
    thread_.join();
  }
  ReaperThread(const ReaperThread&) = delete;
  ReaperThread& operator=(const ReaperThread&) = delete;

  void watch(pid_t pid) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = static_cast<int>(checked(::syscall(SYS_pidfd_open, pid, 0), "pidfd_open"));
    checked(::epoll_ctl(ends_.get(), EPOLL_CTL_ADD, event.data.fd, &event), "epoll_ctl");
  }

  /// For the end of any of them.
  void wait() {
    loop_.wait();
    std::uint64_t count = 0;
    checked(::read(told_.get(), &count, sizeof count), "read");
  }

 private:
  void run() {
    constexpr auto by_pidfd = static_cast<idtype_t>(3);  // P_PIDFD, which older headers lack
    for (;;) {
      epoll_event event{};
      if (::epoll_wait(ends_.get(), &event, 1, -1) != 1) continue;
      if (event.data.fd < 0) return;
      siginfo_t info{};
      ::waitid(by_pidfd, static_cast<id_t>(event.data.fd), &info, WEXITED);
      ::close(event.data.fd);
      const std::uint64_t one = 1;
      if (::write(told_.get(), &one, sizeof one) < 0) return;
    }
  }

  Descriptor ends_, told_;
  ReadableLoop loop_;
  std::thread thread_;
};

inline constexpr std::string_view threaded_raw_worker_role = "--threaded-raw-worker";

/// As was_raw_worker(), for one in which a thread waits for the stop message, wakes the loop, and stays for as long as
/// the process lives; and which answers that message.
inline bool was_threaded_raw_worker(int argc, char** argv) {
  if (argc < 2 || argv[1] != threaded_raw_worker_role) return false;
  pin_as_told();
  asio::io_context context;
  asio::posix::stream_descriptor told(context, checked(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd"));
  told.async_wait(asio::posix::stream_descriptor::wait_read, [](std::error_code) {});
  std::thread([wake = told.native_handle()] {
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
