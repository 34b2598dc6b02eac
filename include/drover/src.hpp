#pragma once

/// All non-template code of drover, compiled once. Include this header in exactly one source file of a program (or of a
/// shared library that hides its symbols) that defines DROVER_SEPARATE_COMPILATION. The program's other files then
/// compile several times faster.
///
///     // drover.cpp
///     #include <drover/src.hpp>
///
/// The macro must be defined in every file of the program that includes drover, so define it for the whole target.

#if !defined(DROVER_SEPARATE_COMPILATION)
#error "drover/src.hpp is for programs that define DROVER_SEPARATE_COMPILATION, in all of their files"
#endif

#include <drover/detail/platform.hpp>

#include <drover/detail/context/async_event.ipp>
#include <drover/detail/context/registry.ipp>
#include <drover/detail/context/spawn.ipp>
#include <drover/detail/resource_pool/idle_timer.ipp>
#include <drover/detail/resource_pool/wait.ipp>
#include <drover/drover.hpp>
#include <drover/os/command.ipp>
#include <drover/os/detail/program_exit.ipp>
#include <drover/os/detail/shared_memory.ipp>
#include <drover/os/exec.ipp>
#include <drover/os/process.ipp>
#include <drover/pool/broadcast.ipp>
#include <drover/pool/detail/call/begin_call.ipp>
#include <drover/pool/detail/call/begin_stream.ipp>
#include <drover/pool/detail/call/call.ipp>
#include <drover/pool/detail/call/call_stream.ipp>
#include <drover/pool/detail/call/map_window.ipp>
#include <drover/pool/detail/metrics.ipp>
#include <drover/pool/detail/worker/handle.ipp>
#include <drover/pool/local_worker.ipp>
#include <drover/pool/stats.ipp>
#include <drover/pool/worker_pool.ipp>
#include <drover/pool/worker_process.ipp>
#include <drover/run.ipp>
#include <drover/wire/body.ipp>
#include <drover/wire/detail/received_memory.ipp>
#include <drover/wire/error_category.ipp>
#include <drover/wire/frame.ipp>
#include <drover/wire/shared_blocks.ipp>
#include <drover/worker/detail/stream_port.ipp>
#include <drover/worker/serve.ipp>
#include <drover/worker/this_call.ipp>
#include <drover/worker/this_worker.ipp>
