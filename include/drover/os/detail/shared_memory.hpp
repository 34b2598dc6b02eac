#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include <drover/detail/config.hpp>
#include <drover/os/fd.hpp>

/// Memory that is sent to another process as a descriptor (memfd_create(2)).
namespace drover { inline namespace v1 { namespace detail {

/// A mapped file, see mmap(2). Move-only.
class Mapping {
 public:
  Mapping() noexcept = default;
  /// The first `size` bytes, at least one. Throws std::system_error.
  Mapping(int file, std::size_t size, int protection, int flags);
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Mapping();

  std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Says which processes can write to a block of shared memory.
enum class Sealing {
  draft,   // its creator writes to it, and has not sent it yet
  sealed,  // nobody can write to it any more
  block    // its creator alone can write to it, and will once nobody reads it: see SharedBlocks
};

/// Memory that is, or can be, shared with other processes, and its mapping in this one.
/// *Threads:* any, as for the bytes of a string.
class SharedMemory {
 public:
  SharedMemory(UniqueFd file, Mapping mapping, Sealing sealing) noexcept
      : file_(std::move(file)), mapping_(std::move(mapping)), sealing_(sealing) {}

  /// A sealed copy. Throws std::system_error.
  static std::shared_ptr<const SharedMemory> copy_of(std::span<const std::byte> bytes);
  /// Zeros that this process alone can write to. Throws std::system_error.
  static std::shared_ptr<SharedMemory> draft(std::size_t size);
  static std::unique_ptr<SharedMemory> block(std::size_t size);

  /// Seals a draft, of which the first `size` bytes stay, at least one. It must have its file. Throws
  /// std::system_error.
  void seal(std::size_t size);

  /// A process may read it for as long as it likes, so it is not to be filled again.
  void retire() const noexcept { retired_.store(true, std::memory_order_relaxed); }
  bool is_retired() const noexcept { return retired_.load(std::memory_order_relaxed); }

  std::byte* data() const noexcept { return mapping_.data(); }
  std::size_t size() const noexcept { return mapping_.size(); }
  Sealing sealing() const noexcept { return sealing_; }
  int file() const noexcept { return file_.get(); }
  /// False for a block of another process, and if the program has closed the descriptor: it cannot be sent.
  bool has_file() const noexcept { return file_.ours(); }

 private:
  KeptFd file_;
  Mapping mapping_;
  Sealing sealing_;
  mutable std::atomic<bool> retired_{false};
};

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/os/detail/shared_memory.ipp>
#endif
