#pragma once

#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/worker/connection.hpp>
#include <drover/pool/detail/worker/process_events.hpp>
#include <drover/pool/detail/worker/worker_record.hpp>

namespace drover { inline namespace v1 { namespace detail {

class WorkerSession;

/// Processes the exit of a worker's process: reads its last messages, ends its calls, and resumes those that wait for
/// the exit. Takes the dispatcher's mutex. Its functions are virtual for the coroutines in waits.hpp.
class WorkerExit : public ProcessEvents::Target {
 public:
  WorkerExit(WorkerSession& session, WorkerRecord& worker, WorkerConnection& connection, Dispatcher& dispatcher,
             ProcessEvents& process_events) noexcept
      : session_(session),
        worker_(worker),
        connection_(connection),
        dispatcher_(dispatcher),
        process_events_(process_events) {}
  WorkerExit(const WorkerExit&) = delete;
  WorkerExit& operator=(const WorkerExit&) = delete;
  virtual ~WorkerExit() = default;

  /// The process has been collected. Comes from the reaper thread by way of the worker's executor (`on_executor`), or
  /// from a waiting coroutine if that executor does not run.
  inline void process_exit(bool on_executor) override;
  /// Nothing of the process's group is left.
  inline void group_over() override;

 private:
  void calls_answered();

  WorkerSession& session_;
  WorkerRecord& worker_;
  WorkerConnection& connection_;
  Dispatcher& dispatcher_;
  ProcessEvents& process_events_;
};

}}}  // namespace drover::v1::detail
