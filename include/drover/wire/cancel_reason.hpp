#pragma once

#include <drover/detail/platform.hpp>

#include <cstdint>

namespace drover { inline namespace v1 {

/// Why a call was cancelled, see this_call::reason().
enum class CancelReason : std::uint8_t {
  none,        ///< it was not
  caller,      ///< the caller cancelled it, or does not wait any more
  deadline,    ///< its deadline has passed
  stop,        ///< the worker is being stopped, or a signal asked it to exit
  parent_died  ///< the parent has died, or cannot be reached any more
};

}}  // namespace drover::v1
