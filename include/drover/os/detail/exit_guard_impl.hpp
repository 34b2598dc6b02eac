#pragma once

#include <drover/os/detail/exit_guard.hpp>
#include <drover/os/detail/reaper.hpp>

namespace drover::inline v1::detail {

DROVER_INLINE ExitGuard::~ExitGuard() { Reaper::end_program(); }

}  // namespace drover::inline v1::detail
