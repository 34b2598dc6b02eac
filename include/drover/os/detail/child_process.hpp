#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <fcntl.h>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <sys/epoll.h>
#include <sys/types.h>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <drover/detail/context/async_event.hpp>
#include <drover/exit_status.hpp>
#include <drover/os/command.hpp>
#include <drover/os/detail/child_syscalls.hpp>
#include <drover/os/detail/escalation.hpp>
#include <drover/os/detail/fork_epoch.hpp>
#include <drover/os/detail/group.hpp>
#include <drover/os/detail/program_exit.hpp>
#include <drover/os/detail/reaper_thread.hpp>
#include <drover/os/detail/spawn.hpp>
#include <drover/os/detail/terminal.hpp>
#include <drover/os/reap.hpp>
#include <drover/os/signals.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

struct ChildEvent {
  enum class Kind {
    terminate_sent,
    kill_sent,
    stopped,    // suspended by the signal `signo`, seen within a second
    continued,  // running again after `stopped`
    ended,      // the process has been reaped
    group_over  // nothing of its group is left, or the rest cannot be ended
  };
  Kind kind{};
  Clock::time_point at{};
  pid_t pid = 0;
  int signo = 0;
};

/// Settings of a spawn that are not part of the command.
struct SpawnOptions {
  std::vector<int>
      descriptors{};  ///< become 3, 4, 5, ... of the child, in this order; the caller still has to close them
  Variables env{};    ///< set last
  /// Called with each event in order, on any thread, under the child's lock: must not block or call back. If it throws
  /// because memory is short, it is called again a little later.
  std::function<void(const ChildEvent&)> observer{};
  Duration term_grace = ReapPlan{}.term_grace;  ///< for a reap that nobody requested: abandon(), the program's end
  /// A process that exits with this code while it is being reaped was cut off and did not exit by itself.
  std::optional<int> cut_off_code{};
  /// Checks once a second whether the process is suspended. The kernel reports that by SIGCHLD only, and that signal
  /// belongs to the program, see wait(2).
  bool observes_stops = false;
  /// See spawn_mark.hpp.
  bool is_worker = false;
};

/// One child process from its spawn until it has been reaped. The reaper thread owns it during that time, so it needs
/// no other owner.
///
/// Whichever thread sees the exit first collects the process, under this object's lock: the reaper thread or a thread
/// that calls a member. Lock order: the dispatcher's mutex, the child's lock, a line reader's, then the reaper thread's
/// or a line handler's, last a context registry's; see docs/internals/architecture.md. Events are set without any lock.
class ChildProcess final : public ReaperClient, public std::enable_shared_from_this<ChildProcess> {
  struct Private {};

 public:
  /// Throws std::system_error or std::invalid_argument; then there is no process and no descriptor is left open.
  static std::shared_ptr<ChildProcess> spawn(const Command& command, SpawnOptions extras = {});

  ChildProcess(Private, ReaperThread& reaper, const SpawnRequest& launch, SpawnOptions& extras)
      : reaper_(reaper),
        observer_(std::move(extras.observer)),
        term_grace_(extras.term_grace),
        cut_off_code_(extras.cut_off_code),
        observes_stops_(extras.observes_stops),
        group_grace_(launch.group_grace()),
        readers_{launch.reader(1), launch.reader(2)} {}

  pid_t pid() const noexcept { return handle_.pid(); }
  bool running() const noexcept { return !exit_status(); }

  /// Set once the process has been reaped.
  std::optional<ExitStatus> exit_status() const noexcept {
    if (!reaped_.load(std::memory_order_acquire)) return std::nullopt;
    return status_;
  }

  /// The signal that has suspended the process, if it is suspended now.
  std::optional<int> stopped() const;

  /// Does nothing after the exit. Throws std::system_error if the signal is refused or does not exist.
  void signal(int signo);

  /// Begins at once. A second reap joins the first and may only shorten it. Signals that are due are sent from this
  /// thread.
  void reap(const ReapPlan& plan);

  /// The same with an absolute time for SIGTERM; nullopt waits until the process exits by itself.
  void reap_by(Deadline terminate_by, Duration term_grace);

  /// The owner is destroyed: drops further lines and reaps with patience 0; after the end of the program kills at once.
  void abandon() noexcept;

  /// Sends SIGKILL to the process alone. The rest of its group then gets SIGTERM and term_grace. Throws like signal().
  void kill_leader();

  /// Set once the process has been reaped. Members of its group that were killed are waited for first, for about a
  /// second at most. Members that still have time to exit are not waited for.
  const std::shared_ptr<AsyncEvent>& ended() const noexcept { return ended_; }
  /// Set when its group is over as well, or when SIGKILL is refused: a reap has nothing more to do.
  const std::shared_ptr<AsyncEvent>& settled() const noexcept { return settled_; }
  /// When the group was over; empty before.
  std::optional<Clock::time_point> over_at() const noexcept {
    if (!over_.load(std::memory_order_acquire)) return std::nullopt;
    return over_at_;
  }

