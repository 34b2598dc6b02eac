#pragma once

#include <drover/os/detail/program_exit.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Ends the processes that still run and waits for them within the bound. Calls through a pointer, because otherwise
/// every translation unit that includes this file would compile the reaper thread, used or not.
DROVER_INLINE ExitGuard::~ExitGuard() {
  ProgramExit::stage_.store(ProgramExit::Stage::ending);
  if (const auto end_processes = ProgramExit::end_processes_.load(std::memory_order_acquire)) end_processes();
  ProgramExit::stage_.store(ProgramExit::Stage::over);
}

}}}  // namespace drover::v1::detail
