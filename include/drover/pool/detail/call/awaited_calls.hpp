#pragma once

#include <memory>
#include <utility>

#include <drover/detail/context/registry.hpp>
#include <drover/pool/detail/call/call.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The calls whose callers wait on the dispatcher's own executor. Others are registered with the context of their
/// caller. The dispatcher is registered with its context in any case, and so stands in for these calls: that saves two
/// locks for each. Guarded by the dispatcher's mutex.
class AwaitedCalls {
 public:
  void add(std::shared_ptr<Call> call) noexcept {
    call->same_executor = true;
    calls_.add(std::move(call));
  }
  /// The thread that takes a call may invoke or destroy its completion. Null if the call has been taken before.
  std::shared_ptr<Call> take(Call& call) noexcept { return std::static_pointer_cast<Call>(calls_.remove(call)); }

  /// The dispatcher is closed: each of them is registered from now on. With the lock of the registry held.
  void move_to(const std::shared_ptr<ContextRegistry>& registry) noexcept {
    while (const auto call = take_first()) {
      call->same_executor = false;
      call->registry = registry;
      registry->add(call);
    }
  }
  void swap(AwaitedCalls& other) noexcept { calls_.swap(other.calls_); }
  /// The context is being destroyed. Without the mutex.
  void lose_callers() noexcept {
    while (const auto call = take_first()) call->lose_caller();
  }

 private:
  std::shared_ptr<Call> take_first() noexcept { return std::static_pointer_cast<Call>(calls_.remove_first()); }

  BoundList calls_;
};

}}}  // namespace drover::v1::detail
