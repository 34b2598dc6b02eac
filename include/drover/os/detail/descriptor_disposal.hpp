#pragma once

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <pthread.h>
#include <span>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include <drover/detail/keep_loaded.hpp>
#include <drover/os/detail/fork_epoch.hpp>
#include <drover/os/fd.hpp>
#include <drover/os/signals.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Closes descriptors that an untrusted process has, or had, too. It may make close(2) block for as long as it likes: a
/// TCP socket lingers, a file is on a file system that it serves, a writer holds the lock of a pipe. So they are closed
/// on threads that have nothing else to do. Any thread may call it.
class DescriptorDisposal {
 public:
  /// Never blocks. Preserves errno. Each group has a thread of its own while one blocks, so that only its own group
  /// waits for it. Without memory or a thread, and when `most_threads` block, the descriptors stay open, which is less
  /// harmful than a blocked thread.
  static void close(std::span<const int> group) noexcept {
    if (group.empty()) return;
    const int saved = errno;
    try {
      get().add(Group(group.begin(), group.end()));
    } catch (...) {
    }
    errno = saved;
  }

 private:
  using Group = std::vector<int>;

  static constexpr std::size_t most_threads = 16;
  static constexpr std::chrono::seconds patience{1};  // of a thread without work

  DescriptorDisposal() = default;

  /// No lock: another thread may have held it when the program was forked. Never destroyed: the threads may outlive
  /// main().
  static DescriptorDisposal& get() {
    DescriptorDisposal* known = instance_.load(std::memory_order_acquire);
    if (known != nullptr && !known->epoch_.foreign()) return *known;
    auto made = std::unique_ptr<DescriptorDisposal>(new DescriptorDisposal);
    if (!instance_.compare_exchange_strong(known, made.get(), std::memory_order_acq_rel)) return *known;
    return *made.release();
  }

  void add(Group group) {
    const std::lock_guard held(mutex_);
    waiting_.push_back(std::move(group));
    if (idle_ >= waiting_.size()) return added_.notify_one();
    if (threads_ == most_threads) return;
    keep_library_loaded();
    const BlockAllSignals blocked;
    std::thread([this] { run(); }).detach();
    ++threads_;
  }

  void run() noexcept {
    ::pthread_setname_np(::pthread_self(), "drover-close");
    std::unique_lock held(mutex_);
    for (;;) {
      if (waiting_.empty()) {
        ++idle_;
        added_.wait_for(held, patience, [this] { return !waiting_.empty(); });
        --idle_;
        if (waiting_.empty()) break;
      }
      const Group group = std::move(waiting_.front());
      waiting_.pop_front();
      held.unlock();
      for (const int descriptor : group) ::close(descriptor);
      held.lock();
    }
    --threads_;
  }

  inline static std::atomic<DescriptorDisposal*> instance_{nullptr};

  const ForkEpoch epoch_;
  std::mutex mutex_;
  std::condition_variable added_;
  std::deque<Group> waiting_;
  std::size_t threads_ = 0;
  std::size_t idle_ = 0;  // threads that wait for a group
};

/// While it exists, whatever a UniqueFd closes on this thread is left to DescriptorDisposal: values that are being
/// decoded own descriptors of an untrusted process, and are destroyed if the message turns out to be malformed.
class CloseElsewhere {
 public:
  CloseElsewhere() noexcept : before_(std::exchange(close_instead, &close)) {}
  CloseElsewhere(const CloseElsewhere&) = delete;
  CloseElsewhere& operator=(const CloseElsewhere&) = delete;
  ~CloseElsewhere() { close_instead = before_; }

 private:
  static void close(int descriptor) noexcept { DescriptorDisposal::close({&descriptor, 1}); }

  CloseFunction* const before_;
};

}}}  // namespace drover::v1::detail
