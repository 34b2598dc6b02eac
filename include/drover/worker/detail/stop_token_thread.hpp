#pragma once

#include <thread>

#include <drover/os/signals.hpp>
#include <drover/worker/detail/shared_state.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Starts the stop-token thread, which stops std::stop_tokens. Stop callbacks are user code and may block. So neither
/// the control thread nor the main thread, which is busy with a routine, can run them.
inline void start_stop_token_thread(WorkerState& state) {
  sigset_t usual;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &usual);
  const BlockAllSignals blocked;
  std::thread([&state, usual] {
    sigset_t all_blocked;
    for (bool all = false;;) {
      state.stop_token_wakeup.consume();
      // Processes and threads that a callback starts get the signal mask that they would get from a routine.
      ::pthread_sigmask(SIG_SETMASK, &usual, &all_blocked);
      while (const auto call = state.cancelled_sources.pop()) state.sources.stop(*call);
      // Calls that are added later check the flag themselves.
      if (!all && (state.flags.load() & WorkerFlag::cancel_calls) != 0) {
        all = true;
        state.sources.stop_all();
      }
      ::pthread_sigmask(SIG_SETMASK, &all_blocked, nullptr);
    }
  }).detach();
  state.has_stop_token_thread.store(true);
}

}}}  // namespace drover::v1::detail
