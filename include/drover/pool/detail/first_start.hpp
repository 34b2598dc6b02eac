#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <utility>

#include <drover/detail/context/async_event.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The first start of a pool: over when all workers are ready, or one has failed. Guarded by the dispatcher's mutex.
class FirstStart {
 public:
  FirstStart(std::size_t size, std::size_t most) : size_(size), most_(most) {}

  bool under_way() const noexcept { return under_way_; }
  bool failed() const noexcept { return failure_ != nullptr; }
  /// Set when the start is over.
  const std::shared_ptr<AsyncEvent>& settled() const noexcept { return settled_; }
  /// Null if another worker may be started, when `started` have been. Otherwise to be awaited.
  std::shared_ptr<AsyncEvent> await_room(std::size_t started) {
    if (failed() || started - ready_ < most_) return nullptr;
    return room_ = std::make_shared<AsyncEvent>();
  }

  void one_is_ready() {
    if (++ready_ == size_) settled_->set();
    make_room();
  }
  void one_failed(std::exception_ptr cause) {
    if (!failure_) failure_ = std::move(cause);
    settled_->set();
    make_room();
  }
  /// Returns the first failure.
  std::exception_ptr end() noexcept {
    under_way_ = false;
    return std::exchange(failure_, nullptr);
  }

 private:
  void make_room() {
    if (!room_) return;
    room_->set();  // throws without memory, and is tried again with the next worker
    room_.reset();
  }

  const std::size_t size_;
  const std::size_t most_;  // workers that start at a time
  bool under_way_ = true;
  std::size_t ready_ = 0;
  std::exception_ptr failure_;
  const std::shared_ptr<AsyncEvent> settled_ = std::make_shared<AsyncEvent>();
  std::shared_ptr<AsyncEvent> room_;  // null: nobody waits for it
};

}}}  // namespace drover::v1::detail
