#pragma once

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <unordered_map>
#include <utility>
#include <vector>

#include <drover/detail/pin.hpp>
#include <drover/os/fd.hpp>
#include <drover/os/signals.hpp>
#include <drover/timeout.hpp>

namespace drover::inline v1::detail {

/// What the reaper looks after.
class Watched {
 public:
  /// Something happened on the descriptor that is watched under this number.
  virtual void on_event(unsigned channel) noexcept = 0;
  /// The time it was armed with has come.
  virtual void on_time() noexcept = 0;
  /// The program ends. Returns when it will have done all it can.
  virtual Clock::time_point at_exit() noexcept = 0;

 protected:
  ~Watched() = default;
};

/// The one background thread of the program. It owns every process that has not been reaped yet, watches their ends and
/// keeps their time. Made on first use, never destroyed: whoever ends first, program or process, it is there.
///
/// It is a bare epoll loop. Other threads change the epoll set and the timer directly, so it is never woken for
/// nothing. All members from any thread; its lock comes after a process's.
class Reaper {
 public:
  /// Throws std::system_error if the thread can't be started.
  static Reaper& get() {
    if (Reaper* reaper = instance_.load(std::memory_order_acquire)) return *reaper;
    const std::lock_guard held(birth_);
    if (Reaper* reaper = instance_.load(std::memory_order_acquire)) return *reaper;
    pin_this_object();
    survive_forks();
    auto reaper = std::unique_ptr<Reaper>(new Reaper);
    {
      const BlockAllSignals blocked;
      std::thread([r = reaper.get()] { r->run(); }).detach();
    }
    finish_.store(finish_if_there, std::memory_order_release);
    instance_.store(reaper.get(), std::memory_order_release);
    return *reaper.release();
  }

  /// A number that changes when the program is forked: what has another one belongs to the original.
  static unsigned epoch() noexcept { return epoch_.load(std::memory_order_relaxed); }

  /// The program has ended as far as drover is concerned.
  static bool ended() noexcept { return stage_.load() == Stage::ended; }

  /// Throws std::system_error (ECANCELED) if the program is ending.
  std::uint64_t add(std::shared_ptr<Watched> watched) {
    const std::lock_guard held(mutex_);
    if (stage_.load() != Stage::running)
      throw std::system_error(ECANCELED, std::system_category(), "no process can be started while the program ends");
    const std::uint64_t id = ++last_id_;
    entries_.emplace(id, Entry{std::move(watched), std::nullopt});
    return id;
  }

  void remove(std::uint64_t id) noexcept {
    std::shared_ptr<Watched> removed;  // destroyed without the lock
    const std::lock_guard held(mutex_);
    const auto found = entries_.find(id);
    if (found == entries_.end()) return;
    removed = std::move(found->second.watched);
    entries_.erase(found);
    if (entries_.empty()) empty_.notify_all();
  }

  /// 0 or an errno. `events` as for epoll_ctl(2).
  int watch(int fd, std::uint64_t id, unsigned channel, std::uint32_t events) noexcept {
    epoll_event event{};
    event.events = events;
    event.data.u64 = id * channels + channel;
    return ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : errno;
  }

  /// Before the descriptor is closed: a forked copy of the program may hold it open, and it would stay in the set.
  void unwatch(int fd) noexcept { ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

  /// Sets, moves or (nullopt) removes the time at which on_time() is called.
  void arm(std::uint64_t id, Deadline at) noexcept {
    const std::lock_guard held(mutex_);
    const auto found = entries_.find(id);
    if (found == entries_.end()) return;
    found->second.at = at;
    if (at && (!timer_at_ || *at < *timer_at_)) set_timer(*at);
  }

  static constexpr unsigned channels = 4;  // of one Watched

 private:
  enum class Stage { running, ending, ended };
  struct Entry {
    std::shared_ptr<Watched> watched;
    Deadline at;
  };
  friend struct ExitGuard;

  Reaper() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
    if (!epoll_) throw_errno("cannot make an epoll instance");
    epoll_ = above_stdio(std::move(epoll_));
    timer_.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!timer_) throw_errno("cannot make a timer");
    timer_ = above_stdio(std::move(timer_));
    if (const int error = watch(timer_.get(), 0, 0, EPOLLIN)) throw_errno("cannot watch a timer", error);
  }

