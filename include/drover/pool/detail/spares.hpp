#pragma once

#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <vector>

#include <asio/steady_timer.hpp>

#include <drover/pool/detail/slot.hpp>
#include <drover/pool/detail/worker/session.hpp>
#include <drover/pool/options.hpp>
#include <drover/pool/supervisor.hpp>

namespace drover { inline namespace v1 { namespace detail {

class PoolSlots;

/// The spare workers of a pool: they are ready, and have no slot until another worker dies. One at a time is started.
/// Guarded by the dispatcher's mutex.
class Spares {
 public:
  Spares(PoolSlots& slots, const PoolOptions& options)
      : slots_(slots), count_(options.spares), supervisor_(options.restart) {}

  /// Starts those that are missing. Not before the workers of all slots have been started.
  void fill();
  /// The same a moment later: a spawn would delay the first call of the worker that was taken.
  void fill_later();
  /// One with those options that is ready. Null if there is none. fill_later() has to
  /// follow.
  std::shared_ptr<WorkerSession> take(const Slot::Options& options) noexcept;
  bool has_ready(const Slot::Options& options) const noexcept { return find(options) != spares_.end(); }
  /// The options of the pool's workers have changed: those with other ones are replaced.
  void renew();

  // Reports of workers without a slot.
  void worker_ready(const WorkerSession& session);
  void worker_exited(const WorkerSession& session, Supervisor::Death death);

  template <class F>
  void for_each(F f) const {
    for (const Spare& spare : spares_) f(spare.session);
  }
  void stop() noexcept { timer_.reset(); }
  void release_timer() noexcept { (void)timer_.release(); }

 private:
  struct Spare {
    std::shared_ptr<WorkerSession> session;
    Slot::Options options;
  };
  using Workers = std::vector<Spare>;
  static constexpr Duration a_moment = std::chrono::milliseconds(5);

  Workers::const_iterator find(const Slot::Options& options) const noexcept;
  bool is_due() const noexcept;
  void start_after(Duration delay);
  bool is_starting(const WorkerSession& session) const noexcept { return started_.lock().get() == &session; }
  bool retire(const WorkerSession& session);
  // Without the mutex.
  bool may_start();
  void start();
  /// `session`: null if there is none yet.
  void start_failed(const std::shared_ptr<WorkerSession>& session);
  std::shared_ptr<WorkerSession> put();

  PoolSlots& slots_;
  const std::size_t count_;
  Supervisor supervisor_;  // of all of them
  Workers spares_;
  bool starting_ = false;                      // one is being started, or is about to be
  std::weak_ptr<WorkerSession> started_;       // that one, once there is one
  std::unique_ptr<asio::steady_timer> timer_;  // until the next one is started
};

}}}  // namespace drover::v1::detail
