#pragma once

#include <cstdint>

#include <drover/pool/detail/worker/death_cause.hpp>
#include <drover/pool/stats.hpp>
#include <drover/pool/supervisor.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// What a pool counts about its workers, for PoolStats.
struct PoolTotals {
  std::uint64_t crashes = 0;
  std::uint64_t restarts = 0;
  WorkerDeaths deaths;

  void count(Supervisor::Death death, DeathCause cause) noexcept {
    if (!death.asked_for && !death.graceful) ++crashes;
    count_death(deaths, cause);
  }
};

}}}  // namespace drover::v1::detail
