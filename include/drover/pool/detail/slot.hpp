#pragma once

#include <map>
#include <memory>
#include <string>

#include <asio/steady_timer.hpp>

#include <drover/pool/detail/slot_state.hpp>
#include <drover/pool/detail/worker/session.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

class Growth;

/// One slot of a pool: its state, and its workers.
struct Slot {
  using Environment = std::map<std::string, std::string>;
  using Options = std::shared_ptr<const WorkerOptions>;

  Slot(RestartPolicy policy, Environment variables, Options of_workers)
      : state(policy), environment(std::move(variables)), options(std::move(of_workers)) {}

  SlotState state;
  Environment environment;  // see PoolOptions::slot_env
  Options options;          // of the next worker

  std::shared_ptr<WorkerSession> session;  // the current worker, or the last one; null: there was none
  Options session_options;
  std::shared_ptr<WorkerSession> successor;  // null: there is none
  Options successor_options;
  std::weak_ptr<WorkerSession> retired;  // the predecessor whose exit ends the turn

  std::unique_ptr<asio::steady_timer> timer;          // until a worker is started, or has proved itself
  std::unique_ptr<asio::steady_timer> recycle_timer;  // until the worker is to be replaced
  std::shared_ptr<Growth> growth;                     // null: its first worker has been ready
};

}}}  // namespace drover::v1::detail