  ReapReport report() const;
  /// Why SIGKILL was refused, if it was.
  std::error_code refused() const;

  /// Lends a descriptor that is readable once the process has exited, to one borrower at a time. Empty if it is lent
  /// already, if the process has been reaped, or if no descriptor is available.
  KeptPidfd borrow_pidfd() noexcept;
  void return_pidfd() noexcept {
    const Lock held(mutex_);
    lent_ = false;
  }
  /// For the borrower, once it sees the exit.
  void look_now() noexcept {
    if (!foreign()) advance(Lock(mutex_));
  }
  /// A coroutine waits for the exit: from now on the process is checked regularly, even if the descriptors that report
  /// the exit are lost.
  void attend() noexcept {
    if (foreign()) return;
    Lock held(mutex_);
    if (!std::exchange(attended_, true)) advance(std::move(held));
  }

  /// True if the exit may have to wait for lines.
  bool has_lines() const noexcept { return readers_[0] || readers_[1]; }

  /// True in a forked copy of the program: the child belongs to the original.
  bool foreign() const noexcept { return epoch_.foreign(); }

 private:
  using Lock = std::unique_lock<std::mutex>;
  enum class Phase {
    running,
    survivors,  // reaped; the rest of its group has time to exit
    killed,     // reaped; its group has been killed, but is not over yet
    over
  };
  static constexpr unsigned end_channel = 0, member_channel = 3;
  static constexpr int most_group_looks = 10;                           // 1 + 2 + 4 + ... ms: a second in all
  static constexpr auto between_tries = std::chrono::milliseconds(20);  // when memory was short
  static constexpr auto between_looks = std::chrono::seconds(10);       // in case a report was lost

  void start(SpawnRequest& launch, bool is_worker);
  void watch_end();
  void watch_again() noexcept;
  void advance(Lock lock) noexcept;
  bool try_collect(Clock::time_point now) noexcept;
  void send_due_signals(Clock::time_point now) noexcept;
  void look_for_stop(Clock::time_point now) noexcept;
  void send(EscalationStep step) noexcept;
  void send_to_rest(EscalationStep step) noexcept;
  void tend_survivors(Clock::time_point now) noexcept;
  void look_at_group(Clock::time_point now) noexcept;
  void read_rest() noexcept;
  void close_readers() noexcept;
  void reap_now() noexcept;
  void tell(ChildEvent::Kind kind, int signo = 0) noexcept {
    if (observer_ && untold_count_ < untold_.size()) untold_[untold_count_++] = {kind, Clock::now(), pid(), signo};
  }
  bool pass_on() noexcept;

  inline void on_event(unsigned channel) noexcept override;
  void on_time() noexcept override { advance(Lock(mutex_)); }
  inline void check(bool anew) noexcept override;
  inline Clock::time_point at_exit() noexcept override;

  ReaperThread& reaper_;
  const ForkEpoch epoch_;
  std::uint64_t id_ = 0;
  const std::function<void(const ChildEvent&)> observer_;
  const Duration term_grace_;
  const std::optional<int> cut_off_code_;
  const bool observes_stops_;
  const Duration group_grace_;
  const std::shared_ptr<AsyncEvent> ended_ = std::make_shared<AsyncEvent>();
  const std::shared_ptr<AsyncEvent> settled_ = std::make_shared<AsyncEvent>();
  const std::array<std::shared_ptr<LineReader>, 2> readers_;  // of stdout and stderr

  mutable std::mutex mutex_;
  ChildSyscalls handle_;
  ChildTerminal terminal_;
  Phase phase_ = Phase::running;
  Escalation escalation_;
  std::optional<Clock::time_point> reap_began_;
  Clock::time_point over_at_{};
  LeaderlessGroup group_{0};
  int watched_member_ = -1;
  bool cut_ = false;                          // by kill_leader()
  bool terminated_ = false, killed_ = false;  // by the escalation
  bool end_announced_ = false;                // the kernel reported the exit
  std::optional<int> stopped_by_;             // as last reported to the observer
  Deadline look_again_;
  int group_looks_ = 0;
  std::error_code refused_;
  std::array<ChildEvent, 8> untold_{};  // events that the observer has not received yet
  std::size_t untold_count_ = 0;
  bool told_end_ = false, told_over_ = false;
  bool lent_ = false;  // see borrow_pidfd()
  bool attended_ = false;
  bool has_thread_ = false;  // a thread waits for the exit
  bool blind_ = false;       // no descriptor reports the exit, so it has to be polled
  ExitStatus status_;
  std::atomic<bool> reaped_{false};  // status_ is final
  std::atomic<bool> over_{false};    // over_at_ is final
};

}}}  // namespace drover::v1::detail

#include <drover/os/detail/child_end.ipp>
#include <drover/os/detail/child_start.ipp>
