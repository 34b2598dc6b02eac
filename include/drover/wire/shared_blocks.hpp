#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include <drover/detail/config.hpp>
#include <drover/os/detail/shared_memory.hpp>
#include <drover/wire/shared.hpp>

namespace drover { inline namespace v1 {

namespace detail {
class BlockStore;
}

/// Memory for Shared arguments that is used again. Fresh memory costs more than the copy into it, because the kernel
/// has to find and clear every page, and both processes have to map it.
///
///     drover::SharedBlocks blocks;
///     auto page = blocks.copy_of<std::string>(text);
///     auto words = co_await pool.call<int>("count_words", page);
///
/// A block of it is free again when the last copy of its Shared is destroyed and the calls that had it have ended in
/// their workers. A worker keeps the blocks that it has received mapped, 16 of them or 256 MiB, and cannot write to
/// them.
/// **A worker that has received a block can read what is put into it later**, also for another worker, and what was in
/// it before, beyond the bytes that are sent. So use one SharedBlocks for workers that may see each other's arguments.
///
/// The block of a call is not used again if the call has ended while its worker may still run: the owner was destroyed,
/// or a wrapper has exited before the worker.
/// It is for arguments. As a result, or if a routine passes its argument on, the bytes are copied to sealed memory.
/// In a forked copy of the program its blocks are not used again; the copy must not read those that it has.
/// *Lifetime:* the values may outlive this object.
/// *Threads:* any.
class SharedBlocks {
 public:
  /// `most_kept`: bytes of free blocks that are kept, at most; of blocks, at most 64. Each has a descriptor.
  explicit SharedBlocks(std::size_t most_kept = std::size_t{256} << 20);
  /// Both have the same blocks.
  SharedBlocks(const SharedBlocks&) = default;
  SharedBlocks& operator=(const SharedBlocks&) = default;
  ~SharedBlocks() = default;

  /// Memory to be filled. Its content is undefined.
  /// *Errors:* std::system_error if there is no memory or no descriptor, or before Linux 5.1 (EINVAL); std::bad_alloc.
  template <class T>
  SharedDraft<T> draft(std::size_t size) {
    return SharedDraft<T>(size != 0 ? take(size) : nullptr, size);
  }

  /// Copies the bytes to such memory.
  /// *Errors:* as draft().
  template <class T>
  Shared<T> copy_of(typename Shared<T>::View bytes) {
    SharedDraft<T> filled = draft<T>(bytes.size());
    if (!bytes.empty()) std::memcpy(filled.bytes().data(), bytes.data(), bytes.size());
    return std::move(filled).seal();
  }

 private:
  std::shared_ptr<detail::SharedMemory> take(std::size_t size);

  std::shared_ptr<detail::BlockStore> store_;
};

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/wire/shared_blocks.ipp>
#endif
