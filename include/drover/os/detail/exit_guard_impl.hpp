#pragma once

#include <drover/os/detail/exit_guard.hpp>
#include <drover/os/detail/reaper.hpp>

namespace drover { inline namespace v1 { namespace detail {

DROVER_INLINE ExitGuard::~ExitGuard() { Reaper::end_program(); }

}}}  // namespace drover::v1::detail
