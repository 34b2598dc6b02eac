#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <drover/pool/detail/call/call.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The calls in flight of one worker, each in a numbered slot. The worker's RESULT names slot and id. Guarded by the
/// dispatcher's mutex.
class CallSlots {
 public:
  explicit CallSlots(std::size_t capacity) noexcept : capacity_(capacity) {}

  std::size_t capacity() const noexcept { return capacity_; }
  std::size_t in_flight() const noexcept { return in_flight_; }
  /// Id of the last call that was sent. Ids only grow.
  std::uint64_t last_id() const noexcept { return last_id_; }

  /// Makes room for one more call. Throws std::bad_alloc; then nothing has changed.
  void reserve() {
    if (!free_.empty()) return;
    free_.reserve(calls_.size() + 1);
    calls_.emplace_back();
    free_.push_back(static_cast<std::uint32_t>(calls_.size() - 1));
  }
  std::uint32_t next_slot() const noexcept { return free_.back(); }
  std::uint64_t next_id() const noexcept { return last_id_ + 1; }
  /// After reserve(): takes next_slot() and next_id().
  void add(std::shared_ptr<Call> call) noexcept {
    free_.pop_back();
    ++last_id_;
    ++in_flight_;
    calls_[call->slot] = std::move(call);
  }
  /// Null if no such call is in flight.
  std::shared_ptr<Call> find(std::uint32_t slot, std::uint64_t id) const noexcept {
    return slot < calls_.size() && calls_[slot] && calls_[slot]->id == id ? calls_[slot] : nullptr;
  }
  void release(const Call& call) noexcept {
    free_.push_back(call.slot);
    --in_flight_;
    calls_[call.slot].reset();
  }

  /// `f` may release the slot of the call that it is given.
  template <class F>
  void for_each(F f) {
    for (std::size_t i = 0; i < calls_.size(); ++i)
      if (const std::shared_ptr<Call> call = calls_[i]) f(call);
  }
  template <class F>
  void look_at_each(F f) const {
    for (const auto& call : calls_)
      if (call) f(std::as_const(*call));
  }
  /// A copy of all calls in flight, to be ended one by one.
  std::vector<std::shared_ptr<Call>> all() const {
    std::vector<std::shared_ptr<Call>> all;
    for (const auto& call : calls_)
      if (call) all.push_back(call);
    return all;
  }

 private:
  std::size_t capacity_;
  std::vector<std::shared_ptr<Call>> calls_;
  std::vector<std::uint32_t> free_;
  std::uint64_t last_id_ = 0;
  std::size_t in_flight_ = 0;
};

}}}  // namespace drover::v1::detail
