#pragma once

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <pthread.h>
#include <sys/epoll.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

#include <drover/detail/deadlines.hpp>
#include <drover/detail/keep_loaded.hpp>
#include <drover/os/detail/event_set.hpp>
#include <drover/os/detail/fork_epoch.hpp>
#include <drover/os/detail/program_exit.hpp>
#include <drover/os/fd.hpp>
#include <drover/os/signals.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// An object that the reaper thread looks after.
class ReaperClient {
 public:
  /// An event occurred on the descriptor that is watched under this channel.
  virtual void on_event(unsigned channel) noexcept = 0;
  /// The time set by arm() has come.
  virtual void on_time() noexcept = 0;
  /// Called at intervals. `anew`: descriptors were lost, and everything has to be watched again.
  virtual void check(bool anew) noexcept { (void)anew; }
  /// The program ends. Returns the time by which this client will have done all it can.
  virtual Clock::time_point at_exit() noexcept = 0;

 protected:
  ~ReaperClient() = default;
};

/// The one thread that watches the program's processes. It owns every process that has not been reaped yet, watches for
/// the exits and keeps the times. Created on first use and never destroyed, so it exists whether the program or a
/// process ends first.
///
/// It is a plain epoll loop. Other threads change the epoll set directly, and wake the thread only for a time that is
/// earlier than the one it waits for. Any thread may call any member. Its lock comes after a child's.
///
/// The program may close any of drover's descriptors at any moment. The thread keeps time without a descriptor, so
/// every signal that is due is sent. Every operation checks the epoll set. If the set is lost, the operation creates a
/// new one, with a thread that watches everything anew; the old thread ends when it next wakes. The loss of a set that
/// no operation uses is not noticed, so everything that is watched is also checked once a minute.
class ReaperThread {
 public:
  /// Throws std::system_error if the thread cannot be started.
  static ReaperThread& get() {
    if (ReaperThread* reaper = instance_.load(std::memory_order_acquire)) return *reaper;
    const std::lock_guard held(birth_);
    if (ReaperThread* reaper = instance_.load(std::memory_order_acquire)) return *reaper;
    keep_library_loaded();
    survive_forks();
    auto reaper = std::unique_ptr<ReaperThread>(new ReaperThread);
    reaper->start(false);
    ProgramExit::set_hook(finish_if_there);
    instance_.store(reaper.get(), std::memory_order_release);
    return *reaper.release();
  }

  /// Ends all processes as the end of the program does, but new ones can be started afterwards. True if none is left.
  static bool end_processes() noexcept {
    ReaperThread* reaper = nullptr;
    {
      const std::lock_guard held(birth_);
      reaper = instance_.load(std::memory_order_acquire);
      if (!reaper) return true;
      ProgramExit::begin_clearing();
    }
    const bool none_left = reaper->finish();
    const std::lock_guard held(birth_);
    ProgramExit::end_clearing();
    return none_left;
  }

  /// Throws std::system_error (ECANCELED) while the program ends or is being replaced.
  std::uint64_t add(std::shared_ptr<ReaperClient> watched) {
    const std::lock_guard held(mutex_);
    if (!ProgramExit::processes_may_start())
      throw std::system_error(ECANCELED, std::system_category(),
                              "no process can be started while the program ends or is replaced");
    times_.reserve(entries_.size() + 1);  // arm() must not fail
    const std::uint64_t id = ++last_id_;
    entries_.emplace(id, Entry{std::move(watched), {}});
    return id;
  }

  void remove(std::uint64_t id) noexcept {
    std::shared_ptr<ReaperClient> removed;  // destroyed without the lock
    const std::lock_guard held(mutex_);
    const auto found = entries_.find(id);
    if (found == entries_.end()) return;
    times_.remove(found->second);
    removed = std::move(found->second.watched);
    entries_.erase(found);
    if (entries_.empty()) empty_.notify_all();
  }

  /// 0 or an errno. `events` as for epoll_ctl(2).
  int watch(int fd, std::uint64_t id, unsigned channel, std::uint32_t events) noexcept {
    const std::lock_guard held(mutex_);
    renew_if_lost();
    return set_->add(fd, id * channels + channel, events);
  }

