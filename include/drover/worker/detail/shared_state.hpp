#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utility>

#include <drover/os/fd.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/cancel_reason.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/protocol.hpp>
#include <drover/worker/detail/id_queue.hpp>
#include <drover/worker/detail/late_flush.hpp>
#include <drover/worker/detail/stop_sources.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Wakes one thread. Any thread and any signal handler may call notify(), which neither allocates nor locks.
class WakeupFd {
 public:
  /// A blocking descriptor is for a thread that waits for nothing else.
  explicit WakeupFd(int flags) : fd_(above_stdio(UniqueFd(::eventfd(0, EFD_CLOEXEC | flags)))) {
    if (!fd_) throw_errno("cannot create an eventfd");
  }

  int fd() const noexcept { return fd_.get(); }

  void notify() const noexcept {
    const std::uint64_t one = 1;
    while (::write(fd_.get(), &one, sizeof one) < 0 && errno == EINTR) {
    }
  }

  /// Consumes all notifications so far. If there is none, a blocking descriptor waits for the next one.
  void consume() const noexcept {
    std::uint64_t count = 0;
    while (::read(fd_.get(), &count, sizeof count) < 0 && errno == EINTR) {
    }
  }

 private:
  UniqueFd fd_;
};

/// The flags by which the control thread and the main thread notify each other. A flag is never cleared.
struct WorkerFlag {
  enum : std::uint32_t {
    drain = 1,         // finish the calls in flight, then leave
    stop = 2,          // STOP arrived: last_call is the last call in flight, and a reply is due
    cancel_calls = 4,  // cancel the calls in flight
    parent_gone = 8,   // the parent reads no results any more
    bounded = 16,      // the control thread has a deadline for the exit
    finished = 32,     // set by the main thread: all work is done, serve() returns
    cut = 64,          // the control thread makes the hard exit
    calls_ended = 128  // set by the main thread: all calls have ended, the stop hooks run
  };
};

/// Decides for a call that was sent ahead whether it begins, on the main thread, or goes back to the parent, on the
/// control thread, because it is recalled. Neither side waits.
class BeginGate {
 public:
  /// False if the call has gone back.
  bool begin(std::uint64_t call) noexcept { return pass(call, 0); }
  /// False if the call has begun.
  bool give_back(std::uint64_t call) noexcept { return pass(call, 1); }

 private:
  bool pass(std::uint64_t call, std::uint64_t went_back) noexcept {
    auto& place = passed_[call % passed_.size()];
    std::uint64_t last = place.load();
    while (last >> 1 < call)
      if (place.compare_exchange_weak(last, call << 1 | went_back)) return true;
    return false;
  }

  // The calls that have passed, each in its place, and in the lowest bit which way. After a recall the parent sends
  // nothing ahead until it has another RESULT (DataLink::send_nothing_ahead). So at most three calls in a row have yet
  // to pass on the main thread.
  std::array<std::atomic<std::uint64_t>, 8> passed_{};
};

/// A CANCEL on its way from the control thread to the main thread, in one number.
struct CancelledCall {
  static std::uint64_t pack(std::uint64_t id, CancelReason reason) noexcept {
    return id << 1 | (reason == CancelReason::deadline ? 1 : 0);
  }
  explicit CancelledCall(std::uint64_t packed) noexcept
      : id(packed >> 1), reason((packed & 1) != 0 ? CancelReason::deadline : CancelReason::caller) {}

  std::uint64_t id;
  CancelReason reason;
};

/// The data that the threads of a worker share. Created once and never destroyed: the control thread reads it until the
/// process has exited. Everything that the control thread needs for the hard exit is atomic, so that no lock can delay
/// it.
struct WorkerState {
  enum class Phase { booting, serving, left };

