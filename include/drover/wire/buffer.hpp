#pragma once

#include <drover/detail/platform.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <span>
#include <utility>

#include <drover/wire/detail/large_blocks.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// A byte buffer that grows at the end. Unlike std::vector it never fills new space with zeros. Move-only; a moved-from
/// buffer is empty.
class ByteBuffer {
 public:
  ByteBuffer() noexcept = default;
  explicit ByteBuffer(std::size_t capacity) { reserve(capacity); }
  ByteBuffer(ByteBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        capacity_(std::exchange(other.capacity_, 0)) {}
  ByteBuffer& operator=(ByteBuffer&& other) noexcept {
    ByteBuffer taken(std::move(other));
    std::swap(data_, taken.data_);
    std::swap(size_, taken.size_);
    std::swap(capacity_, taken.capacity_);
    return *this;
  }
  ~ByteBuffer() { free(); }

  std::byte* data() noexcept { return data_; }
  const std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  std::size_t capacity() const noexcept { return capacity_; }
  bool empty() const noexcept { return size_ == 0; }
  std::span<const std::byte> view() const noexcept { return {data_, size_}; }

  /// Keeps the capacity.
  void clear() noexcept { size_ = 0; }

  /// Drops the bytes beyond `size`, which must not exceed size().
  void truncate(std::size_t size) noexcept { size_ = size; }

  void reserve(std::size_t capacity) {
    if (capacity > capacity_) reallocate(capacity);
  }

  /// Appends `count` uninitialised bytes. The pointer to the first of them is valid until the buffer grows again.
  std::byte* extend(std::size_t count) {
    if (count > capacity_ - size_) [[unlikely]]
      grow(count);
    return data_ + std::exchange(size_, size_ + count);
  }

  void append(const void* bytes, std::size_t count) {
    std::byte* const place = extend(count);
    if (count != 0) std::memcpy(place, bytes, count);
  }
  void append(std::span<const std::byte> bytes) { append(bytes.data(), bytes.size()); }

 private:
  void grow(std::size_t count) {
    constexpr std::size_t limit = std::numeric_limits<std::ptrdiff_t>::max() / 4;
    if (size_ > limit || count > limit) throw std::bad_alloc();
    constexpr std::size_t smallest = 128;
    reallocate(std::max({size_ + count, capacity_ * 2, smallest}));
  }

  // From this capacity on, memory comes from LargeBlocks instead of malloc(3).
  static constexpr std::size_t large = std::size_t{512} << 10;

  void reallocate(std::size_t capacity) {
    void* moved = nullptr;
    if (capacity < large) {
      moved = std::realloc(data_, capacity);
      if (moved == nullptr) throw std::bad_alloc();
    } else {
      moved = LargeBlocks::take(capacity);
      if (size_ != 0) std::memcpy(moved, data_, size_);
      free();
    }
    data_ = static_cast<std::byte*>(moved);
    capacity_ = capacity;
  }

  void free() noexcept {
    if (capacity_ >= large)
      LargeBlocks::give_back(data_, capacity_);
    else
      std::free(data_);
  }

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

}}}  // namespace drover::v1::detail
