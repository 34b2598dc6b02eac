#pragma once

#include <exception>
#include <memory>

#include <asio/any_io_executor.hpp>

#include <drover/detail/config.hpp>
#include <drover/os/detail/program_exit.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

class Dispatcher;
class WorkerSession;

/// Creates a worker that has a dispatcher of its own. When the last copy of the pointer is destroyed, or assigned to,
/// the process is handed to the reaper thread.
std::shared_ptr<WorkerSession> create_worker(const asio::any_io_executor& executor, WorkerOptions options,
                                             bool takes_calls);
/// Why no operation can begin: there is no worker, or this is a forked copy of the program. Null if one can.
std::exception_ptr reason_to_refuse(const std::shared_ptr<WorkerSession>& worker);
/// Null without a worker.
const std::shared_ptr<Dispatcher>& dispatcher_of(const std::shared_ptr<WorkerSession>& worker) noexcept;

/// 0 or false without a process.
pid_t pid_of(const std::shared_ptr<WorkerSession>& worker);
bool is_alive(const std::shared_ptr<WorkerSession>& worker);

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/detail/worker/handle.ipp>
#endif