  void run() noexcept {
    ::pthread_setname_np(::pthread_self(), "drover-reaper");
    for (;;) {
      epoll_event events[32];
      const int count = ::epoll_wait(epoll_.get(), events, std::size(events), -1);
      if (count < 0 && errno != EINTR) look_around();
      for (int i = 0; i < count; ++i) {
        const std::uint64_t id = events[i].data.u64 / channels;
        if (id == 0)
          on_timer();
        else if (const auto watched = find(id))
          watched->on_event(static_cast<unsigned>(events[i].data.u64 % channels));
      }
    }
  }

  // The program has closed descriptors that are not its own, ours among them: time is all that is left to go by.
  void look_around() noexcept {
    ::usleep(20'000);
    std::uint64_t done = 0;
    while (const auto watched = after(done)) watched->on_time();
  }

  std::shared_ptr<Watched> find(std::uint64_t id) noexcept {
    const std::lock_guard held(mutex_);
    const auto found = entries_.find(id);
    return found == entries_.end() ? nullptr : found->second.watched;
  }

  void on_timer() noexcept {
    std::uint64_t expirations = 0;
    if (::read(timer_.get(), &expirations, sizeof expirations) < 0) return;
    while (const auto due = take_due()) due->on_time();
  }

  // The first that is due; if there is none the timer is set for the one that comes next.
  std::shared_ptr<Watched> take_due() noexcept {
    const std::lock_guard held(mutex_);
    const auto now = Clock::now();
    timer_at_.reset();
    Deadline next;
    for (auto& [id, entry] : entries_) {
      if (entry.at && *entry.at <= now) {
        entry.at.reset();
        return entry.watched;
      }
      next = earlier(next, entry.at);
    }
    if (next) set_timer(*next);
    return nullptr;
  }

  // With the lock held. steady_clock is CLOCK_MONOTONIC.
  void set_timer(Clock::time_point at) noexcept {
    const std::chrono::nanoseconds since_boot = at.time_since_epoch();
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since_boot);
    itimerspec when{};
    when.it_value.tv_sec = seconds.count();
    when.it_value.tv_nsec = (since_boot - seconds).count();
    ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &when, nullptr);
    timer_at_ = at;
  }

  // The exit hook: what still runs is brought down, and waited for within its bound. By a pointer, or else every
  // translation unit that includes this would have the reaper compiled into it, used or not.
  static void end_program() noexcept {
    stage_.store(Stage::ending);
    if (const auto finish = finish_.load(std::memory_order_acquire)) finish();
    stage_.store(Stage::ended);
  }
  static void finish_if_there() noexcept {
    if (Reaper* reaper = instance_.load(std::memory_order_acquire)) reaper->finish();
  }

  void finish() noexcept {
    auto bound = Clock::now();
    std::uint64_t done = 0;
    while (const auto left = after(done)) bound = std::max(bound, left->at_exit());
    std::unique_lock held(mutex_);
    empty_.wait_until(held, bound + std::chrono::seconds(1), [this] { return entries_.empty(); });
  }

  // One by one in order of their numbers: this allocates nothing, and new ones can't come any more.
  std::shared_ptr<Watched> after(std::uint64_t& done) noexcept {
    const std::lock_guard held(mutex_);
    const Entry* first = nullptr;
    std::uint64_t lowest = UINT64_MAX;
    for (const auto& [id, entry] : entries_)
      if (id > done && id < lowest) lowest = id, first = &entry;
    if (first == nullptr) return nullptr;
    done = lowest;
    return first->watched;
  }

  // A forked copy has no reaper thread and none of the processes are its children; it starts afresh. Held over the
  // fork, so that the copy finds the lock in a known state.
  static void survive_forks() {
    static const int result = ::pthread_atfork([] { birth_.lock(); }, [] { birth_.unlock(); },
                                               [] {
                                                 epoch_.fetch_add(1, std::memory_order_relaxed);
                                                 instance_.store(nullptr, std::memory_order_release);
                                                 birth_.unlock();
                                               });
    if (result != 0) throw_errno("cannot prepare for forks", result);
  }

  inline static std::mutex birth_;
  inline static std::atomic<Reaper*> instance_{nullptr};
  inline static std::atomic<void (*)() noexcept> finish_{nullptr};
  inline static std::atomic<unsigned> epoch_{0};
  inline static std::atomic<Stage> stage_{Stage::running};

  UniqueFd epoll_;
  UniqueFd timer_;
  std::mutex mutex_;
  std::condition_variable empty_;
  std::unordered_map<std::uint64_t, Entry> entries_;
  std::uint64_t last_id_ = 0;
  Deadline timer_at_;
};

}  // namespace drover::inline v1::detail
