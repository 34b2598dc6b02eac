#pragma once

#include <drover/os/detail/program_exit.hpp>
#include <drover/os/detail/reaper_thread.hpp>

namespace drover { inline namespace v1 { namespace detail {

DROVER_INLINE ExitGuard::~ExitGuard() { ReaperThread::end_program(); }

}}}  // namespace drover::v1::detail
