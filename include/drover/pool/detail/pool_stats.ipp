#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <drover/os/detail/process_figures.hpp>
#include <drover/pool/detail/pool.hpp>

/// The figures of a pool and of its workers.
namespace drover { inline namespace v1 { namespace detail {

/// Without the mutex. If the process has exited, its id may be another one's by now.
inline void read_process_figures(const WorkerSession& session, WorkerFigures& worker) {
  const auto memory = resident_set(worker.pid);
  const auto time = cpu_time(worker.pid);
  if (!session.child()->running()) return;
  worker.rss = memory.value_or(0);
  worker.cpu_time = time.value_or(Duration::zero());
}

/// The mutex is held for the totals, and then for one worker at a time. Nothing is read from /proc under it.
inline PoolStats PoolImpl::stats() const {
  PoolStats stats;
  struct Worker {
    std::shared_ptr<WorkerSession> session;
    PoolSlots::Role role;
    std::size_t slot, place;
  };
  std::vector<Worker> all;
  {
    const auto held = lock();
    slots_->for_each([&](const auto& session, PoolSlots::Role role) {
      if (!session->is_fork_server()) all.push_back({session, role, session->slot(), all.size()});
    });
    stats.size = slots_->least();
    stats.max_size = slots_->size();
    stats.queued = dispatcher_->queued();
    stats.in_flight = dispatcher_->in_flight();
    stats.calls = dispatcher_->calls();
    stats.crashes = slots_->totals().crashes;
    stats.restarts = slots_->totals().restarts;
    stats.deaths = slots_->totals().deaths;
    const CallTimes::Histograms& times = dispatcher_->times();
    stats.queue_time = times.queue;
    stats.run_time = times.run;
  }
  // By slot. Of several workers in one slot, the one that has it stays the first.
  std::sort(all.begin(), all.end(),
            [](const Worker& a, const Worker& b) { return a.slot != b.slot ? a.slot < b.slot : a.place < b.place; });
  for (const auto& [session, role, slot, place] : all) {
    std::optional<WorkerFigures> worker = session->figures(Clock::now());
    if (!worker) continue;
    ++stats.workers;
    worker->is_spare = role == PoolSlots::Role::spare;
    if (worker->is_spare && worker->ready) ++stats.spares;
    worker->ready = worker->ready && !worker->is_spare;
    if (worker->ready) ++stats.ready;
    if (worker->pid == 0) continue;  // being spawned
    worker->is_successor = role == PoolSlots::Role::successor;
    worker->has_successor = role == PoolSlots::Role::predecessor;
    read_process_figures(*session, *worker);
    stats.per_worker.push_back(std::move(*worker));
  }
  return stats;
}

}}}  // namespace drover::v1::detail
