#pragma once

#include <array>
#include <cstddef>

namespace drover { inline namespace v1 { namespace detail {

/// Decides which of the waiting calls is next, by CallOptions::priority: the most urgent one, unless so many have
/// overtaken a less urgent one that it is its turn. Pure.
class PriorityShares {
 public:
  static constexpr std::size_t levels = 4;
  /// So many calls overtake one of lower priority at most.
  static constexpr unsigned most_overtaking = 16;
  using Waiting = std::array<bool, levels>;  // [priority]: calls wait

  /// The priority of the next call. At least one waits.
  std::size_t next(const Waiting& waiting) const noexcept {
    std::size_t most_urgent = 0;
    for (std::size_t level = 0; level < levels; ++level) {
      if (!waiting[level]) continue;
      if (overtaken_[level] >= most_overtaking) return level;
      most_urgent = level;
    }
    return most_urgent;
  }
  /// A call of that priority has got its turn. `waiting`: as it was before.
  void took(std::size_t taken, const Waiting& waiting) noexcept {
    overtaken_[taken] = 0;
    for (std::size_t level = 0; level < taken; ++level) overtaken_[level] = waiting[level] ? overtaken_[level] + 1 : 0;
  }

 private:
  std::array<unsigned, levels> overtaken_{};  // by how many calls, since one of that priority had its turn
};

}}}  // namespace drover::v1::detail
