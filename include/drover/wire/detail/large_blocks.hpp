#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <sys/mman.h>

namespace drover { inline namespace v1 { namespace detail {

/// For memory that is about to be written for the first time, from any allocator: a page of 2 MiB costs little more to
/// get than one of 4 KiB. This is a hint, which no kernel has to follow.
inline void prefer_huge_pages(void* memory, std::size_t size) noexcept {
  constexpr std::uintptr_t huge = std::uintptr_t{2} << 20;
  const std::uintptr_t begin = (reinterpret_cast<std::uintptr_t>(memory) + huge - 1) / huge * huge;
  const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(memory) + size) / huge * huge;
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

/// Memory for large messages. Fresh memory costs more than sending what is written to it, because the kernel has to
/// find and clear every page. So a few returned blocks are kept and used again. Their total size is bounded, and the
/// kernel may take large blocks back while they are not in use (MADV_FREE in madvise(2)). Any thread may call it.
class LargeBlocks {
 public:
  /// Returns at least `size` uninitialised bytes, and sets `size` to their number.
  static void* take(std::size_t& size) {
    size = rounded(size);
    {
      // If the lock is taken, perhaps for ever in a forked copy, do without.
      const std::unique_lock held(mutex_, std::try_to_lock);
      if (held) {
        Block* best = nullptr;
        for (Block& block : kept_)
          if (block.size >= size && block.size / 2 <= size && (best == nullptr || block.size < best->size))
            best = &block;
        if (best != nullptr) {
          size = best->size;
          best->size = 0;
          return best->memory;
        }
      }
    }
    void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    prefer_huge_pages(memory, size);
    return memory;
  }

  static void give_back(void* memory, std::size_t size) noexcept {
    if (size <= most_kept) {
      const std::unique_lock held(mutex_, std::try_to_lock);
      if (held) {
        std::size_t sum = size;
        for (const Block& block : kept_) sum += block.size;
        for (Block& block : kept_) {
          if (block.size != 0 || sum > most_kept) continue;
          if (size >= worth_telling) ::madvise(memory, size, MADV_FREE);
          block = {memory, size};
          return;
        }
      }
    }
    ::munmap(memory, size);
  }

 private:
  static constexpr std::size_t most_kept = std::size_t{192} << 20;
  static constexpr std::size_t worth_telling = std::size_t{8} << 20;
  static constexpr std::size_t granule = std::size_t{64} << 10;

  struct Block {
    void* memory;
    std::size_t size;  // 0: none
  };

  static std::size_t rounded(std::size_t size) {
    if (size > PTRDIFF_MAX - granule) throw std::bad_alloc();
    return (size + granule - 1) / granule * granule;
  }

  static inline std::mutex mutex_;
  static inline Block kept_[8] = {};
};

}}}  // namespace drover::v1::detail
