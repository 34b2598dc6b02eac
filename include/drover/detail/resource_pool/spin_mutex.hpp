#pragma once

#include <atomic>
#include <cstdint>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// A mutex for critical sections that are much shorter than a sleep. A thread that finds it locked tries again for a
/// while, and sleeps only if the owner seems to have lost its processor. With std::mutex both threads of a busy pool
/// spend their time in the kernel, waking each other.
class SpinMutex {
 public:
  SpinMutex() = default;
  SpinMutex(const SpinMutex&) = delete;
  SpinMutex& operator=(const SpinMutex&) = delete;

  void lock() noexcept {
    if (!try_lock()) wait();
  }

  bool try_lock() noexcept {
    auto expected = free;
    return state_.compare_exchange_strong(expected, locked, std::memory_order_acquire, std::memory_order_relaxed);
  }

  void unlock() noexcept {
    // Sequentially consistent: the store comes before notify_one() looks for threads that sleep.
    if (state_.exchange(free) == awaited) state_.notify_one();
  }

 private:
  static constexpr std::uint32_t free = 0, locked = 1, awaited = 2;  // awaited: locked, and a thread may sleep
  static constexpr int attempts = 100;

  [[gnu::noinline]] void wait() noexcept {
    for (int i = 0; i < attempts; ++i) {
      if (state_.load(std::memory_order_relaxed) == free && try_lock()) return;
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#endif
    }
    while (state_.exchange(awaited, std::memory_order_acquire) != free) state_.wait(awaited, std::memory_order_relaxed);
  }

  std::atomic<std::uint32_t> state_{free};
};

}}}}  // namespace drover::v1::detail::resource_pool