  /// Call it before the descriptor is closed: a forked copy of the program may hold it open, and it would stay in the
  /// set.
  void unwatch(int fd) noexcept {
    const std::lock_guard held(mutex_);
    if (set_->ours()) set_->remove(fd);
  }

  /// Sets, moves or (nullopt) removes the time at which on_time() is called. The call is late by at most a thousandth
  /// of the remaining time, see epoll_wait(2).
  void arm(std::uint64_t id, Deadline at) noexcept {
    std::unique_lock held(mutex_);
    const auto found = entries_.find(id);
    if (found == entries_.end()) return;
    if (at)
      times_.add(found->second, *at);
    else
      times_.remove(found->second);
    next_at_ = earlier(next_at_, at);
    if (at && *at < wakes_at_)
      wake(held);
    else
      renew_if_lost();
  }

  static constexpr unsigned channels = 4;  // of one ReaperClient

 private:
  struct Entry {
    std::shared_ptr<ReaperClient> watched;
    DeadlineHook deadline;
  };

  ReaperThread() : set_(std::make_shared<EventSet>()) {}

  // Starts the thread for the present set. Throws std::system_error.
  void start(bool anew) try {
    const BlockAllSignals blocked;
    // Moved, because a set that run() replaces must not stay open as long as the thread lives.
    std::thread([this, set = set_, anew]() mutable { run(std::move(set), anew); }).detach();
  } catch (const std::system_error& error) {
    throw_errno("drover's background thread, which watches its processes, cannot be started", error.code().value());
  }

  // Returns only when the thread has woken, because its wakeup descriptor may be closed before that. A thread that does
  // not wake is replaced.
  void wake(std::unique_lock<std::mutex>& held) noexcept {
    wakes_at_ = Clock::time_point::min();
    const auto set = set_;
    const auto before = wake_ups_;
    bool step = set->notify();
    for (int i = 0; step && i < 100; ++i) {
      woken_.wait_for(held, std::chrono::milliseconds(1));
      if (set != set_ || wake_ups_ != before) return;
      step = set->ours();
    }
    renew();
  }

  void renew_if_lost() noexcept {
    if (!set_->ours()) renew();
  }

  // With the lock held. Without memory or threads nothing changes, and the present thread renews the set when it wakes.
  // Without descriptors the new thread begins blind, because the old one could not be woken in time.
  void renew() noexcept {
    const auto before = set_;
    try {
      set_ = new_set();
      if (before->blind() && set_->blind()) {  // its thread tries again at intervals
        set_ = before;
        return;
      }
      start(true);
    } catch (...) {
      set_ = before;
      return;
    }
    before->notify();  // if that still works, the old thread ends at once
    wakes_at_ = Clock::time_point::min();
  }

  static std::shared_ptr<EventSet> new_set() {
    try {
      return std::make_shared<EventSet>();
    } catch (const std::system_error&) {
      return std::make_shared<EventSet>(EventSet::Blind{});
    }
  }

