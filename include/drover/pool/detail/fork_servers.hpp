#pragma once

#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include <drover/pool/detail/fork_server_state.hpp>
#include <drover/pool/detail/slot.hpp>
#include <drover/pool/detail/worker/session.hpp>
#include <drover/pool/detail/worker/supervision.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

class PoolSlots;

/// The fork servers of a pool with Launch::fork: one for the options of its workers, and a second one while a reload()
/// goes on. Guarded by the dispatcher's mutex.
class ForkServers final : public WorkerSupervision {
 public:
  explicit ForkServers(PoolSlots& slots) : slots_(slots) {}

  // ---- with the mutex held ------------------------------------------------------------------------------------------

  /// Where a worker with those options is to be made. Null: it is to be spawned.
  std::shared_ptr<ProcessSource> source(const Slot::Options& options) const;
  /// Ends the servers whose options no worker will have any more.
  void end_unused();
  /// Reports servers that have refused to make a worker.
  void report_refusals();
  /// No worker waits for a server any more.
  void stop() noexcept;

  template <class F>
  void for_each(F f) const {
    for (const Server& server : servers_)
      if (server.session) f(server.session);
  }

  // ---- without it ---------------------------------------------------------------------------------------------------

  /// True: a worker with those options may be started now. False: `again` is called, without the mutex, once their
  /// server is ready, or is not going to be.
  bool may_start(const Slot::Options& options, std::function<void()> again);

 private:
  struct Server {
    Slot::Options options;
    ForkServerState state;
    std::shared_ptr<WorkerSession> session;        // the last one; null: there was none
    std::vector<std::function<void()>> waiting{};  // for it to be ready
  };
  using Servers = std::list<Server>;

  // WorkerSupervision
  inline void worker_ready(WorkerSession& session) override;
  void worker_answered(WorkerSession&) override {}
  void worker_leaving(WorkerSession&) override {}
  void worker_worn_out(const WorkerSession&) override {}
  inline void worker_exited(WorkerSession& session) override;

  Server& server_for(const Slot::Options& options);
  Server* server_with(const WorkerSession& session) noexcept;
  std::shared_ptr<WorkerSession> put(Server& server);
  void spawn(const std::shared_ptr<WorkerSession>& session);
  static std::exception_ptr cause_of(const WorkerSession& session);
  void ended(Server& server, const std::exception_ptr& cause);
  void report(Server& server, const std::exception_ptr& cause);
  void look_at(Server& server);
  void continue_waiting(Server& server);
  std::function<void()> next_waiting(const Slot::Options& options);
  void retire(Server& server);

  PoolSlots& slots_;
  Servers servers_;
};

}}}  // namespace drover::v1::detail
