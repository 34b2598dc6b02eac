#pragma once

#include <cstdlib>
#include <exception>
#include <new>
#include <string>
#include <utility>

#include <asio/co_spawn.hpp>

#include <drover/worker/detail/call_loop.hpp>
#include <drover/worker/detail/hook.hpp>

/// What the loop runs before its first call and after its last one.
namespace drover { inline namespace v1 { namespace detail {

inline void CallLoop::prepare() {
  if (hooks_.start.empty()) return;
  std::exception_ptr failure;
  bool ended = false;
  asio::co_spawn(context_, run_start_hooks(hooks_.start, state_.environment.worker), [&](std::exception_ptr thrown) {
    failure = std::move(thrown);
    ended = true;
    context_.stop();
  });
  while (!ended) {
    context_.restart();
    context_.run();
  }
  if (failure) std::rethrow_exception(failure);
}

/// A spare worker takes a slot. No call of its has begun, so nobody reads its environment at the same time but threads
/// that on_start() has started; getenv(3) says what they must not do.
inline void CallLoop::take_slot(const Frame& frame) {
  const auto slot = static_cast<std::size_t>(frame.header.id);
  if (state_.slot.load() != no_slot || slot == no_slot || state_.last_read.load() != 0)
    throw Error(Errc::protocol_error, "TAKE_SLOT for a worker that has a slot");
  const SlotVariables variables = decode_slot_variables(frame.body);
  for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
  ::setenv(slot_variable, std::to_string(slot).c_str(), 1);
  state_.slot.store(slot);
}

/// No call is in flight any more, and all results are sent.
inline void CallLoop::wind_up() {
  if (std::exchange(winding_up_, true)) return;
  if (hooks_.stop.empty()) return finish();
  state_.flags.fetch_or(WorkerFlag::calls_ended);
  state_.control_wakeup.notify();
  try {
    asio::co_spawn(context_, run_stop_hooks(hooks_.stop, state_.environment.worker),
                   [this](const std::exception_ptr&) { finish(); });
  } catch (const std::bad_alloc&) {
    finish();
  }
}

}}}  // namespace drover::v1::detail
