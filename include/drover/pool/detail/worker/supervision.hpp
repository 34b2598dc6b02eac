#pragma once

namespace drover { inline namespace v1 { namespace detail {

class WorkerSession;

/// The supervisor of a worker: its pool. It receives the worker's reports.
class WorkerSupervision {
 public:
  virtual ~WorkerSupervision() = default;
  /// With the mutex held.
  virtual void worker_ready(WorkerSession&) = 0;
  /// Its first answer; with the mutex held.
  virtual void worker_answered(WorkerSession&) = 0;
  /// It drains by itself and takes no more calls; with the mutex held.
  virtual void worker_leaving(WorkerSession&) = 0;
  /// It has answered as many calls as it was to answer; with the mutex held.
  virtual void worker_worn_out(const WorkerSession&) = 0;
  /// On the worker's executor, without the mutex.
  virtual void worker_exited(WorkerSession&) = 0;
};

}}}  // namespace drover::v1::detail
