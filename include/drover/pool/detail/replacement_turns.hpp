#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <vector>

namespace drover { inline namespace v1 { namespace detail {

/// Gives the slots of a pool their turns for planned replacements: one at a time, in the order in which they asked. So
/// a pool never has more than one process too many because of them. Pure.
class ReplacementTurns {
 public:
  /// So many slots may wait from now on. Throws std::bad_alloc.
  void reserve(std::size_t slots) { waiting_.reserve(slots); }
  /// A slot may ask again while it has its turn.
  void ask(std::size_t slot) { waiting_.push_back(slot); }
  /// It does not wait for its turn any more.
  void withdraw(std::size_t slot) noexcept {
    const auto found = std::find(waiting_.begin(), waiting_.end(), slot);
    if (found != waiting_.end()) waiting_.erase(found);
  }
  void end(std::size_t slot) noexcept {
    if (current_ == slot) current_.reset();
  }
  /// The slot whose turn comes now. Empty while another one has it.
  std::optional<std::size_t> next() noexcept {
    if (current_ || waiting_.empty()) return std::nullopt;
    current_ = waiting_.front();
    waiting_.erase(waiting_.begin());
    return current_;
  }
  bool has_turn(std::size_t slot) const noexcept { return current_ == slot; }
  const std::optional<std::size_t>& current() const noexcept { return current_; }

 private:
  std::vector<std::size_t> waiting_;
  std::optional<std::size_t> current_;
};

}}}  // namespace drover::v1::detail
