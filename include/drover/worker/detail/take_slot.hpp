#pragma once

#include <cstddef>
#include <cstdlib>
#include <string>

#include <drover/error.hpp>
#include <drover/wire/frame.hpp>
#include <drover/wire/protocol.hpp>
#include <drover/worker/detail/shared_state.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// TAKE_SLOT: a spare worker takes a slot. No call of its has begun, so nobody reads its environment at the same time
/// but threads that on_start() has started; getenv(3) says what they must not do. Throws Error with protocol_error.
inline void take_slot(WorkerState& state, const Frame& frame) {
  const auto slot = static_cast<std::size_t>(frame.header.id);
  if (state.slot.load() != no_slot || slot == no_slot || state.last_read.load() != 0)
    throw Error(Errc::protocol_error, "TAKE_SLOT for a worker that has a slot");
  const SlotVariables variables = decode_slot_variables(frame.body);
  for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
  ::setenv(slot_variable, std::to_string(slot).c_str(), 1);
  state.slot.store(slot);
}

}}}  // namespace drover::v1::detail
