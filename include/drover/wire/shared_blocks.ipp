#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <iterator>
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
  /// Null if there is none. The program may have closed its descriptor.
  Block take(std::size_t size) noexcept {
    if (process_ != ::getpid()) return nullptr;  // and another thread may have held the mutex
    const std::lock_guard held(mutex_);
    auto best = free_.rend();
    for (auto each = free_.rbegin(); each != free_.rend(); ++each)
      if ((*each)->size() >= size && (*each)->size() / 2 <= std::max(size, granule) &&
          (best == free_.rend() || (*each)->size() < (*best)->size()))
        best = each;
    if (best == free_.rend()) return nullptr;
    Block taken = std::move(*best);
    free_.erase(std::prev(best.base()));
    kept_ -= taken->size();
    return taken;
  }

  /// The block is free. Those that were used least recently are destroyed if they are too many.
  void give_back(Block block) noexcept {
    if (process_ != ::getpid() || block->is_retired() || block->size() > most_kept_) return;
    std::array<Block, most_blocks + 1> destroyed;  // without the lock
    const std::lock_guard held(mutex_);
    try {
      free_.reserve(most_blocks);
    } catch (const std::bad_alloc&) {
      return;
    }
    const std::size_t with_it = kept_ + block->size();
    std::size_t too_many = free_.size() == most_blocks ? 1 : 0;
    kept_ = too_many != 0 ? with_it - free_.front()->size() : with_it;
    while (kept_ > most_kept_) kept_ -= free_[too_many++]->size();
    const auto end = free_.begin() + static_cast<std::ptrdiff_t>(too_many);
    std::move(free_.begin(), end, destroyed.begin());
    free_.erase(free_.begin(), end);
    free_.push_back(std::move(block));
  }

  /// So large that lengths which differ a little take the same block.
  static std::size_t rounded(std::size_t size) {
    if (size > PTRDIFF_MAX / 2) throw std::bad_alloc();
    const std::size_t step = std::max(granule, std::bit_floor(size) / 8);
    return (size + step - 1) / step * step;
  }

 private:
  static constexpr std::size_t granule = std::size_t{64} << 10;
  static constexpr std::size_t most_blocks = 64;

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
  while (block && !block->has_file()) block = store_->take(size);
  if (!block) block = detail::SharedMemory::block(detail::BlockStore::rounded(size));
  return {block.release(),
          [store = store_](detail::SharedMemory* memory) { store->give_back(detail::BlockStore::Block(memory)); }};
}

}}  // namespace drover::v1
