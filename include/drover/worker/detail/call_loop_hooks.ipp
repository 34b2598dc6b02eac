#pragma once

#include <exception>
#include <new>
#include <utility>

#include <drover/detail/context/spawn.hpp>
#include <drover/worker/detail/call_loop.hpp>
#include <drover/worker/detail/run_hooks.hpp>

/// What the loop runs before its first call and after its last one.
namespace drover { inline namespace v1 { namespace detail {

inline void CallLoop::prepare() {
  if (!hooks_.start.empty()) run_to_end(context_, run_start_hooks(hooks_.start, state_.environment.worker));
}

/// No call is in flight any more, and all results are sent.
inline void CallLoop::wind_up() {
  if (std::exchange(winding_up_, true)) return;
  if (hooks_.stop.empty()) return finish();
  state_.flags.fetch_or(WorkerFlag::calls_ended);
  state_.control_wakeup.notify();
  try {
    waits_.share_context();
    spawn(context_.get_executor(), run_stop_hooks(hooks_.stop, state_.environment.worker),
          [this](const std::exception_ptr&) { finish(); });
  } catch (const std::bad_alloc&) {
    finish();
  }
}

}}}  // namespace drover::v1::detail
