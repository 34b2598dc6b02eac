#pragma once

#include <stdexcept>

#include <drover/worker/detail/shared_state.hpp>
#include <drover/worker/this_worker.hpp>

namespace drover { inline namespace v1 {
namespace detail {

inline const WorkerState& state_of_this_process() {
  const WorkerState* const state = state_of_this_worker.load();
  if (state == nullptr)
    throw std::logic_error("drover::this_worker in a process that is not a worker, or before drover::in_worker()");
  return *state;
}

}  // namespace detail
namespace this_worker {

DROVER_INLINE const WorkerInfo& info() { return detail::state_of_this_process().environment.worker; }
DROVER_INLINE std::size_t slot() { return detail::state_of_this_process().slot.load(); }
DROVER_INLINE const std::string& name() { return info().name; }
DROVER_INLINE const std::set<std::string>& tags() { return info().tags; }
DROVER_INLINE const std::map<std::string, std::string>& extra() { return info().extra; }

}  // namespace this_worker
}}  // namespace drover::v1
