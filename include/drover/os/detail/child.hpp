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

#include <drover/detail/async_event.hpp>
#include <drover/os/command.hpp>
#include <drover/os/detail/exit_guard.hpp>
#include <drover/os/detail/group.hpp>
#include <drover/os/detail/ladder.hpp>
#include <drover/os/detail/pidfd.hpp>
#include <drover/os/detail/reaper.hpp>
#include <drover/os/detail/spawn.hpp>
#include <drover/os/detail/terminal.hpp>
#include <drover/os/exit_status.hpp>
#include <drover/os/reap.hpp>
#include <drover/os/signals.hpp>
#include <drover/timeout.hpp>

namespace drover::inline v1::detail {

struct ChildEvent {
  enum class Kind {
    terminate_sent,
    kill_sent,
    ended,      // the process has been reaped
    group_over  // nothing of its group is left, or what is left cannot be ended
  };
  Kind kind{};
  Clock::time_point at{};
};

/// What a command does not say.
struct SpawnExtras {
  std::vector<int> descriptors{};  ///< become 3, 4, 5, ... of the child, in this order; still the caller's to close
  Variables env{};                 ///< set last
  /// Called in order, on any thread, under the child's lock: must not block or call back. If it throws, for want of
  /// memory, it is called again a little later.
  std::function<void(const ChildEvent&)> observer{};
  Duration term_grace = ReapPlan{}.term_grace;  ///< of the reap that nobody asked for: abandon(), the program's end
  /// A process that exits with this code while it is being reaped was cut off, and did not end by itself.
  std::optional<int> cut_off_code{};
};

/// One process from its start until it has been reaped. The reaper owns it all that time, so it needs nobody else.
///
/// Whoever sees the process's end first, the reaper's thread or one that calls in, takes it away, under this lock. Lock
/// order: this one, the reaper's or a line reader's, a home's. Events are set without any.
class Child final : public Watched, public std::enable_shared_from_this<Child> {
  struct Private {};

 public:
  /// Throws std::system_error or std::invalid_argument; then there is no process, and nothing is left open.
  static std::shared_ptr<Child> spawn(const Command& command, SpawnExtras extras = {});

  Child(Private, Reaper& reaper, const Launch& launch, SpawnExtras& extras)
      : reaper_(reaper),
        observer_(std::move(extras.observer)),
        term_grace_(extras.term_grace),
        cut_off_code_(extras.cut_off_code),
        group_grace_(launch.group_grace()),
        readers_{launch.reader(1), launch.reader(2)} {}

  pid_t pid() const noexcept { return handle_.pid(); }
  bool running() const noexcept { return !exit_status(); }

  /// Set once it has been reaped.
  std::optional<ExitStatus> exit_status() const noexcept {
    if (!reaped_.load(std::memory_order_acquire)) return std::nullopt;
    return status_;
  }

  /// No-op once it has ended. Throws std::system_error if the signal is refused or there is no such signal.
  void signal(int signo);

  /// Begins at once, joins an earlier one and may only shorten it. What is due is sent from this thread.
  void reap(const ReapPlan& plan);

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
  KeptPidfd lend_end() noexcept;
  void take_back_end() noexcept {
    const Lock held(mutex_);
    lent_ = false;
  }
  /// It has ended, as whom that was lent to sees.
  void look_now() noexcept {
    if (!foreign()) drive(Lock(mutex_));
  }
  /// Somebody waits for its end: it is looked at from time to time even if the descriptors that tell of it are lost.
  void attend() noexcept {
    if (foreign()) return;
    Lock held(mutex_);
    if (!std::exchange(attended_, true)) drive(std::move(held));
  }

  /// Has it lines that its end may have to wait for?
  bool has_lines() const noexcept { return readers_[0] || readers_[1]; }

  /// In a forked copy of the program: nothing here is ours.
  bool foreign() const noexcept { return epoch_ != Reaper::epoch(); }

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

