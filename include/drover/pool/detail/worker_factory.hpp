#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include <asio/any_io_executor.hpp>

#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/slot.hpp>
#include <drover/pool/detail/worker/session.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

class PoolSlots;

/// Makes the sessions of a pool's workers, and spawns the processes of all but the first ones.
class WorkerFactory {
 public:
  WorkerFactory(PoolSlots& slots, std::shared_ptr<Dispatcher> dispatcher)
      : slots_(slots), dispatcher_(std::move(dispatcher)) {}

  // ---- with the mutex held. Throws Error if the context is destroyed ------------------------------------------------

  /// For a slot, or a spare one if that is null.
  std::shared_ptr<WorkerSession> worker(const Slot::Options& options, Slot* slot);
  std::shared_ptr<WorkerSession> fork_server(WorkerOptions options);

  // ---- without it ---------------------------------------------------------------------------------------------------

  /// See PoolOptions::slot_env. Calls user code.
  Slot::Environment environment_of(std::size_t at) const;
  /// Spawns a worker whose start has begun, on the SpawnThread. `failed(cause)` is called there, without the mutex.
  template <class F>
  void spawn(const std::shared_ptr<WorkerSession>& session, F failed) noexcept;

 private:
  asio::any_io_executor prepare();

  PoolSlots& slots_;
  const std::shared_ptr<Dispatcher> dispatcher_;
};

}}}  // namespace drover::v1::detail
