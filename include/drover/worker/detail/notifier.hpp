#pragma once

#include <thread>

#include <drover/os/signals.hpp>
#include <drover/worker/detail/state.hpp>

namespace drover::inline v1::detail {

/// A thread that stops std::stop_tokens. Stop callbacks are code of the user's and may block, so that neither the
/// control thread nor the main thread, which is busy with a routine, can run them.
inline void start_notifier(WorkerState& state) {
  const BlockAllSignals blocked;
  std::thread([&state] {
    for (bool all = false;;) {
      state.notifier_bell.take();
      while (const auto call = state.cancelled_sources.pop()) state.sources.stop(*call);
      // Those that are added later see the order themselves.
      if (all || (state.orders.load() & Order::cancel_calls) == 0) continue;
      all = true;
      state.sources.stop_all();
    }
  }).detach();
  state.has_notifier.store(true);
}

}  // namespace drover::inline v1::detail
