#pragma once

#include <drover/os/detail/reaper_thread.hpp>
#include <drover/os/exec.hpp>

namespace drover { inline namespace v1 {

DROVER_INLINE bool prepare_for_exec() noexcept { return detail::ReaperThread::end_processes(); }

}}  // namespace drover::v1