  void run(std::shared_ptr<EventSet> set, bool anew) noexcept {
    ::pthread_setname_np(::pthread_self(), "drover-reaper");
    for (auto beat = Clock::now() + between_checks;;) {
      if (std::exchange(anew, false)) check_all(true);
      Clock::time_point until = beat;
      switch (before_wait(set, until)) {
        case Next::end: return;
        case Next::blind:  // no descriptors left: only the times can be kept
          ::usleep(20'000);
          [[fallthrough]];
        case Next::again: anew = true; break;
        case Next::wait: anew = !wait(*set, until);
      }
      const auto now = Clock::now();
      while (const auto due = take_due(now)) due->on_time();
      if (now < beat) continue;
      check_all(false);
      beat = now + between_checks;
    }
  }

  enum class Next { wait, again, blind, end };

  Next before_wait(std::shared_ptr<EventSet>& set, Clock::time_point& until) noexcept {
    const std::lock_guard held(mutex_);
    if (set != set_) return Next::end;
    if (!set->ours()) {
      try {
        set_ = set = std::make_shared<EventSet>();
        return Next::again;
      } catch (...) {
        return Next::blind;
      }
    }
    wakes_at_ = until = *earlier(next_at_, until);
    return Next::wait;
  }

  // False on an error.
  bool wait(EventSet& set, Clock::time_point until) noexcept {
    epoll_event events[32];
    const int count = set.wait(events, until);
    const int error = count < 0 ? errno : 0;
    {
      const std::lock_guard held(mutex_);
      if (&set == set_.get()) {
        wakes_at_ = Clock::time_point::min();
        ++wake_ups_;
        woken_.notify_all();
      }
      for (int i = 0; i < count; ++i)
        if (events[i].data.u64 == EventSet::wake_up_event) set.consume();
    }
    for (int i = 0; i < count; ++i) {
      if (events[i].data.u64 == EventSet::wake_up_event) continue;
      if (const auto watched = find(events[i].data.u64 / channels))
        watched->on_event(static_cast<unsigned>(events[i].data.u64 % channels));
    }
    if (error == 0 || error == EINTR) return true;
    ::usleep(20'000);
    return false;
  }

  std::shared_ptr<ReaperClient> find(std::uint64_t id) noexcept {
    const std::lock_guard held(mutex_);
    const auto found = entries_.find(id);
    return found == entries_.end() ? nullptr : found->second.watched;
  }

  // The client that is due first, if one is due.
  std::shared_ptr<ReaperClient> take_due(Clock::time_point now) noexcept {
    const std::lock_guard held(mutex_);
    if (!next_at_ || now < *next_at_) return nullptr;
    if (times_.empty() || now < times_.first().deadline.at) {
      next_at_ = times_.next();
      return nullptr;
    }
    Entry& first = times_.first();
    times_.remove(first);
    return first.watched;
  }

  void check_all(bool anew) noexcept {
    std::uint64_t done = 0;
    while (const auto watched = after(done)) watched->check(anew);
  }

  // Called by the exit hook. A forked copy that has started nothing has no reaper thread.
  static void finish_if_there() noexcept {
    if (ReaperThread* reaper = instance_.load(std::memory_order_acquire)) reaper->finish();
  }

  // True if no process is left.
  bool finish() noexcept {
    auto bound = Clock::now();
    std::uint64_t done = 0;
    while (const auto left = after(done)) bound = std::max(bound, left->at_exit());
    std::unique_lock held(mutex_);
    return empty_.wait_until(held, bound + std::chrono::seconds(1), [this] { return entries_.empty(); });
  }

  // The clients one by one, in order of their numbers.
  std::shared_ptr<ReaperClient> after(std::uint64_t& done) noexcept {
    const std::lock_guard held(mutex_);
    const auto next = entries_.upper_bound(done);
    if (next == entries_.end()) return nullptr;
    done = next->first;
    return next->second.watched;
  }

  // A forked copy has no reaper thread, and none of the processes are its children, so it starts afresh. The lock is
  // held over the fork, so that the copy finds it in a known state.
  static void survive_forks() {
    static const int result = ::pthread_atfork([] { birth_.lock(); }, [] { birth_.unlock(); },
                                               [] {
                                                 ForkEpoch::begin_next();
                                                 ProgramExit::forget_clearing();
                                                 instance_.store(nullptr, std::memory_order_release);
                                                 birth_.unlock();
                                               });
    if (result != 0) throw_errno("cannot prepare for forks", result);
  }

  inline static std::mutex birth_;
  inline static std::atomic<ReaperThread*> instance_{nullptr};

  static constexpr auto between_checks = std::chrono::seconds(60);

  std::mutex mutex_;
  std::condition_variable empty_, woken_;
  std::shared_ptr<EventSet> set_;
  std::uint64_t wake_ups_ = 0;  // of the present set's thread
  std::map<std::uint64_t, Entry> entries_;
  std::uint64_t last_id_ = 0;
  // The earliest time of an entry, or of one that has been removed. The thread then wakes once in vain, but nobody has
  // to wake it for each process that is reaped in the meantime.
  Deadline next_at_;
  Deadlines<Entry> times_;                                 // of the entries that have one
  Clock::time_point wakes_at_ = Clock::time_point::min();  // the thread does not sleep longer
};

}}}  // namespace drover::v1::detail
