#pragma once

#include <array>
#include <cstddef>
#include <utility>

#include <drover/detail/resource_pool/entry.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// See ResourcePool::Stats.
struct Counts {
  std::size_t total, referenced, pending;
};

/// How many entries are in each state.
class StateCounts {
 public:
  std::size_t operator[](State state) const noexcept { return counts_[index(state)]; }

  Counts counts() const noexcept {
    const std::size_t referenced = (*this)[State::leased] + (*this)[State::discarded];
    const std::size_t pending = (*this)[State::idle] + (*this)[State::finalizing];
    return {(*this)[State::creating] + referenced + pending, referenced, pending};
  }

  /// The entry comes into the table.
  template <class Entry>
  void begin(Entry& entry, State state) noexcept {
    ++counts_[index(entry.state = state)];
  }
  template <class Entry>
  void change(Entry& entry, State state) noexcept {
    --counts_[index(entry.state)];
    begin(entry, state);
  }

  /// All entries in one state count as being in another one from now on.
  void move(State from, State to) noexcept { counts_[index(to)] += std::exchange(counts_[index(from)], 0); }

 private:
  static constexpr std::size_t index(State state) noexcept { return static_cast<std::size_t>(state); }

  std::array<std::size_t, 7> counts_{};
};

}}}}  // namespace drover::v1::detail::resource_pool
