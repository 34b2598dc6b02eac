#pragma once

#include <atomic>
#include <cerrno>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <sys/types.h>
#include <system_error>
#include <utility>

#include <drover/detail/context/async_event.hpp>
#include <drover/exit_status.hpp>
#include <drover/os/command.hpp>
#include <drover/os/detail/child_events.hpp>
#include <drover/os/detail/child_lines.hpp>
#include <drover/os/detail/child_syscalls.hpp>
#include <drover/os/detail/escalation_driver.hpp>
#include <drover/os/detail/exit_notice.hpp>
#include <drover/os/detail/group_collector.hpp>
#include <drover/os/detail/program_exit.hpp>
#include <drover/os/detail/reaper_entry.hpp>
#include <drover/os/detail/reaper_thread.hpp>
#include <drover/os/detail/spawn.hpp>
#include <drover/os/detail/spawn_options.hpp>
#include <drover/os/detail/suspension_watch.hpp>
#include <drover/os/reap.hpp>
#include <drover/os/signals.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// One child process from its spawn until nothing of its group is left. The reaper thread owns it during that time, so
/// it needs no other owner. Its parts have one job each; this class decides in which order they do it.
///
/// Whichever thread sees the exit first collects the process, under this object's lock: the reaper thread or a thread
/// that calls a member. Lock order: the dispatcher's mutex, the child's lock, a line reader's, then the reaper thread's
/// or a line handler's, last a context registry's; see docs/internals/architecture.md. Events are set without any lock.
/// The functions that waiting coroutines call are virtual, which the same page explains under "Compile time".
class ChildProcess : public ReaperClient, public std::enable_shared_from_this<ChildProcess> {
  struct Private {};

 public:
  /// Throws std::system_error or std::invalid_argument; then there is no process and no descriptor is left open.
  static std::shared_ptr<ChildProcess> spawn(const Command& command, SpawnOptions extras = {});

  ChildProcess(Private, ReaperThread& reaper, const SpawnRequest& launch, SpawnOptions& extras)
      : entry_(reaper),
        lines_(entry_, launch.reader(1), launch.reader(2)),
        exit_notice_(handle_, entry_),
        events_(std::move(extras.observer)),
        escalation_(handle_, events_,
                    {.term_grace = extras.term_grace,
                     .group_grace = launch.group_grace(),
                     .cut_off_code = extras.cut_off_code}),
        suspension_(handle_, events_, extras.observes_stops),
        makes_siblings_(extras.makes_siblings) {}
  virtual ~ChildProcess() = default;

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

  /// See ExitNotice::lend(). Empty also if the process has been reaped.
  KeptPidfd borrow_pidfd() noexcept {
    const Lock held(mutex_);
    return phase_ == Phase::running ? exit_notice_.lend() : KeptPidfd();
  }
  void return_pidfd() noexcept {
    const Lock held(mutex_);
    exit_notice_.take_back();
  }
  /// For the borrower, once it sees the exit.
  virtual void look_now() noexcept {
    if (!foreign()) advance(Lock(mutex_));
  }
  /// A coroutine waits for the exit: from now on the process is checked regularly, even if the descriptors that report
  /// the exit are lost.
  virtual void attend() noexcept {
    if (foreign()) return;
    Lock held(mutex_);
    if (!std::exchange(attended_, true)) advance(std::move(held));
  }

  /// True if the exit may have to wait for lines.
  bool has_lines() const noexcept { return lines_.wanted(); }

  /// True in a forked copy of the program: the child belongs to the original.
  bool foreign() const noexcept { return entry_.foreign(); }

 private:
  using Lock = std::unique_lock<std::mutex>;
  enum class Phase {
    running,
    reaped,  // the rest of its group is not over yet
    over
  };
  static constexpr auto between_tries = std::chrono::milliseconds(20);  // when memory was short
  static constexpr auto between_polls = std::chrono::milliseconds(20);
  static constexpr auto between_looks = std::chrono::seconds(10);  // in case a report was lost

  void start(SpawnRequest& launch, const SpawnOptions& extras);
  void forget_start() noexcept;
  void advance(Lock lock) noexcept;
  bool try_collect(Clock::time_point now) noexcept;
  void watch_again(bool running) noexcept;
  Deadline tend_running(Clock::time_point now) noexcept;
  Deadline tend_group(Clock::time_point now) noexcept;
  void reap_now() noexcept;

  inline void on_event(unsigned channel) noexcept override;
  void on_time() noexcept override { advance(Lock(mutex_)); }
  inline void check(bool anew) noexcept override;
  inline Clock::time_point at_exit() noexcept override;

  ReaperEntry entry_;
  const std::shared_ptr<AsyncEvent> ended_ = std::make_shared<AsyncEvent>();
  const std::shared_ptr<AsyncEvent> settled_ = std::make_shared<AsyncEvent>();
  ChildLines lines_;

  mutable std::mutex mutex_;
  Phase phase_ = Phase::running;
  ChildSyscalls handle_;
  ExitNotice exit_notice_;
  ChildEvents events_;
  EscalationDriver escalation_;
  SuspensionWatch suspension_;
  const bool makes_siblings_;
  std::optional<GroupCollector> group_;  // once the process has been reaped
  bool told_end_ = false, told_over_ = false;
  bool attended_ = false;
  ExitStatus status_;
  Clock::time_point over_at_{};
  std::atomic<bool> reaped_{false};  // status_ is final
  std::atomic<bool> over_{false};    // over_at_ is final
};

}}}  // namespace drover::v1::detail

#include <drover/os/detail/child_end.ipp>
#include <drover/os/detail/child_start.ipp>
