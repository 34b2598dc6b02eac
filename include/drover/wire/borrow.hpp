#pragma once

#include <drover/detail/platform.hpp>

#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace drover { inline namespace v1 {

/// An argument of a call that stays the caller's, see borrow().
class Borrowed {
 public:
  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  /// The routine receives text. Otherwise it receives bytes.
  bool is_text() const noexcept { return is_text_; }

 private:
  constexpr Borrowed(std::span<const std::byte> bytes, bool is_text) noexcept : bytes_(bytes), is_text_(is_text) {}

  friend Borrowed borrow(std::string_view text) noexcept;
  friend Borrowed borrow(std::span<const std::byte> bytes) noexcept;
  friend Borrowed borrow(std::span<const unsigned char> bytes) noexcept;

  std::span<const std::byte> bytes_;
  bool is_text_;
};

/// Lends text or bytes to a call: they are sent from where they are, without a copy, and the caller keeps them.
///
///     std::string page = ...;
///     auto title = co_await pool.call<std::string>("title_of", drover::borrow(page));
///     use(page);
///
/// The routine has the same parameter as without borrow(): std::string or std::string_view for text,
/// std::vector<std::byte> or std::span<const std::byte> for bytes. Below 64 KiB the bytes are copied, which is quicker.
///
/// *Lifetime:* the bytes must stay and must not change until the awaitable of the call completes or is destroyed,
/// however it ends. If the call is cancelled or its deadline passes while a part of them has not been sent, drover
/// copies that part before the caller resumes, because a message that has begun must be completed; without the memory
/// for the copy the worker is terminated.
inline Borrowed borrow(std::string_view text) noexcept {
  return {std::as_bytes(std::span(text.data(), text.size())), true};
}
inline Borrowed borrow(std::span<const std::byte> bytes) noexcept { return {bytes, false}; }
inline Borrowed borrow(std::span<const unsigned char> bytes) noexcept { return {std::as_bytes(bytes), false}; }

/// A temporary would be destroyed before the call has ended: pass it without borrow(), and it is moved.
template <class Text>
  requires std::same_as<std::remove_cv_t<Text>, std::string>
Borrowed borrow(Text&& temporary) = delete;
template <class T, class Allocator>
Borrowed borrow(const std::vector<T, Allocator>&& temporary) = delete;

}}  // namespace drover::v1
