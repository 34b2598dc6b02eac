#pragma once

#include <drover/detail/platform.hpp>

#include <pthread.h>
#include <signal.h>

/// Signals and threads.
namespace drover { inline namespace v1 { namespace detail {

/// All signals except the two that glibc reserves (32 and 33).
inline sigset_t all_signals() noexcept {
  sigset_t set;
  ::sigfillset(&set);
  return set;
}

/// A thread started in its scope has every signal blocked from its first instruction, so that the program's handlers
/// never run on it. Restores the caller's mask.
class BlockAllSignals {
 public:
  BlockAllSignals() noexcept {
    const sigset_t all = all_signals();
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockAllSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockAllSignals(const BlockAllSignals&) = delete;
  BlockAllSignals& operator=(const BlockAllSignals&) = delete;

 private:
  sigset_t before_;
};

}}}  // namespace drover::v1::detail
