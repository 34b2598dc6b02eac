#pragma once

#include <cstddef>
#include <optional>

#include <drover/pool/detail/slot_queue.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Gives the slots of a pool their turns for planned replacements: one at a time, in the order in which they asked. So
/// a pool never has more than one process too many because of them. Pure.
class ReplacementTurns {
 public:
  /// So many slots may wait from now on. Throws std::bad_alloc.
  void reserve(std::size_t slots) {
    if (slots > waiting_.slots()) waiting_.resize(slots);
  }
  /// A slot may ask again while it has its turn.
  void ask(std::size_t slot) {
    reserve(slot + 1);
    waiting_.push(slot);
  }
  /// It does not wait for its turn any more.
  void withdraw(std::size_t slot) noexcept { waiting_.remove(slot); }
  void end(std::size_t slot) noexcept {
    if (current_ == slot) current_.reset();
  }
  /// The slot whose turn comes now. Empty while another one has it.
  std::optional<std::size_t> next() noexcept {
    if (current_ || waiting_.empty()) return std::nullopt;
    current_ = waiting_.pop();
    return current_;
  }
  bool has_turn(std::size_t slot) const noexcept { return current_ == slot; }
  const std::optional<std::size_t>& current() const noexcept { return current_; }

 private:
  SlotQueue waiting_;
  std::optional<std::size_t> current_;
};

}}}  // namespace drover::v1::detail
