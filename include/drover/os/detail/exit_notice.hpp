#pragma once

#include <fcntl.h>
#include <memory>
#include <signal.h>
#include <sys/epoll.h>
#include <system_error>
#include <thread>
#include <utility>

#include <drover/os/detail/child_syscalls.hpp>
#include <drover/os/detail/reaper_entry.hpp>
#include <drover/os/fd.hpp>
#include <drover/os/signals.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// How drover notices that a child has exited. The reaper thread watches the child's pidfd. A child without a pidfd has
/// a thread that waits for it. If the program closes the pidfd and no other can be opened, the child is polled.
/// Besides, one borrower may watch a copy of the pidfd. Guarded by the child's lock.
class ExitNotice {
 public:
  ExitNotice(ChildSyscalls& handle, ReaperEntry& entry) noexcept : handle_(handle), entry_(entry) {}
  ExitNotice(const ExitNotice&) = delete;
  ExitNotice& operator=(const ExitNotice&) = delete;

  /// Opens and watches the pidfd. False if none is available.
  bool watch_pidfd() noexcept {
    if (handle_.open() && watch()) return true;
    handle_.close();
    return false;
  }

  /// Starts a thread that waits for a child without a pidfd. If the child's status is stolen, the wait ends as well.
  /// Throws std::system_error; the child is then killed and collected.
  void wait_in_thread(std::shared_ptr<ReaperClient> child) {
    const auto undo = [this] {
      handle_.send_group(SIGKILL);
      ChildSyscalls::await_end(handle_.pid());
      handle_.collect();
    };
    try {
      const BlockAllSignals blocked;
      std::thread([owner = std::move(child), pid = handle_.pid()] {
        ChildSyscalls::await_end(pid);
        owner->on_event(ReaperEntry::exit_channel);
      }).detach();
      has_thread_ = true;
    } catch (const std::system_error& error) {
      undo();
      throw_errno("cannot watch a new process: neither a pidfd nor a thread is available", error.code().value());
    } catch (...) {
      undo();
      throw;
    }
  }

  /// Watches again, after the pidfd may have been lost.
  void watch_again() noexcept {
    if (has_thread_) return;
    if (handle_.pidfd() < 0 || handle_.lost_pidfd()) {
      handle_.close();
      handle_.open();
    }
    blind_ = handle_.pidfd() < 0 || !watch();
  }

  /// The reaper thread or the waiting thread has seen the exit.
  void announce() noexcept { announced_ = true; }

  /// As of the last ChildSyscalls::poll_exit(): the pidfd is lost, so it has to be watched again.
  bool lost() const noexcept { return !announced_ && handle_.pidfd_was_lost(); }
  /// True if the exit will be announced, so that there is no need to poll for it now.
  bool will_come() const noexcept { return !handle_.pidfd_was_lost() && !blind_; }
  /// True if the child has to be polled: nothing will announce its exit, or the exit is announced but no status is
  /// available yet, because a debugger may get it first, see ptrace(2).
  bool must_poll() const noexcept { return announced_ || blind_; }

  /// Lends a descriptor that is readable once the process has exited, to one borrower at a time. Empty if it is lent
  /// already or no descriptor is available.
  KeptPidfd lend() noexcept {
    if (lent_ || handle_.pidfd() < 0 || handle_.lost_pidfd()) return KeptPidfd();
    KeptPidfd copy(UniqueFd(::fcntl(handle_.pidfd(), F_DUPFD_CLOEXEC, 3)), handle_.pid());
    lent_ = static_cast<bool>(copy);
    return copy;
  }
  void take_back() noexcept { lent_ = false; }

 private:
  // One shot: a forked copy of the program that holds the pidfd open would otherwise keep it reporting for ever.
  bool watch() noexcept {
    return entry_.watch(handle_.pidfd(), ReaperEntry::exit_channel, EPOLLIN | EPOLLONESHOT) == 0;
  }

  ChildSyscalls& handle_;
  ReaperEntry& entry_;
  bool has_thread_ = false;
  bool blind_ = false;      // no descriptor reports the exit
  bool announced_ = false;  // the kernel reported the exit
  bool lent_ = false;
};

}}}  // namespace drover::v1::detail
