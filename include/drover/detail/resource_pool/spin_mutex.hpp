#pragma once

#include <atomic>
#include <chrono>
#include <thread>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// A mutex for critical sections that are much shorter than a switch of threads. A thread that finds it locked tries
/// again until it succeeds. With std::mutex both threads of a busy pool spend their time in the kernel, waking each
/// other; and to unlock this one is a plain store.
class SpinMutex {
 public:
  SpinMutex() = default;
  SpinMutex(const SpinMutex&) = delete;
  SpinMutex& operator=(const SpinMutex&) = delete;

  void lock() noexcept {
    if (!try_lock()) wait();
  }
  bool try_lock() noexcept { return !locked_.exchange(true, std::memory_order_acquire); }
  void unlock() noexcept { locked_.store(false, std::memory_order_release); }

 private:
  /// The owner is about to unlock, or else has lost its processor. To sleep lets owners of any priority run.
  [[gnu::noinline]] void wait() noexcept {
    for (int attempt = 0;; ++attempt) {
      if (!locked_.load(std::memory_order_relaxed) && try_lock()) return;
      if (attempt < 100)
        pause();
      else if (attempt < 110)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  static void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }

  std::atomic<bool> locked_{false};
};

}}}}  // namespace drover::v1::detail::resource_pool
