#pragma once

/// Includes all public headers. Each of them can also be included alone.

#include <drover/detail/platform.hpp>

// Most programs that use drover need these headers of Asio as well.
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/error.hpp>
#include <drover/event.hpp>
#include <drover/exit_status.hpp>
#include <drover/os/command.hpp>
#include <drover/os/exec.hpp>
#include <drover/os/fd.hpp>
#include <drover/os/process.hpp>
#include <drover/os/reap.hpp>
#include <drover/pool/balancer.hpp>
#include <drover/pool/broadcast.hpp>
#include <drover/pool/call_options.hpp>
#include <drover/pool/histogram.hpp>
#include <drover/pool/local_worker.hpp>
#include <drover/pool/map.hpp>
#include <drover/pool/options.hpp>
#include <drover/pool/retry.hpp>
#include <drover/pool/stats.hpp>
#include <drover/pool/stream.hpp>
#include <drover/pool/supervisor.hpp>
#include <drover/pool/worker_pool.hpp>
#include <drover/pool/worker_process.hpp>
#include <drover/resource_pool.hpp>
#include <drover/routine.hpp>
#include <drover/run.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/borrow.hpp>
#include <drover/wire/cancel_reason.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/error_category.hpp>
#include <drover/wire/shared.hpp>
#include <drover/wire/shared_blocks.hpp>
#include <drover/wire/worker_info.hpp>
#include <drover/worker/routines.hpp>
#include <drover/worker/serve.hpp>
#include <drover/worker/sink.hpp>
#include <drover/worker/source.hpp>
#include <drover/worker/this_call.hpp>
#include <drover/worker/this_worker.hpp>
