#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <utility>

#include <drover/detail/context/async_event.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// New slots whose first workers are being started: all of them get ready, or the slots are removed again. In an
/// elastic pool they are dormant before and after. Guarded by the dispatcher's mutex.
class Growth {
 public:
  /// `from`: the number of slots before, or the least number of active ones. `count`: of those whose workers are not
  /// ready yet. `before`: one that has ended, and whose caller may not have been completed.
  Growth(std::size_t from, std::size_t count, std::shared_ptr<Growth> before)
      : from_(from), left_(count), before_(std::move(before)) {}

  std::size_t from() const noexcept { return from_; }
  /// True if that was the last one.
  bool one_is_ready() noexcept { return --left_ == 0; }
  /// Null: with success. try_complete_caller() has to follow.
  void end(std::exception_ptr failure) noexcept {
    ended_ = true;
    failure_ = std::move(failure);
  }
  /// Completes the caller, if the growth has ended. Returns false if there was not enough memory; call it again then.
  bool try_complete_caller() noexcept {
    if (before_ && before_->try_complete_caller()) before_.reset();
    return (!ended_ || over_->try_set()) && !before_;
  }
  bool ended() const noexcept { return ended_; }
  const std::shared_ptr<AsyncEvent>& over() const noexcept { return over_; }
  const std::exception_ptr& failure() const noexcept { return failure_; }

 private:
  const std::size_t from_;
  std::size_t left_;  // workers that are not ready yet
  std::shared_ptr<Growth> before_;
  bool ended_ = false;
  std::exception_ptr failure_;
  const std::shared_ptr<AsyncEvent> over_ = std::make_shared<AsyncEvent>();
};

}}}  // namespace drover::v1::detail
