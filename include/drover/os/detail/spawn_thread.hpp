#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <pthread.h>
#include <sched.h>
#include <system_error>
#include <thread>
#include <utility>

#include <drover/detail/keep_loaded.hpp>
#include <drover/os/detail/fork_epoch.hpp>
#include <drover/os/signals.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// A thread of the program on which a pool replaces its workers: a spawn blocks its thread for 0.1 to 1 ms, and the
/// threads of the pool's context have calls to run. Created on first use and never destroyed, because the kernel
/// signals a process when the thread that spawned it ends (PR_SET_PDEATHSIG). It sleeps while there is nothing to
/// spawn.
class SpawnThread {
 public:
  /// Calls `spawn` there, which must not throw, after those before it. A process inherits the cores of its thread, so
  /// the thread takes those of the calling one. Throws std::bad_alloc, and std::system_error if it can't be started.
  static void run(std::function<void()> spawn) { get().add({std::move(spawn), cores_of_this_thread()}); }

 private:
  struct Task {
    std::function<void()> spawn;
    std::optional<cpu_set_t> cores;
  };

  /// No lock: another thread may have held it when the program was forked.
  static SpawnThread& get() {
    SpawnThread* known = instance_.load(std::memory_order_acquire);
    if (known != nullptr && !known->epoch_.foreign()) return *known;
    auto made = std::unique_ptr<SpawnThread>(new SpawnThread);
    if (!instance_.compare_exchange_strong(known, made.get(), std::memory_order_acq_rel)) return *known;
    return *made.release();
  }

  static std::optional<cpu_set_t> cores_of_this_thread() noexcept {
    cpu_set_t cores;
    if (::sched_getaffinity(0, sizeof cores, &cores) != 0) return std::nullopt;  // more cores than fit
    return cores;
  }

  void add(Task task) {
    {
      const std::lock_guard held(mutex_);
      start();
      tasks_.push_back(std::move(task));
    }
    added_.notify_one();
  }

  void start() {
    if (started_) return;
    keep_library_loaded();
    const BlockAllSignals blocked;
    std::thread([this] { run_tasks(); }).detach();
    started_ = true;
  }

  [[noreturn]] void run_tasks() {
    ::pthread_setname_np(::pthread_self(), "drover-spawn");
    for (;;) {
      const Task task = next();
      if (task.cores) ::sched_setaffinity(0, sizeof *task.cores, &*task.cores);
      task.spawn();
    }
  }
  Task next() {
    std::unique_lock held(mutex_);
    added_.wait(held, [this] { return !tasks_.empty(); });
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    return task;
  }

  inline static std::atomic<SpawnThread*> instance_{nullptr};

  const ForkEpoch epoch_;
  std::mutex mutex_;
  std::condition_variable added_;
  std::deque<Task> tasks_;
  bool started_ = false;
};

}}}  // namespace drover::v1::detail
