#pragma once

#include <memory>
#include <utility>

namespace drover { inline namespace v1 { namespace detail {

/// An item of a stream that waits for credit. If its wait is dropped, or never begins, its sender withdraws it. `event`
/// is set when the item has been sent, or never will be.
template <class Sender, class Event>
class WaitingItem {
 public:
  WaitingItem(std::shared_ptr<Sender> of, std::shared_ptr<Event> set) noexcept
      : sender_(std::move(of)), event_(std::move(set)) {}
  WaitingItem(WaitingItem&&) noexcept = default;
  WaitingItem& operator=(WaitingItem&&) = delete;
  ~WaitingItem() {
    if (sender_) sender_->withdraw(*event_);
  }

  const std::shared_ptr<Sender>& sender() const noexcept { return sender_; }
  const std::shared_ptr<Event>& event() const noexcept { return event_; }

 private:
  std::shared_ptr<Sender> sender_;
  std::shared_ptr<Event> event_;
};

}}}  // namespace drover::v1::detail
