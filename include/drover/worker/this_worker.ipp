#pragma once

#include <stdexcept>

#include <drover/worker/detail/shared_state.hpp>
#include <drover/worker/this_worker.hpp>

namespace drover { inline namespace v1 { namespace this_worker {

DROVER_INLINE const WorkerInfo& info() {
  const detail::WorkerState* const state = detail::state_of_this_worker.load();
  if (state == nullptr)
    throw std::logic_error("drover::this_worker in a process that is not a worker, or before drover::in_worker()");
  return state->environment.worker;
}

DROVER_INLINE std::size_t slot() { return info().slot; }
DROVER_INLINE const std::string& name() { return info().name; }
DROVER_INLINE const std::set<std::string>& tags() { return info().tags; }
DROVER_INLINE const std::map<std::string, std::string>& extra() { return info().extra; }

}}}  // namespace drover::v1::this_worker
