#pragma once

#include <drover/detail/platform.hpp>

#include <drover/detail/config.hpp>

/// For a program that replaces itself.
namespace drover { inline namespace v1 {

/// Ends every process that drover has started in this program, before execve(2) replaces it: as at a normal end of the
/// program (SIGTERM, SIGKILL after term_grace). Blocks until the processes have exited, but no longer than the longest
/// term_grace + 1 s. Returns true if none is left; false if one could not be killed, or not in time.
///
/// No destructor runs at an exec. Without this call the new program inherits the processes. A worker exits by itself,
/// because its sockets close (later if it is suspended or has not reached serve() yet), and stays a zombie until the
/// new program waits for it. A plain Process runs on without an owner.
///
/// If the exec fails, drover works as before and new processes can be started. A pool replaces workers that exit in
/// this way as after a crash, as soon as its executor runs. So stop pools first, or call this and execve() where
/// nothing else runs. Does nothing in a forked copy of the program, because the processes belong to the original.
///
/// *Errors:* until this call returns, Process::spawn() and the start of a worker fail with ECANCELED.
/// *Threads:* any.
bool prepare_for_exec() noexcept;

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/os/exec.ipp>
#endif
