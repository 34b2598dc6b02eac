#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <drover/wire/buffer.hpp>

namespace drover::inline v1::detail {

/// From here on, moving is cheaper than copying.
inline constexpr std::size_t worth_moving = 64 * 1024;

/// Bytes that somebody has let go of.
using MovedBytes = std::variant<std::monostate, std::string, std::vector<std::byte>>;

inline std::span<const std::byte> view_of(const MovedBytes& moved) noexcept {
  if (const auto* text = std::get_if<std::string>(&moved)) return std::as_bytes(std::span(*text));
  if (const auto* bytes = std::get_if<std::vector<std::byte>>(&moved)) return *bytes;
  return {};
}

/// The body of a frame that is to be sent: bytes, and between them large strings and vectors that were moved in. Those
/// are sent from where they are.
class Body final : public ByteBuffer {
 public:
  using ByteBuffer::ByteBuffer;

  struct Insert {
    std::size_t at;  // how many of the buffer's bytes come before it
    MovedBytes bytes;
  };

  /// Comes behind what is in the buffer now.
  void insert(MovedBytes bytes) {
    const std::size_t size = view_of(bytes).size();
    inserts_.push_back({ByteBuffer::size(), std::move(bytes)});
    inserted_ += size;
  }

  /// Of all of it.
  std::size_t size() const noexcept { return ByteBuffer::size() + inserted_; }

  std::vector<Insert>& inserts() noexcept { return inserts_; }

  /// Keeps the capacity of the buffer.
  void clear() noexcept {
    ByteBuffer::clear();
    inserts_.clear();
    inserted_ = 0;
  }

 private:
  std::vector<Insert> inserts_;
  std::size_t inserted_ = 0;
};

}  // namespace drover::inline v1::detail
