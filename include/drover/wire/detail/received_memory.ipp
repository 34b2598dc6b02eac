#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <fcntl.h>
#include <linux/magic.h>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include <drover/os/detail/shared_memory.hpp>
#include <drover/wire/detail/codec_budget.hpp>
#include <drover/wire/detail/received_memory.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// A block that a trusted sender has sent. Before Linux 5.9 another memfd could have the same inode number.
struct BlockIdentity {
  FdIdentity file;
  off_t size{};
  timespec changed{};

  explicit BlockIdentity(const struct stat& status) noexcept
      : file{status.st_dev, status.st_ino}, size(status.st_size), changed(status.st_ctim) {}
  BlockIdentity() noexcept = default;
  friend bool operator==(const BlockIdentity& a, const BlockIdentity& b) noexcept {
    return a.file == b.file && a.size == b.size && a.changed.tv_sec == b.changed.tv_sec &&
           a.changed.tv_nsec == b.changed.tv_nsec;
  }
};

/// Blocks that have come before and are likely to come again. To map a block costs more than to fill it: the kernel
/// enters each of its pages into the page table. A mapping keeps its file, so no other file has the same identity.
/// A forked copy does not use them: another thread may have held the mutex.
class KnownBlocks {
 public:
  static KnownBlocks& get() noexcept {
    alignas(KnownBlocks) static std::byte place[sizeof(KnownBlocks)];
    // Never destroyed: a thread may use it while the process exits. Not allocated: that may fail.
    static KnownBlocks* const one = ::new (static_cast<void*>(place)) KnownBlocks;
    return *one;
  }

  /// Null if the file is none of them.
  std::shared_ptr<const SharedMemory> find(const BlockIdentity& file) noexcept {
    if (process_ != ::getpid()) return nullptr;
    const std::lock_guard held(mutex_);
    const auto found = std::find_if(blocks_.begin(), blocks_.end(),
                                    [&](const Block& each) { return each.memory && each.file == file; });
    if (found == blocks_.end()) return nullptr;
    std::rotate(blocks_.begin(), found, found + 1);
    return blocks_.front().memory;
  }

  void add(const BlockIdentity& file, std::shared_ptr<const SharedMemory> memory) noexcept {
    if (process_ != ::getpid()) return;
    Blocks forgotten{};  // unmapped without the lock
    const std::lock_guard held(mutex_);
    forgotten.back() = std::move(blocks_.back());
    std::rotate(blocks_.begin(), blocks_.end() - 1, blocks_.end());
    blocks_.front() = {file, std::move(memory)};
    std::size_t sum = 0;
    for (std::size_t at = 0; at < blocks_.size(); ++at) {
      if (blocks_[at].memory) sum += blocks_[at].memory->size();
      if (sum > most_mapped && at != 0) forgotten[at - 1] = std::move(blocks_[at]);
    }
  }

 private:
  static constexpr std::size_t most_mapped = std::size_t{256} << 20;

  struct Block {
    BlockIdentity file;
    std::shared_ptr<const SharedMemory> memory;
  };
  using Blocks = std::array<Block, 16>;  // the one that was used last comes first

  KnownBlocks() noexcept = default;

  const pid_t process_ = ::getpid();
  std::mutex mutex_;
  Blocks blocks_;
};

inline Mapping map_received(const UniqueFd& file, std::size_t size, int flags) {
  try {
    return Mapping(file.get(), size, PROT_READ, flags);
  } catch (const std::system_error& error) {
    const int value = error.code().value();
    if (value != EACCES && value != EPERM) throw;
    decode_failed(error.what());  // it was opened for writing only
  }
}

inline void check_size(std::size_t announced, const struct stat& status, bool exactly) {
  const auto found = static_cast<std::uint64_t>(status.st_size);
  if (exactly ? found != announced : found < announced)
    decode_failed("shared memory of " + std::to_string(found) + " bytes was sent as " + std::to_string(announced));
}

