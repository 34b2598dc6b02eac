#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <span>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

#include <drover/os/fd.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The reaper thread's epoll instance, and a way to check that its number still refers to it. The program may have
/// closed it and have an epoll instance of its own under that number. All epoll instances look alike, so the set
/// contains a socket, the wakeup descriptor, which is recognised by its inode and is in no other set. It also wakes the
/// waiting thread.
///
/// Guarded by the reaper thread's lock, except wait().
class EventSet {
 public:
  static constexpr std::uint64_t wake_up_event = std::numeric_limits<std::uint64_t>::max();

  /// Throws std::system_error.
  EventSet() {
    epoll_ = above_stdio(UniqueFd(::epoll_create1(EPOLL_CLOEXEC)));
    if (!epoll_) throw_errno("drover's background thread has no epoll instance to watch processes with");
    UniqueFd wakeup = above_stdio(UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)));
    if (!wakeup) throw_errno("drover's background thread has no socket to be woken by");
    wakeup_ = KeptFd(std::move(wakeup));
    if (!wakeup_) throw_errno("drover's background thread cannot identify the socket that wakes it");
    if (const int error = change(EPOLL_CTL_ADD, wakeup_.get(), wake_up_event, 0))
      throw_errno("drover's background thread cannot watch the socket that wakes it", error);
  }
  ~EventSet() {
    if (!ours()) (void)epoll_.release();
  }
  /// A set without descriptors, for a time in which none is available. Nothing can be watched, and the thread checks
  /// its processes at intervals.
  struct Blind {};
  explicit EventSet(Blind) noexcept {}
  bool blind() const noexcept { return !epoll_; }
  EventSet(const EventSet&) = delete;
  EventSet& operator=(const EventSet&) = delete;

  /// False once the epoll instance has been closed, or if that is unknown.
  bool ours() noexcept {
    return wakeup_.ours() && change(EPOLL_CTL_MOD, wakeup_.get(), wake_up_event, wakeup_events_) == 0;
  }

  /// Wakes the thread that waits, or the next one that does. False if the set is not ours.
  bool notify() noexcept {
    wakeup_events_ = EPOLLOUT | EPOLLONESHOT;  // the socket is always writable
    return ours();
  }
  void consume() noexcept { wakeup_events_ = 0; }

  /// 0 or an errno. `events` as for epoll_ctl(2). A descriptor that is watched already is watched anew.
  int add(int fd, std::uint64_t data, std::uint32_t events) noexcept {
    const int error = change(EPOLL_CTL_ADD, fd, data, events);
    return error == EEXIST ? change(EPOLL_CTL_MOD, fd, data, events) : error;
  }
  void remove(int fd) noexcept { ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

  /// Waits until `until` at most, like epoll_wait(2), which needs no descriptor to keep time.
  int wait(std::span<epoll_event> events, Clock::time_point until) noexcept {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
    const auto bound = std::clamp<decltype(left)>(left, 0, std::numeric_limits<int>::max());
    return ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), static_cast<int>(bound));
  }

 private:
  int change(int how, int fd, std::uint64_t data, std::uint32_t events) noexcept {
    epoll_event event{};
    event.events = events;
    event.data.u64 = data;
    return ::epoll_ctl(epoll_.get(), how, fd, &event) == 0 ? 0 : errno;
  }

  UniqueFd epoll_;
  KeptFd wakeup_;
  std::uint32_t wakeup_events_ = 0;
};

}}}  // namespace drover::v1::detail
