#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include <asio/steady_timer.hpp>

#include <drover/pool/detail/slot_state.hpp>
#include <drover/pool/detail/worker/session.hpp>
#include <drover/pool/options.hpp>
#include <drover/wire/frame.hpp>

namespace drover { inline namespace v1 { namespace detail {

class Growth;

/// A timer of a slot. An expiry of an earlier setting has no effect.
struct SlotTimer {
  std::unique_ptr<asio::steady_timer> timer;
  std::uint64_t setting = 0;

  void cancel() noexcept {
    ++setting;
    timer.reset();
  }
};

/// One slot of a pool: its state, and its workers. Handlers and sessions may refer to it when it has been removed.
struct Slot {
  using Environment = std::map<std::string, std::string>;
  using Options = std::shared_ptr<const WorkerOptions>;

  Slot(std::size_t number, RestartPolicy policy, Environment variables, Options of_workers)
      : at(number), state(policy), environment(std::move(variables)), options(std::move(of_workers)) {}

  const std::size_t at;
  SlotState state;
  bool removed = false;
  bool was_ready = false;   // a worker of it has been
  bool dormant = false;     // it has no worker until calls wait, see Elasticity
  Environment environment;  // see PoolOptions::slot_env
  Options options;          // of the next worker; null while it is dormant

  /// A spare worker can take it: TAKE_SLOT with its variables fits into a message.
  bool fits_a_spare() const noexcept {
    std::size_t size = 16;
    for (const auto& [name, value] : environment) size += name.size() + value.size() + 20;
    return size <= std::max(options->max_message_size, least_max_body);
  }

  std::shared_ptr<WorkerSession> session;  // the current worker, or the last one; null: there was none
  Options session_options;
  std::shared_ptr<WorkerSession> successor;  // null: there is none
  Options successor_options;

  SlotTimer timer;                 // until a worker is started, or has proved itself
  SlotTimer recycle_timer;         // until the worker is to be replaced
  std::shared_ptr<Growth> growth;  // null: its first worker has been ready
};

}}}  // namespace drover::v1::detail