  void start(Launch& launch);
  void watch_end();
  void watch_again() noexcept;
  void drive(Lock lock) noexcept;
  bool look(Clock::time_point now) noexcept;
  void climb(Clock::time_point now) noexcept;
  void send(Rung rung) noexcept;
  void send_to_rest(Rung rung) noexcept;
  void tend_survivors(Clock::time_point now) noexcept;
  void look_at_group(Clock::time_point now) noexcept;
  void close_readers(bool rest) noexcept;
  void reap_now() noexcept;
  void tell(ChildEvent::Kind kind) noexcept {
    if (observer_ && untold_count_ < untold_.size()) untold_[untold_count_++] = {kind, Clock::now()};
  }
  bool pass_on() noexcept;

  inline void on_event(unsigned channel) noexcept override;
  void on_time() noexcept override { drive(Lock(mutex_)); }
  inline void check(bool anew) noexcept override;
  inline Clock::time_point at_exit() noexcept override;

  Reaper& reaper_;
  const unsigned epoch_ = Reaper::epoch();
  std::uint64_t id_ = 0;
  const std::function<void(const ChildEvent&)> observer_;
  const Duration term_grace_;
  const std::optional<int> cut_off_code_;
  const Duration group_grace_;
  const std::shared_ptr<AsyncEvent> ended_ = std::make_shared<AsyncEvent>();
  const std::shared_ptr<AsyncEvent> settled_ = std::make_shared<AsyncEvent>();
  const std::array<std::shared_ptr<LineReader>, 2> readers_;  // of stdout and stderr

