#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <string>

#include <drover/error.hpp>
#include <drover/wire/frame.hpp>
#include <drover/wire/protocol.hpp>
#include <drover/worker/detail/shared_state.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// TAKE_SLOT: a spare worker takes a slot. No call of its has begun, so nobody reads its environment at the same time
/// but threads that on_start() has started; see PoolOptions::spares. Throws Error: without its variables the worker is
/// of no use there.
inline void take_slot(WorkerState& state, const Frame& frame) {
  const auto slot = static_cast<std::size_t>(frame.header.id);
  if (state.slot.load() != no_slot || slot == no_slot || state.last_read.load() != 0)
    throw Error(Errc::protocol_error, "TAKE_SLOT for a worker that has a slot");
  try {
    SlotVariables variables = decode_slot_variables(frame.body);
    variables[slot_variable] = std::to_string(slot);
    for (const auto& [name, value] : variables)
      if (::setenv(name.c_str(), value.c_str(), 1) != 0) throw_errno("cannot set a variable", errno);
  } catch (const std::exception& error) {
    throw Error(Errc::protocol_error, std::string("TAKE_SLOT: ") + error.what());
  }
  state.slot.store(slot);
}

}}}  // namespace drover::v1::detail
