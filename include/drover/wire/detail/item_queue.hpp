#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include <drover/wire/body.hpp>
#include <drover/wire/buffer.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Encoded items of a stream, in order. Small ones share blocks of memory, which are used again. A larger one may keep
/// the memory that it came in: from `worth_keeping` bytes on that is cheaper than a copy into a block.
class ItemQueue {
 public:
  static constexpr std::size_t worth_keeping = 2 * worth_moving;

  bool empty() const noexcept { return head_ == blocks_.size(); }

  /// Copies the item. Throws std::bad_alloc; then nothing has changed.
  void push(std::span<const std::byte> item) {
    const auto size = static_cast<std::uint32_t>(item.size());
    const std::size_t all = sizeof size + item.size();
    if (empty() || blocks_.back().single || blocks_.back().bytes.size() >= block_size) add_block(all);
    std::byte* const place = blocks_.back().bytes.extend(all);
    std::memcpy(place, &size, sizeof size);
    if (size != 0) std::memcpy(place + sizeof size, item.data(), item.size());
  }
  /// Keeps its memory, so it should be a large one. The same.
  void push(ByteBuffer&& item) { blocks_.push_back({.bytes = std::move(item), .single = true}); }

  /// The first item. There is one.
  /// *Lifetime:* until pop() or push().
  std::span<const std::byte> front() const noexcept {
    const Block& block = blocks_[head_];
    if (block.single) return block.bytes.view();
    std::uint32_t size = 0;
    std::memcpy(&size, block.bytes.data() + block.taken, sizeof size);
    return block.bytes.view().subspan(block.taken + sizeof size, size);
  }
  void pop() noexcept {
    Block& block = blocks_[head_];
    if (!block.single) {
      block.taken += sizeof(std::uint32_t) + front().size();
      if (block.taken < block.bytes.size()) return;
      if (spare_count_ < spares_.size() && block.bytes.capacity() <= 3 * block_size)
        spares_[spare_count_++] = std::move(block.bytes);
    }
    block.bytes = ByteBuffer();
    ++head_;
    if (empty()) return clear();
    if (head_ <= 32 || head_ <= blocks_.size() / 2) return;
    blocks_.erase(blocks_.begin(), blocks_.begin() + static_cast<std::ptrdiff_t>(head_));
    head_ = 0;
  }
  void clear() noexcept {
    blocks_.clear();
    head_ = 0;
  }
  void swap(ItemQueue& other) noexcept {
    std::swap(blocks_, other.blocks_);
    std::swap(head_, other.head_);
    std::swap(spares_, other.spares_);
    std::swap(spare_count_, other.spare_count_);
  }

 private:
  static constexpr std::size_t block_size = worth_moving;

  struct Block {
    ByteBuffer bytes{};
    bool single = false;    // one item, without its size before it
    std::size_t taken = 0;  // bytes that have been popped
  };

  /// With room for so many bytes, so that it does not stay empty.
  void add_block(std::size_t room) {
    ByteBuffer bytes;
    if (spare_count_ != 0) bytes = std::move(spares_[--spare_count_]);
    bytes.clear();
    bytes.reserve(room);
    blocks_.push_back({.bytes = std::move(bytes)});
  }

  std::vector<Block> blocks_;  // those before head_ are empty
  std::size_t head_ = 0;
  std::array<ByteBuffer, 4> spares_;  // of blocks that were taken
  std::size_t spare_count_ = 0;
};

}}}  // namespace drover::v1::detail