  mutable std::mutex mutex_;
  ChildHandle handle_;
  ChildTerminal terminal_;
  Phase phase_ = Phase::running;
  Ladder ladder_;
  std::optional<Clock::time_point> reap_began_;
  Clock::time_point over_at_{};
  LeaderlessGroup group_{0};
  int watched_member_ = -1;
  bool cut_ = false;                          // by kill_leader()
  bool terminated_ = false, killed_ = false;  // by the ladder
  bool end_announced_ = false;                // the kernel said that it has ended
  Deadline look_again_;
  int group_looks_ = 0;
  std::error_code refused_;
  std::array<ChildEvent, 8> untold_{};  // of what the observer has not been told yet
  std::size_t untold_count_ = 0;
  bool told_end_ = false, told_over_ = false;
  bool lent_ = false;  // see lend_end()
  bool attended_ = false;
  bool has_thread_ = false;  // that waits for its end
  bool blind_ = false;       // nothing tells of its end but looking
  ExitStatus status_;
  std::atomic<bool> reaped_{false};  // status_ is final
  std::atomic<bool> over_{false};    // over_at_ is final
};

inline std::shared_ptr<Child> Child::spawn(const Command& command, SpawnExtras extras) {
  Reaper& reaper = Reaper::get();
  Launch launch(command, extras.descriptors, extras.env);
  const auto child = std::make_shared<Child>(Private{}, reaper, launch, extras);
  child->id_ = reaper.add(child);
  try {
    child->start(launch);
  } catch (...) {
    child->close_readers(false);
    reaper.remove(child->id_);
    throw;
  }
  return child;
}

// Under the lock all the time: the program may end, and ask for this child to be ended, at any moment.
inline void Child::start(Launch& launch) {
  const Lock held(mutex_);
  try {
    for (unsigned i = 0; i < 2; ++i) {
      if (!readers_[i]) continue;
      const auto watch = [this, i](int fd, bool on) noexcept {
        if (on && !foreign()) return reaper_.watch(fd, id_, i + 1, EPOLLIN);
        if (!foreign()) reaper_.unwatch(fd);
        return 0;
      };
      if (const int error = readers_[i]->start(watch)) throw_errno("cannot watch a process's output", error);
    }
    handle_.adopt(launch.run());
    terminal_ = launch.take_terminal();
    terminal_.hand_over(pid());
    watch_end();
    if (terminal_) reaper_.arm(id_, Clock::now() + ChildTerminal::between_looks);
  } catch (...) {
    terminal_.release(pid());
    phase_ = Phase::over;
    throw;
  }
}

inline void Child::watch_end() {
  // Once, lest a forked copy of the program that holds the pidfd open keeps it reporting for ever.
  if (handle_.open() && reaper_.watch(handle_.pidfd(), id_, end_channel, EPOLLIN | EPOLLONESHOT) == 0) return;
  handle_.close();
  // No pidfd to have: a thread that waits. If the child's status is stolen, waiting ends as well.
  const auto undo = [this] {
    handle_.send_group(SIGKILL);
    ChildHandle::await_end(pid());
    handle_.collect();
  };
  try {
    const BlockAllSignals blocked;
    std::thread([self = shared_from_this()] {
      ChildHandle::await_end(self->pid());
      self->on_event(end_channel);
    }).detach();
    has_thread_ = true;
  } catch (const std::system_error& error) {
    undo();
    throw_errno("there is neither a pidfd nor a thread to watch a new process with", error.code().value());
  } catch (...) {
    undo();
    throw;
  }
}

/// What told of its end and its output may be lost. The lock is held.
inline void Child::watch_again() noexcept {
  for (const auto& reader : readers_)
    if (reader) reader->watch_again();
  if (has_thread_) return;
  if (handle_.pidfd() < 0 || handle_.lost_pidfd()) {
    handle_.close();
    handle_.open();
  }
  blind_ = handle_.pidfd() < 0 || reaper_.watch(handle_.pidfd(), id_, end_channel, EPOLLIN | EPOLLONESHOT) != 0;
}

inline void Child::check(bool anew) noexcept {
  Lock held(mutex_);
  if (anew && phase_ == Phase::running) watch_again();
  if (anew) watched_member_ = -1;
  for (const auto& reader : readers_)
    if (reader) reader->check();
  drive(std::move(held));
}

inline void Child::signal(int signo) {
  if (foreign()) return;
  const Lock held(mutex_);
  if (phase_ != Phase::running) return;
  const int error = handle_.send(signo);
  if (error != 0 && error != ESRCH)
    throw_errno("cannot send " + signal_name(signo) + " to process " + std::to_string(pid()), error);
}

inline void Child::kill_leader() {
  if (foreign()) return;
  Lock held(mutex_);
  if (phase_ != Phase::running) return;
  cut_ = true;
  if (const int error = handle_.send(SIGKILL); error != 0 && error != ESRCH) {
    cut_ = false;
    throw_errno("cannot kill process " + std::to_string(pid()), error);
  }
}

inline void Child::reap(const ReapPlan& plan) {
  if (foreign()) return;
  Lock held(mutex_);
  if (phase_ == Phase::over) return;
  const auto now = Clock::now();
  if (!reap_began_) reap_began_ = now;
  attended_ = true;
  ladder_.join(plan, now);
  drive(std::move(held));
}

inline KeptPidfd Child::lend_end() noexcept {
  const Lock held(mutex_);
  if (lent_ || phase_ != Phase::running || handle_.pidfd() < 0 || handle_.lost_pidfd()) return KeptPidfd();
  KeptPidfd copy(UniqueFd(::fcntl(handle_.pidfd(), F_DUPFD_CLOEXEC, 3)), pid());
  lent_ = static_cast<bool>(copy);
  return copy;
}

inline void Child::abandon() noexcept {
  if (foreign() || over_at()) return;
  for (const auto& reader : readers_)
    if (reader) reader->silence();
  reap_now();
  const Lock held(mutex_);
  if (phase_ == Phase::running) terminal_.release(pid());
}

inline void Child::reap_now() noexcept {
  const Duration none = Duration::zero();
  reap({.patience = none, .term_grace = Reaper::ended() ? none : term_grace_});
}

inline Clock::time_point Child::at_exit() noexcept {
  reap_now();
  const Lock held(mutex_);
  return ladder_.last().value_or(Clock::now());
}

inline void Child::on_event(unsigned channel) noexcept {
  if (channel == end_channel) {
    Lock held(mutex_);
    end_announced_ = true;
    drive(std::move(held));
  } else if (channel == member_channel) {
    drive(Lock(mutex_));
  } else {
    const auto& reader = readers_[channel - 1];
    if (!reader->read_some()) reader->close();
    if (!reader->announced()) drive(Lock(mutex_));
  }
}

/// Does all that is to be done now. Comes here whenever something has happened, on whatever thread.
inline void Child::drive(Lock lock) noexcept {
  const auto now = Clock::now();
  look_again_.reset();
  if (phase_ == Phase::running) climb(now);
  if (phase_ == Phase::survivors) tend_survivors(now);
  if (phase_ == Phase::killed) look_at_group(now);
  const bool over = phase_ == Phase::over;
  if (!over) {
    if (attended_) look_again_ = earlier(look_again_, now + between_looks);
    reaper_.arm(id_, earlier(ladder_.next(), look_again_));
  }
  const auto self = shared_from_this();
  // What has been killed is gone within moments; those that wait for the process's end find it so.
  if ((phase_ == Phase::survivors || over) && !std::exchange(told_end_, true)) tell(ChildEvent::Kind::ended);
  if (over && !std::exchange(told_over_, true)) {
    over_at_ = Clock::now();
    over_.store(true, std::memory_order_release);
    tell(ChildEvent::Kind::group_over);
  }
  bool told = pass_on();
  const bool ended = told_end_;
  if (told && (ended || refused_)) {
    lock.unlock();
    told = (!ended || ended_->try_set()) && (!(over || refused_) || settled_->try_set());
    if (told && over) return reaper_.remove(id_);
    lock.lock();
  }
  if (!told) reaper_.arm(id_, earlier(earlier(ladder_.next(), look_again_), now + between_tries));
}

/// False if something could not be told for want of memory. The lock is held.
inline bool Child::pass_on() noexcept {
  bool all = true;
  for (const auto& reader : readers_)
    if (reader && !reader->announced()) all = false;
  while (all && untold_count_ != 0) {
    try {
      observer_(untold_[0]);
    } catch (...) {
      return false;
    }
    std::move(untold_.begin() + 1, untold_.end(), untold_.begin());
    --untold_count_;
  }
  return all;
}

inline void Child::climb(Clock::time_point now) noexcept {
  // Looked at once more before each step: it may have ended in time, and only we have not noticed.
  while (!look(now)) {
    const auto rung = ladder_.take_due(now);
    if (!rung) {
      // Announced, but there is nothing to be had yet: a debugger may come first, see ptrace(2).
      if (!end_announced_ && handle_.pidfd_was_lost()) watch_again();
      if (end_announced_ || blind_) look_again_ = now + std::chrono::milliseconds(20);
      if (!terminal_) return;
      terminal_.look(pid(), handle_.stopped());
      look_again_ = earlier(look_again_, now + ChildTerminal::between_looks);
      return;
    }
    send(*rung);
    if (!ladder_.next() || now < *ladder_.next()) return;
  }
}

/// True once it has ended; it has then been taken away.
inline bool Child::look(Clock::time_point now) noexcept {
  const ChildHandle::Look seen = handle_.look();
  if (seen.seen == ChildHandle::Look::Seen::running) return false;
  const bool ours = seen.seen == ChildHandle::Look::Seen::ended;
  terminal_.release(pid());
  if (ours) {
    const bool code_says_cut = reap_began_ && cut_off_code_ && seen.status.kind == ExitStatus::Kind::exited &&
                               seen.status.value == *cut_off_code_;
    const Ladder::End end = cut_ || code_says_cut ? Ladder::End::cut : Ladder::End::by_itself;
    const auto rung = ladder_.leader_ended(end, end == Ladder::End::cut ? term_grace_ : group_grace_, now);
    // While it is a zombie its id, and so its group's, can't be anybody else's.
    if (rung) send_to_rest(*rung);
    handle_.collect();
    status_ = seen.status;
    group_ = LeaderlessGroup(pid());
    phase_ = ladder_.taken(Rung::kill) ? Phase::killed : Phase::survivors;
  } else {
    phase_ = Phase::over;
  }
  handle_.close();
  close_readers(true);
  reaped_.store(true, std::memory_order_release);
  return true;
}

inline void Child::send(Rung rung) noexcept {
  if (rung == Rung::terminate) {
    const bool leads = ::getpgid(pid()) == pid();
    send_to_rest(rung);
    if (!leads) {  // it has left its group
      handle_.send(SIGTERM);
      handle_.send(SIGCONT);
    }
    terminated_ = true;
    tell(ChildEvent::Kind::terminate_sent);
    return;
  }
  handle_.send_group(SIGKILL);
  // By itself too: it may have left its group, and only this tells whether it is refused.
  const int error = handle_.send(SIGKILL);
  if (error != 0 && error != ESRCH) refused_.assign(error, std::system_category());
  killed_ = true;
  tell(ChildEvent::Kind::kill_sent);
}

/// While the leader lives or is a zombie.
inline void Child::send_to_rest(Rung rung) noexcept {
  if (rung == Rung::kill) {
    handle_.send_group(SIGKILL);
    return;
  }
  handle_.send_group(SIGTERM);
  handle_.send_group(SIGCONT);  // a stopped process sees SIGTERM only when it goes on
}

/// What is left of the group has been sent SIGTERM, and has time to act on that.
inline void Child::tend_survivors(Clock::time_point now) noexcept {
  if (!group_.hold_member()) {
    phase_ = Phase::over;
    return;
  }
  if (ladder_.take_due(now)) {
    group_.kill();
    killed_ = true;
    tell(ChildEvent::Kind::kill_sent);
    phase_ = Phase::killed;
    return;
  }
  if (group_.member() >= 0 && (group_.member() == watched_member_ ||
                               reaper_.watch(group_.member(), id_, member_channel, EPOLLIN | EPOLLONESHOT) == 0)) {
    watched_member_ = group_.member();
    return;
  }
  // Without pidfds: looked at again, less and less often.
  look_again_ = now + std::chrono::milliseconds(1 << std::min(group_looks_++, 7));
}

/// The group has been sent SIGKILL. Those of its processes that live wait only to be scheduled; wait for that, so that
/// what is told to be over is over.
inline void Child::look_at_group(Clock::time_point now) noexcept {
  const auto gone = [this] {
    if (!group_exists(pid())) return true;
    if (adopts_orphans()) {
      collect_group(pid());
      if (!group_exists(pid())) return true;
    }
    if (group_looks_ >= most_group_looks) return true;
    // A look around /proc only where the quick ones did not do.
    if (group_looks_ < 2 || group_has_living(pid())) return false;
    if (adopts_orphans()) collect_group(pid());  // those that have ended since the look above
    return true;
  };
  if (gone()) {
    phase_ = Phase::over;
    return;
  }
  look_again_ = now + std::chrono::milliseconds(1 << group_looks_++);
}

inline void Child::close_readers(bool rest) noexcept {
  for (const auto& reader : readers_) {
    if (!reader) continue;
    if (rest) reader->read_rest();
    reader->close();
  }
}

inline ReapReport Child::report() const {
  const Lock held(mutex_);
  ReapReport report{.exit = status_, .terminated = terminated_, .killed = killed_};
  for (const auto& reader : readers_) {
    if (!reader) continue;
    const LostLines lost = reader->lost();
    report.lost_lines += lost.lines;
    report.lost_bytes += lost.bytes;
  }
  if (reap_began_ && told_over_ && over_at_ > *reap_began_) report.elapsed = over_at_ - *reap_began_;
  return report;
}

inline std::error_code Child::refused() const {
  const Lock held(mutex_);
  return refused_;
}

}  // namespace drover::inline v1::detail
