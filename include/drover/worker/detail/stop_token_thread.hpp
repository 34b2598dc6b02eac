#pragma once

#include <thread>

#include <drover/os/signals.hpp>
#include <drover/worker/detail/shared_state.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// A thread that stops std::stop_tokens. Stop callbacks are code of the user's and may block, so that neither the
/// control thread nor the main thread, which is busy with a routine, can run them.
inline void start_notifier(WorkerState& state) {
  sigset_t usual;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &usual);
  const BlockAllSignals blocked;
  std::thread([&state, usual] {
    sigset_t all_blocked;
    for (bool all = false;;) {
      state.notifier_bell.consume();
      // What a callback spawns gets the mask that it would get from a routine.
      ::pthread_sigmask(SIG_SETMASK, &usual, &all_blocked);
      while (const auto call = state.cancelled_sources.pop()) state.sources.stop(*call);
      // Those that are added later see the order themselves.
      if (!all && (state.flags.load() & WorkerFlag::cancel_calls) != 0) {
        all = true;
        state.sources.stop_all();
      }
      ::pthread_sigmask(SIG_SETMASK, &all_blocked, nullptr);
    }
  }).detach();
  state.has_notifier.store(true);
}

}}}  // namespace drover::v1::detail
