#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include <drover/pool/detail/call/call.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Calls that have ended, kept for the next ones with the memory that they have allocated. Guarded by the dispatcher's
/// mutex.
class CallPool {
 public:
  /// Null if none is left.
  std::shared_ptr<Call> take() noexcept {
    if (calls_.empty()) return nullptr;
    auto call = std::move(calls_.back());
    calls_.pop_back();
    return call;
  }

  /// Keeps a call that has ended and that nobody else refers to.
  void give_back(std::shared_ptr<Call> call) {
    if (call->state != CallState::ended || calls_.size() >= most) return;
    call->reset(most_bytes);
    try {
      calls_.push_back(std::move(call));
    } catch (const std::bad_alloc&) {  // then the next call allocates
    }
  }

 private:
  static constexpr std::size_t most = 256;
  static constexpr std::size_t most_bytes = 64 * 1024;  // of each buffer

  std::vector<std::shared_ptr<Call>> calls_;
};

}}}  // namespace drover::v1::detail