/// Refuses memory that takes more than it says, or less. A hole would be allocated when it is read, which may fail, as
/// a SIGBUS, or make this process answer for the memory.
inline void check_allocated(std::size_t size, const struct stat& status) {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t huge_page = page * (page / 8);  // the kernel may have used one for the end
  const std::uint64_t allocated = static_cast<std::uint64_t>(status.st_blocks) * 512;
  if (allocated < size) decode_failed("shared memory was sent of which its sender has allocated a part");
  if (allocated > (size + huge_page - 1) / huge_page * huge_page)
    decode_failed("shared memory of " + std::to_string(size) + " bytes was sent that takes " +
                  std::to_string(allocated));
}

/// Pages beyond the end of the memory may hide holes in it, see check_allocated(). A hole that cannot be filled is an
/// error here, and would be a SIGBUS later. The reader would enter the pages into the page table anyway.
inline void fill_holes(const Mapping& mapping) {
  constexpr int populate_read = 22;  // MADV_POPULATE_READ, since Linux 5.14
  while (::madvise(mapping.data(), mapping.size(), populate_read) != 0)
    if (errno != EINTR) throw_errno("shared memory cannot be read");
}

/// The same before Linux 5.14: the bytes in memory of this process. Reading a hole does not allocate it.
inline Mapping copy_received(const UniqueFd& file, std::size_t size) {
  Mapping copy(-1, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  for (std::size_t done = 0; done < size;) {
    const ssize_t count = ::pread(file.get(), copy.data() + done, size - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw_errno("shared memory cannot be read", count == 0 ? EIO : errno);
    done += static_cast<std::size_t>(count);
  }
  (void)::mprotect(copy.data(), size, PROT_READ);
  return copy;
}

inline Mapping map_untrusted(const UniqueFd& file, std::size_t size) {
  Mapping mapping = map_received(file, size, MAP_PRIVATE);
  try {
    fill_holes(mapping);
  } catch (const std::system_error& error) {
    if (error.code().value() != EINVAL) throw;
    return copy_received(file, size);
  }
  return mapping;
}

DROVER_INLINE std::shared_ptr<const SharedMemory> receive_memory(UniqueFd file, std::size_t size, Sender sender) {
  struct stat status{};
  std::optional<BlockIdentity> identity;
  if (sender == Sender::trusted && ::fstat(file.get(), &status) == 0) {  // blocks come again and again
    identity.emplace(status);
    if (auto known = KnownBlocks::get().find(*identity)) {
      check_size(size, status, false);
      return known;
    }
  }
  // Of a file that is not in memory this fails, and does not ask its file system, which may block.
  const int seals = ::fcntl(file.get(), F_GET_SEALS);
  if (seals < 0) decode_failed("expected shared memory, found a descriptor of something else");
  struct statfs system{};
  if (::fstatfs(file.get(), &system) != 0 || ::fstat(file.get(), &status) != 0)
    throw_errno("shared memory cannot be looked at");
  // There may be no huge page left when one is read, which is a SIGBUS.
  if (system.f_type != TMPFS_MAGIC) decode_failed("shared memory of huge pages is not accepted");
  const auto has = [seals](int wanted) { return (seals & wanted) == wanted; };
  if (has(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)) {
    check_size(size, status, true);  // it stays as long as this process has it
    if (sender == Sender::untrusted) check_allocated(size, status);
    Mapping mapping = sender == Sender::untrusted ? map_untrusted(file, size) : map_received(file, size, MAP_PRIVATE);
    return std::make_shared<SharedMemory>(std::move(file), std::move(mapping), Sealing::sealed);
  }
  if (!identity) decode_failed("shared memory was sent that its sender can still change");
  if (!has(F_SEAL_SHRINK | F_SEAL_GROW)) decode_failed("shared memory was sent that its sender can still truncate");
  check_size(size, status, false);
  Mapping mapping = map_received(file, static_cast<std::size_t>(status.st_size), MAP_SHARED);
  auto memory = std::make_shared<const SharedMemory>(UniqueFd(), std::move(mapping), Sealing::block);
  KnownBlocks::get().add(*identity, memory);
  return memory;
}

}}}  // namespace drover::v1::detail
