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
#include <optional>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <system_error>
#include <utility>

#include <drover/os/detail/shared_memory.hpp>
#include <drover/wire/detail/codec_budget.hpp>
#include <drover/wire/detail/received_memory.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Blocks that have come before and are likely to come again. To map a block costs more than to fill it: the kernel
/// enters each of its pages into the page table. A mapping keeps its file, so no other file has the same identity.
class KnownBlocks {
 public:
  /// Null if the file is none of them.
  static std::shared_ptr<const SharedMemory> find(const FdIdentity& file) noexcept {
    const std::unique_lock held(mutex(), std::try_to_lock);  // in a forked copy it may be taken for ever
    if (!held) return nullptr;
    Blocks& all = blocks();
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Block& each) { return each.memory && each.file == file; });
    if (found == all.end()) return nullptr;
    std::rotate(all.begin(), found, found + 1);
    return all.front().memory;
  }

  static void add(const FdIdentity& file, std::shared_ptr<const SharedMemory> memory) noexcept {
    Blocks forgotten{};  // unmapped without the lock
    const std::unique_lock held(mutex(), std::try_to_lock);
    if (!held) return;
    Blocks& all = blocks();
    forgotten.back() = std::move(all.back());
    std::rotate(all.begin(), all.end() - 1, all.end());
    all.front() = {file, std::move(memory)};
    std::size_t sum = 0;
    for (std::size_t at = 0; at < all.size(); ++at) {
      if (all[at].memory) sum += all[at].memory->size();
      if (sum > most_mapped && at != 0) forgotten[at - 1] = std::move(all[at]);
    }
  }

 private:
  static constexpr std::size_t most_mapped = std::size_t{256} << 20;

  struct Block {
    FdIdentity file;
    std::shared_ptr<const SharedMemory> memory;
  };
  using Blocks = std::array<Block, 16>;  // the one that was used last comes first

  // Neither is ever destroyed: a thread may use them while the process exits.
  static std::mutex& mutex() noexcept {
    static std::mutex one;
    return one;
  }
  static Blocks& blocks() {
    static Blocks* const all = new Blocks;
    return *all;
  }
};

inline Mapping map_received(const UniqueFd& file, std::size_t size, int flags) {
  try {
    return Mapping(file.get(), size, PROT_READ, flags);
  } catch (const std::system_error& error) {
    if (error.code().value() == ENOMEM) throw;
    decode_failed(error.what());  // such as memory that was opened for writing only
  }
}

inline void check_size(std::size_t announced, const struct stat& status, bool exactly) {
  const auto found = static_cast<std::uint64_t>(status.st_size);
  if (exactly ? found != announced : found < announced)
    decode_failed("shared memory of " + std::to_string(found) + " bytes was sent as " + std::to_string(announced));
}

DROVER_INLINE std::shared_ptr<const SharedMemory> receive_memory(UniqueFd file, std::size_t size, Sender sender) {
  struct stat status{};
  std::optional<FdIdentity> identity;
  if (sender == Sender::trusted && ::fstat(file.get(), &status) == 0) {  // blocks come again and again
    identity = {status.st_dev, status.st_ino};
    if (auto known = KnownBlocks::find(*identity)) {
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
    Mapping mapping = map_received(file, size, MAP_PRIVATE);
    return std::make_shared<SharedMemory>(std::move(file), std::move(mapping), Sealing::sealed);
  }
  if (!identity) decode_failed("shared memory was sent that its sender can still change");
  if (!has(F_SEAL_SHRINK | F_SEAL_GROW)) decode_failed("shared memory was sent that its sender can still truncate");
  check_size(size, status, false);
  Mapping mapping = map_received(file, static_cast<std::size_t>(status.st_size), MAP_SHARED);
  auto memory = std::make_shared<const SharedMemory>(UniqueFd(), std::move(mapping), Sealing::block);
  KnownBlocks::add(*identity, memory);
  return memory;
}

}}}  // namespace drover::v1::detail
