#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utility>

#include <drover/os/fd.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/protocol.hpp>
#include <drover/worker/detail/id_queue.hpp>
#include <drover/worker/detail/stop_sources.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Wakes one thread. Any thread and any signal handler may ring; nothing is allocated or locked.
class WakeupFd {
 public:
  /// A blocking one is for a thread that has nothing else to wait for.
  explicit WakeupFd(int flags) : fd_(above_stdio(UniqueFd(::eventfd(0, EFD_CLOEXEC | flags)))) {
    if (!fd_) throw_errno("cannot make an eventfd");
  }

  int fd() const noexcept { return fd_.get(); }

  void notify() const noexcept {
    const std::uint64_t one = 1;
    while (::write(fd_.get(), &one, sizeof one) < 0 && errno == EINTR) {
    }
  }

  /// Takes all that has been step; a blocking bell waits for the next ring if there is none.
  void consume() const noexcept {
    std::uint64_t count = 0;
    while (::read(fd_.get(), &count, sizeof count) < 0 && errno == EINTR) {
    }
  }

 private:
  UniqueFd fd_;
};

/// What the control thread has told the main thread to do; only ever grows.
struct WorkerFlag {
  enum : std::uint32_t {
    drain = 1,         // finish what is in flight, then leave
    stop = 2,          // by a STOP frame: last_call says what is in flight, and an answer is wanted
    cancel_calls = 4,  // cancel what is in flight
    parent_gone = 8,   // nobody reads results any more
    bounded = 16,      // the control thread has a date for the end of the process
    finished = 32,     // told by the main thread: all is done, serve() returns
    cut = 64           // the control thread ends the process
  };
};

/// All that the threads of a worker share. Made once, never destroyed: the control thread reads it until the process
/// has gone. Everything it needs on its way to the hard exit is an atomic, so that no lock is ever in its way.
struct WorkerState {
  enum class Phase { booting, serving, left };

  explicit WorkerState(WorkerEnvironment e)
      : environment(std::move(e)),
        shutdown_grace(std::chrono::nanoseconds(std::clamp<std::int64_t>(environment.shutdown_grace_ns, 0, never / 4))),
        control(environment.control.fd),
        data(UniqueFd(environment.data.fd), std::max<std::size_t>(environment.max_message_size, least_max_body)),
        parent(environment.parent.fd),
        lock(environment.lock.fd) {}

  const WorkerEnvironment environment;
  const Duration shutdown_grace;
  const UniqueFd control;
  Channel data;  // the main thread's; here because it ends with the process, not with serve()
  const UniqueFd parent;
  const UniqueFd lock;
  const pid_t pid = ::getpid();

  WakeupFd control_wakeup{EFD_NONBLOCK};
  WakeupFd main_wakeup{EFD_NONBLOCK};
  WakeupFd notifier_bell{0};

  std::atomic<Phase> phase{Phase::booting};
  std::atomic<std::uint32_t> flags{0};

  // To the control thread.
  std::atomic<unsigned> terminations{0};  // SIGTERM and SIGHUP, counted by their handler
  std::atomic<unsigned> interrupts{0};    // SIGINT
  std::atomic<bool> parent_ended{false};  // where there are no pidfds
  std::atomic<bool> data_lost{false};     // the data socket has ended, or is not to be trusted any more
  std::atomic<bool> has_notifier{false};
  std::atomic<bool> greeted{false};  // HELLO is out: nothing else may come first

  // From the control thread.
  std::atomic<std::uint64_t> last_call{0};
  IdQueue cancelled_calls;    // to the main thread
  IdQueue cancelled_sources;  // to the notifier

  // Written by the main thread only.
  std::atomic<std::uint64_t> last_read{0};  // id of the last CALL that was read
  std::atomic<std::uint64_t> read{0};       // CALLs
  std::atomic<std::uint64_t> ended{0};      // of these
  std::atomic<std::uint64_t> drained{0};    // ended while draining
  std::atomic<std::uint64_t> cancelled{0};  // cancelled and ended while draining
  std::atomic<std::int64_t> idle_since{Clock::now().time_since_epoch().count()};

  StopSources sources;
};

/// For signal handlers; null in a process that is no worker.
inline std::atomic<WorkerState*> this_worker{nullptr};

/// A counter that one thread writes and others read.
inline void add_one(std::atomic<std::uint64_t>& counter) noexcept {
  counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

/// The clock's moment for one in a frame.
inline Deadline deadline_from(std::int64_t nanoseconds) noexcept {
  if (nanoseconds == never) return std::nullopt;
  // Whatever the parent sends: sums and differences of such moments must not overflow.
  const std::int64_t bounded = std::clamp<std::int64_t>(nanoseconds, 0, never / 4);
  return Clock::time_point(std::chrono::duration_cast<Duration>(std::chrono::nanoseconds(bounded)));
}

}}}  // namespace drover::v1::detail
