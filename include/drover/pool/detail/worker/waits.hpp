#pragma once

#include <memory>
#include <vector>

#include <asio/awaitable.hpp>

#include <drover/pool/detail/worker/session.hpp>

/// The coroutines that wait for a worker: for its start, its status, its end. They may run on any context. The worker's
/// own context does the work; if it does not run, a waiting coroutine takes over after a while.
namespace drover { inline namespace v1 { namespace detail {

/// Waits until the worker is ready. Throws what start() throws, once nothing is left of the process.
asio::awaitable<void> await_start(std::shared_ptr<WorkerSession> session);

/// Null: an empty report.
asio::awaitable<StopReport> await_stop(std::shared_ptr<WorkerSession> session);
asio::awaitable<ReapReport> await_reap(std::shared_ptr<WorkerSession> session);

asio::awaitable<WorkerStatus> await_status(std::shared_ptr<WorkerSession> session, Timeout bound);

/// Waits until nothing is left of any of them. The first cancellation aborts their stops and waits on. With
/// `return_on_second`, the second one ends the wait. Afterwards a cancelled wait throws operation_aborted.
/// `cancellations`: that have come before.
asio::awaitable<void> await_ends(std::vector<std::shared_ptr<WorkerSession>> sessions, bool return_on_second,
                                 int cancellations = 0);
/// Waits until nothing is left of any of them, whatever cancellations come.
asio::awaitable<void> await_ends_for_certain(std::vector<std::shared_ptr<WorkerSession>> sessions);

}}}  // namespace drover::v1::detail

#include <drover/pool/detail/worker/waits.ipp>
