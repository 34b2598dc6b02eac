#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <unistd.h>
#include <utility>
#include <vector>

#include <drover/wire/shared_blocks.hpp>

namespace drover { inline namespace v1 {

namespace detail {

/// The free blocks of a SharedBlocks. The blocks in use refer to it.
/// A forked copy shares the memory of all blocks with the original, so it forgets them.
class BlockStore {
 public:
  using Block = std::unique_ptr<SharedMemory>;

  explicit BlockStore(std::size_t most_kept) noexcept : most_kept_(most_kept) {}

  /// Returns the smallest one that is large enough, and not far too large; of equal ones the one that was used last.
  /// Null if there is none.
  Block take(std::size_t size) noexcept {
    const std::unique_lock held(mutex_, std::try_to_lock);  // in a forked copy it may be taken for ever
    if (!held || process_ != ::getpid()) return nullptr;
    auto best = free_.end();
    for (auto each = free_.begin(); each != free_.end(); ++each)
      if ((*each)->size() >= size && (*each)->size() / 2 <= std::max(size, granule) && (*each)->has_file() &&
          (best == free_.end() || (*each)->size() <= (*best)->size()))
        best = each;
    if (best == free_.end()) return nullptr;
    Block taken = std::move(*best);
    free_.erase(best);
    kept_ -= taken->size();
    return taken;
  }

  /// The block is free. The one that was used least recently is destroyed if they are too many.
  void give_back(Block block) noexcept {
    std::vector<Block> destroyed;  // without the lock
    const std::unique_lock held(mutex_, std::try_to_lock);
    if (!held || process_ != ::getpid() || block->size() > most_kept_) return;
    try {
      free_.reserve(free_.size() + 1);
      kept_ += block->size();
      free_.push_back(std::move(block));
      std::size_t too_many = 0;
      for (; kept_ > most_kept_; ++too_many) kept_ -= free_[too_many]->size();
      const auto end = free_.begin() + static_cast<std::ptrdiff_t>(too_many);
      if (too_many != 0) destroyed.assign(std::make_move_iterator(free_.begin()), std::make_move_iterator(end));
      free_.erase(free_.begin(), end);
    } catch (const std::bad_alloc&) {  // then it is destroyed, or is kept although there are too many
    }
  }

  /// So large that lengths which differ a little take the same block.
  static std::size_t rounded(std::size_t size) {
    if (size > PTRDIFF_MAX / 2) throw std::bad_alloc();
    const std::size_t step = std::max(granule, std::bit_floor(size) / 8);
    return (size + step - 1) / step * step;
  }

 private:
  static constexpr std::size_t granule = std::size_t{64} << 10;

  const pid_t process_ = ::getpid();
  const std::size_t most_kept_;
  std::mutex mutex_;
  std::vector<Block> free_;  // the one that was used last comes last
  std::size_t kept_ = 0;
};

}  // namespace detail

DROVER_INLINE SharedBlocks::SharedBlocks(std::size_t most_kept)
    : store_(std::make_shared<detail::BlockStore>(most_kept)) {}

DROVER_INLINE std::shared_ptr<detail::SharedMemory> SharedBlocks::take(std::size_t size) {
  auto block = store_->take(size);
  if (!block) block = detail::SharedMemory::block(detail::BlockStore::rounded(size));
  return {block.release(),
          [store = store_](detail::SharedMemory* memory) { store->give_back(detail::BlockStore::Block(memory)); }};
}

}}  // namespace drover::v1
