#pragma once

#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// What the calls that a routine makes need to know of the call that it runs for.
struct CurrentCall {
  Deadline deadline;
};

/// The call whose routine runs on this thread; null where none does. The worker's side sets it (RunningCall), the
/// parent's side reads it when a call begins.
inline constinit thread_local CurrentCall* current_call = nullptr;

}}}  // namespace drover::v1::detail
