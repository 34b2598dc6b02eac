#pragma once

#include <cstddef>
#include <cstdint>

#include <drover/wire/frame.hpp>

/// Flow control of one direction of a stream. The receiver grants credit in bytes, and the sender sends while it has
/// any. So a receiver that stops stops the sender, and each side holds at most the credit and one item.
namespace drover { inline namespace v1 { namespace detail {

/// The credit of a sender whose receiver has taken everything.
inline constexpr std::uint64_t stream_window = 512 * 1024;

/// What an item with a body of that size takes: empty items cost memory and time, too.
constexpr std::uint64_t cost_of_item(std::size_t body) noexcept { return body + sizeof(FrameHeader); }

/// The sender's side. Pure.
class SendCredit {
 public:
  explicit constexpr SendCredit(std::uint64_t granted) noexcept : granted_(granted) {}

  /// The last item may exceed the credit, so that an item of any size can be sent.
  constexpr bool may_send() const noexcept { return sent_ < granted_; }
  constexpr void sent(std::uint64_t bytes) noexcept { sent_ += bytes; }
  /// False if no honest receiver grants that: nothing, or more than the window.
  constexpr bool grant(std::uint64_t bytes) noexcept {
    if (bytes == 0 || bytes > stream_window + sent_ - granted_) return false;
    granted_ += bytes;
    return true;
  }

 private:
  std::uint64_t granted_;  // at most stream_window + sent_
  std::uint64_t sent_ = 0;
};

/// The receiver's side. Pure.
class ReceiveCredit {
 public:
  explicit constexpr ReceiveCredit(std::uint64_t granted) noexcept : granted_(granted) {}

  /// An item has arrived. False if its sender had no credit.
  constexpr bool admit(std::uint64_t bytes) noexcept {
    if (received_ >= granted_) return false;
    received_ += bytes;
    return true;
  }
  /// Items have been taken. Returns what is to be granted now: nothing, until it is worth a message.
  constexpr std::uint64_t taken(std::uint64_t bytes) noexcept {
    taken_ += bytes;
    if (taken_ < stream_window / 2) return 0;
    const std::uint64_t grant = taken_;
    granted_ += grant;
    taken_ = 0;
    return grant;
  }
  /// What taken() has returned was not granted, for want of memory. It is due again.
  constexpr void not_granted(std::uint64_t bytes) noexcept {
    granted_ -= bytes;
    taken_ += bytes;
  }

 private:
  std::uint64_t granted_;
  std::uint64_t received_ = 0;
  std::uint64_t taken_ = 0;  // not granted again yet
};

}}}  // namespace drover::v1::detail
