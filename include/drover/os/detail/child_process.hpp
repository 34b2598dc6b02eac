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
    stopped,    // by the signal `signo`, as seen within a second
    continued,  // after that
    ended,      // the process has been reaped
    group_over  // nothing of its group is left, or what is left cannot be ended
  };
  Kind kind{};
  Clock::time_point at{};
  pid_t pid = 0;
  int signo = 0;
};

/// What a command does not say.
struct SpawnOptions {
  std::vector<int> descriptors{};  ///< become 3, 4, 5, ... of the child, in this order; still the caller's to close
  Variables env{};                 ///< set last
  /// Called in order, on any thread, under the child's lock: must not block or call back. If it throws, for want of
  /// memory, it is called again a little later.
  std::function<void(const ChildEvent&)> observer{};
  Duration term_grace = ReapPlan{}.term_grace;  ///< of the reap that nobody asked for: abandon(), the program's end
  /// A process that exits with this code while it is being reaped was cut off, and did not end by itself.
  std::optional<int> cut_off_code{};
  /// Looks once a second whether the process is stopped. The kernel reports that by SIGCHLD only, and that signal is
  /// the program's own, see wait(2).
  bool observes_stops = false;
  /// See spawn_mark.hpp.
  bool is_worker = false;
};

/// One process from its start until it has been reaped. The reaper owns it all that time, so it needs nobody else.
///
/// Whoever sees the process's end first, the reaper's thread or one that calls in, takes it away, under this lock. Lock
/// order: this one, the reaper's or a line reader's, a home's. Events are set without any.
class ChildProcess final : public ReaperClient, public std::enable_shared_from_this<ChildProcess> {
  struct Private {};

 public:
  /// Throws std::system_error or std::invalid_argument; then there is no process, and nothing is left open.
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

  /// Set once it has been reaped.
  std::optional<ExitStatus> exit_status() const noexcept {
    if (!reaped_.load(std::memory_order_acquire)) return std::nullopt;
    return status_;
  }

  /// The signal that has stopped it, if it is stopped now.
  std::optional<int> stopped() const;

  /// No-op once it has ended. Throws std::system_error if the signal is refused or there is no such signal.
  void signal(int signo);

  /// Begins at once, joins an earlier one and may only shorten it. What is due is sent from this thread.
  void reap(const ReapPlan& plan);

  /// The same, with the time of SIGTERM; an empty one: whenever it exits.
  void reap_by(Deadline terminate_by, Duration term_grace);

  /// The owner is gone: no more lines, and reap with patience 0; after the end of the program kill.
  void abandon() noexcept;

  /// SIGKILL to the process alone. What is left of its group gets SIGTERM then, and term_grace. Throws as signal().
  void kill_leader();

  /// Set once it has been reaped, and what was killed of its group then is gone or has been waited for in vain. What
  /// has time to end is not waited for.
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

  /// A descriptor that is readable once it has ended, for one to have at a time. Empty if somebody has it, if it has
  /// been reaped, or if there is none to have.
  KeptPidfd borrow_pidfd() noexcept;
  void return_pidfd() noexcept {
    const Lock held(mutex_);
    lent_ = false;
  }
  /// It has ended, as whom that was lent to sees.
  void look_now() noexcept {
    if (!foreign()) advance(Lock(mutex_));
  }
  /// Somebody waits for its end: it is looked at from time to time even if the descriptors that tell of it are lost.
  void attend() noexcept {
    if (foreign()) return;
    Lock held(mutex_);
    if (!std::exchange(attended_, true)) advance(std::move(held));
  }

  /// Has it lines that its end may have to wait for?
  bool has_lines() const noexcept { return readers_[0] || readers_[1]; }

  /// In a forked copy of the program: nothing here is ours.
  bool foreign() const noexcept { return epoch_ != ReaperThread::epoch(); }

 private:
  using Lock = std::unique_lock<std::mutex>;
  enum class Phase {
    running,
    survivors,  // reaped; what is left of its group has time to end
    killed,     // reaped; its group has been killed, but is not yet gone
    over
  };
  static constexpr unsigned end_channel = 0, member_channel = 3;
  static constexpr int most_group_looks = 10;                           // 1 + 2 + 4 + ... ms: a second in all
  static constexpr auto between_tries = std::chrono::milliseconds(20);  // where memory was short
  static constexpr auto between_looks = std::chrono::seconds(10);       // where nothing should be needed

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
  const unsigned epoch_ = ReaperThread::epoch();
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
  bool terminated_ = false, killed_ = false;  // by the ladder
  bool end_announced_ = false;                // the kernel said that it has ended
  std::optional<int> stopped_by_;             // as the observer knows
  Deadline look_again_;
  int group_looks_ = 0;
  std::error_code refused_;
  std::array<ChildEvent, 8> untold_{};  // of what the observer has not been told yet
  std::size_t untold_count_ = 0;
  bool told_end_ = false, told_over_ = false;
  bool lent_ = false;  // see borrow_pidfd()
  bool attended_ = false;
  bool has_thread_ = false;  // that waits for its end
  bool blind_ = false;       // nothing tells of its end but looking
  ExitStatus status_;
  std::atomic<bool> reaped_{false};  // status_ is final
  std::atomic<bool> over_{false};    // over_at_ is final
};

}}}  // namespace drover::v1::detail

#include <drover/os/detail/child_end.ipp>
#include <drover/os/detail/child_start.ipp>
