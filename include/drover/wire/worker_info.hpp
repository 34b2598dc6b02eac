#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <limits>
#include <map>
#include <set>
#include <string>

namespace drover { inline namespace v1 {

/// The slot of a spare worker that has not taken the place of another one yet, see PoolOptions::spares.
inline constexpr std::size_t no_slot = std::numeric_limits<std::size_t>::max();

/// What a worker knows of itself, as its parent has said it: see this_worker and Routines::on_start().
struct WorkerInfo {
  /// The number of its place in the pool, from 0. A replacement has the number of its predecessor. 0 outside of pools.
  /// no_slot if it was started as a spare: this_worker::slot() knows where it is now.
  std::size_t slot{};
  std::string name{};                          ///< WorkerOptions::name
  std::set<std::string> tags{};                ///< WorkerOptions::tags
  std::map<std::string, std::string> extra{};  ///< WorkerOptions::extra

  friend bool operator==(const WorkerInfo&, const WorkerInfo&) = default;
};

}}  // namespace drover::v1
