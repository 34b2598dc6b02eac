#pragma once

/// All of drover that is no template: for one source file of a program (or of a shared library that hides its symbols)
/// that defines DROVER_SEPARATE_COMPILATION, and for no other. The program's other files then compile several times as
/// fast.
///
///     // drover.cpp
///     #include <drover/src.hpp>
///
/// The definition has to be the same in every file of the program that includes drover, so give it to the whole target.

#if !defined(DROVER_SEPARATE_COMPILATION)
#error "drover/src.hpp is for programs that define DROVER_SEPARATE_COMPILATION, in all of their files"
#endif

#include <drover/detail/platform.hpp>

#include <drover/detail/async_event_impl.hpp>
#include <drover/detail/home_impl.hpp>
#include <drover/detail/resource_pool_timer_impl.hpp>
#include <drover/detail/run_impl.hpp>
#include <drover/drover.hpp>
#include <drover/os/detail/command_impl.hpp>
#include <drover/os/detail/exec_impl.hpp>
#include <drover/os/detail/exit_guard_impl.hpp>
#include <drover/os/detail/process_impl.hpp>
#include <drover/pool/detail/begin_call_impl.hpp>
#include <drover/pool/detail/call_impl.hpp>
#include <drover/pool/detail/local_worker_impl.hpp>
#include <drover/pool/detail/worker_handle_impl.hpp>
#include <drover/pool/detail/worker_pool_impl.hpp>
#include <drover/pool/detail/worker_process_impl.hpp>
#include <drover/wire/detail/frame_impl.hpp>
#include <drover/worker/detail/serve_impl.hpp>