  explicit WorkerState(WorkerEnvironment e)
      : environment(std::move(e)),
        shutdown_grace(std::chrono::nanoseconds(std::clamp<std::int64_t>(environment.shutdown_grace_ns, 0, never / 4))),
        stall(environment.stall_ns > 0 ? Timeout(std::chrono::nanoseconds(std::min(environment.stall_ns, never / 4)))
                                       : std::nullopt),
        control(environment.control.fd),
        data(UniqueFd(environment.data.fd), std::max<std::size_t>(environment.max_message_size, least_max_body)),
        parent(environment.parent.fd),
        lock(environment.lock.fd) {}

  const WorkerEnvironment environment;
  const Duration shutdown_grace;
  const Timeout stall;
  const UniqueFd control;
  Channel data;  // used by the main thread, see LateFlush; here because it ends with the process, not with serve()
  const int data_fd = environment.data.fd;  // of the same socket, for the control thread to poll
  const UniqueFd parent;
  const UniqueFd lock;
  const pid_t pid = ::getpid();

  WakeupFd control_wakeup{EFD_NONBLOCK};
  WakeupFd main_wakeup{EFD_NONBLOCK};
  WakeupFd stop_token_wakeup{0};

  std::atomic<std::size_t> slot{environment.worker.slot};  // a spare worker takes one later
  std::atomic<Phase> phase{Phase::booting};
  std::atomic<std::uint32_t> flags{0};

  // To the control thread.
  std::atomic<unsigned> terminations{0};  // SIGTERM and SIGHUP, counted by their handler
  std::atomic<unsigned> interrupts{0};    // SIGINT
  std::atomic<bool> parent_ended{false};  // used without pidfds
  std::atomic<bool> data_lost{false};     // the data socket is closed, or no longer trusted
  std::atomic<bool> has_stop_token_thread{false};
  std::atomic<bool> greeted{false};  // HELLO has been sent; no other frame may precede it

  // From the control thread.
  std::atomic<std::uint64_t> last_call{0};
  std::atomic<std::uint64_t> probe{0};  // the last probe of the main loop, see LoopProbe
  IdQueue cancelled_calls;              // to the main thread, see CancelledCall
  IdQueue cancelled_sources;            // to the stop-token thread

  // Written by the main thread only.
  std::atomic<std::uint64_t> last_read{0};  // id of the last CALL that was read
  std::atomic<std::uint64_t> read{0};       // CALLs that were read
  std::atomic<std::uint64_t> ended{0};      // of these, calls that have ended
  std::atomic<std::size_t> coroutines{0};   // of the calls in progress, those whose routines are coroutines
  std::atomic<bool> owes_results{false};    // results may be unsent, or calls that were received not read
  std::atomic<std::uint64_t> probe_answered{0};
  std::atomic<std::uint64_t> drained{0};    // ended while draining
  std::atomic<std::uint64_t> cancelled{0};  // cancelled and ended while draining
  std::atomic<std::int64_t> idle_since{Clock::now().time_since_epoch().count()};

  StopSources sources;
  LateFlush late_flush;
  BeginGate gate;  // for calls that were sent ahead
};

/// Null in a process that is not a worker, and before in_worker(). For signal handlers, too.
inline std::atomic<WorkerState*> state_of_this_worker{nullptr};

/// A counter that one thread writes and others read.
inline void add_one(std::atomic<std::uint64_t>& counter) noexcept {
  counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

/// Converts a time in a frame to a time of the clock.
inline Deadline deadline_from(std::int64_t nanoseconds) noexcept {
  if (nanoseconds == never) return std::nullopt;
  // Clamped, whatever the parent sends: sums and differences of such times must not overflow.
  const std::int64_t bounded = std::clamp<std::int64_t>(nanoseconds, 0, never / 4);
  return Clock::time_point(std::chrono::duration_cast<Duration>(std::chrono::nanoseconds(bounded)));
}

/// Of a call whose routine begins now.
inline Deadline deadline_of(const CallFacts& facts, Clock::time_point now) noexcept {
  const Deadline due = deadline_from(facts.deadline);
  if (facts.run_for == never) return due;
  return earlier(due,
                 deadline_after(now, std::chrono::nanoseconds(std::clamp<std::int64_t>(facts.run_for, 0, never / 4))));
}

}}}  // namespace drover::v1::detail
