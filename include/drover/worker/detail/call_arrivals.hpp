#pragma once

#include <sys/epoll.h>

#include <drover/os/fd.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Notices that something has arrived on a socket which another thread reads. poll(2) does not do: a thread that wakes
/// up looks at the socket again, and if the other thread has been quicker it goes on sleeping.
///
/// Edge-triggered, an epoll set keeps each arrival until it is taken, as long as the socket has any event to report.
/// A socket that is not full is writable, and one that is full reports when there is room again; so it also reports
/// that, without harm.
class CallArrivals {
 public:
  /// Never sees anything.
  CallArrivals() noexcept = default;
  /// Throws std::system_error.
  explicit CallArrivals(int socket) : set_(above_stdio(UniqueFd(::epoll_create1(EPOLL_CLOEXEC)))) {
    if (!set_) throw_errno("cannot create an epoll set");
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLET;
    if (::epoll_ctl(set_.get(), EPOLL_CTL_ADD, socket, &event) != 0) throw_errno("cannot watch the data socket");
    take();  // that it is writable
  }

  /// Readable while there is something to take; -1: never.
  int fd() const noexcept { return set_.get(); }

  /// True if something has arrived since the last time.
  bool take() noexcept {
    epoll_event event{};
    return set_ && ::epoll_wait(set_.get(), &event, 1, 0) > 0;
  }

 private:
  UniqueFd set_;
};

}}}  // namespace drover::v1::detail
