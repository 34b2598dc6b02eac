#pragma once

#include <drover/detail/platform.hpp>

#include <drover/detail/config.hpp>

/// For a program that replaces itself.
namespace drover { inline namespace v1 {

/// Call it before execve(2) replaces the program: brings every process that drover has started in it to its end, as a
/// normal end of the program does (SIGTERM, SIGKILL after term_grace), and blocks until they are gone, but no longer
/// than the longest term_grace + 1 s. Returns true if none is left; false if one could not be killed, or not in time.
///
/// No destructor runs for an exec. Without this call the new program inherits the processes: a worker exits by itself,
/// because its sockets close (one that is stopped, or has not reached serve() yet, only later), and stays a zombie
/// until the new program waits for it; a plain Process runs on, and nothing owns it.
///
/// If the exec fails drover works as before and new processes can be started; until this call returns Process::spawn()
/// and the start of a worker fail with ECANCELED. A pool replaces workers that end in this way as after a crash, as
/// soon as its executor runs, so stop pools first, or call this and execve() where nothing else runs. Does nothing in a
/// forked copy of the program, whose processes are its parent's.
///
/// *Threads:* any.
bool prepare_for_exec() noexcept;

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/os/exec.ipp>
#endif
