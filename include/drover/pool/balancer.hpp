#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <optional>
#include <span>

namespace drover { inline namespace v1 {

/// How busy a worker is, for the choice of one.
struct Load {
  bool ready{};  ///< it takes calls
  std::size_t in_flight{};
  std::size_t capacity{1};  ///< calls it may have in flight
};

/// The index of the ready worker with the fewest calls in flight that has room for another call; nullopt if there is
/// none. The search begins at `start`: workers that are equally busy take turns if the caller increases it.
///
/// For programs that distribute work themselves. A WorkerPool does not call it: WorkerPool::call() says how it chooses.
inline std::optional<std::size_t> least_loaded(std::span<const Load> loads, std::size_t start = 0) {
  std::optional<std::size_t> best;
  for (std::size_t i = 0; i < loads.size(); ++i) {
    const std::size_t at = (start + i) % loads.size();
    const Load& load = loads[at];
    if (!load.ready || load.in_flight >= load.capacity) continue;
    if (!best || load.in_flight < loads[*best].in_flight) best = at;
    if (load.in_flight == 0) break;
  }
  return best;
}

}}  // namespace drover::v1
