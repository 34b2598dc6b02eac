#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <fcntl.h>
#include <memory>
#include <span>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

#include <drover/os/detail/shared_memory.hpp>

#if !defined(F_SEAL_FUTURE_WRITE)  // since Linux 5.1
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#if !defined(MFD_NOEXEC_SEAL)  // since Linux 6.3
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace drover { inline namespace v1 { namespace detail {

DROVER_INLINE Mapping::Mapping(int file, std::size_t size, int protection, int flags) {
  void* const memory = ::mmap(nullptr, size, protection, flags, file, 0);
  if (memory == MAP_FAILED) throw_errno("shared memory of " + std::to_string(size) + " bytes cannot be mapped");
  data_ = static_cast<std::byte*>(memory);
  size_ = size;
}

DROVER_INLINE Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

inline UniqueFd create_memory_file() {
  constexpr const char* name = "drover shared memory";
  constexpr unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  UniqueFd file(::memfd_create(name, flags | MFD_NOEXEC_SEAL));
  if (!file && errno == EINVAL) file.reset(::memfd_create(name, flags));  // before Linux 6.3
  if (!file) throw_errno("shared memory cannot be created");
  return above_stdio(std::move(file));
}

inline void set_size(int file, std::size_t size) {
  if (size > PTRDIFF_MAX) throw_errno("shared memory cannot have " + std::to_string(size) + " bytes", EFBIG);
  if (::ftruncate(file, static_cast<off_t>(size)) != 0)
    throw_errno("shared memory cannot have " + std::to_string(size) + " bytes");
}

inline void add_seals(int file, int write_seal) {
  if (::fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | write_seal) != 0)
    throw_errno("shared memory cannot be sealed");
}

/// Private, since before Linux 6.7 sealed memory could not be mapped in another way. Nobody writes to it anyway.
inline Mapping map_sealed(int file, std::size_t size) { return Mapping(file, size, PROT_READ, MAP_PRIVATE); }

/// write(2) takes a quarter of the time that writing to fresh memory through a mapping takes.
DROVER_INLINE std::shared_ptr<const SharedMemory> SharedMemory::copy_of(std::span<const std::byte> bytes) {
  UniqueFd file = create_memory_file();
  for (std::span<const std::byte> rest = bytes; !rest.empty();) {
    const ssize_t written = ::write(file.get(), rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0)
      throw_errno(std::to_string(bytes.size()) + " bytes cannot be copied to shared memory",
                  written == 0 ? ENOSPC : errno);
    rest = rest.subspan(static_cast<std::size_t>(written));
  }
  add_seals(file.get(), F_SEAL_WRITE);
  Mapping mapping = map_sealed(file.get(), bytes.size());
  return std::make_shared<SharedMemory>(std::move(file), std::move(mapping), Sealing::sealed);
}

inline SharedMemory create_writable(std::size_t size, Sealing sealing) {
  UniqueFd file = create_memory_file();
  set_size(file.get(), size);
  Mapping mapping(file.get(), size, PROT_READ | PROT_WRITE, MAP_SHARED);
  return {std::move(file), std::move(mapping), sealing};
}

DROVER_INLINE std::shared_ptr<SharedMemory> SharedMemory::draft(std::size_t size) {
  return std::make_shared<SharedMemory>(create_writable(size, Sealing::draft));
}

DROVER_INLINE std::unique_ptr<SharedMemory> SharedMemory::block(std::size_t size) {
  auto made = std::make_unique<SharedMemory>(create_writable(size, Sealing::block));
  add_seals(made->file(), F_SEAL_FUTURE_WRITE);
  return made;
}

DROVER_INLINE void SharedMemory::seal(std::size_t size) {
  (void)std::exchange(mapping_, Mapping());  // the kernel seals no memory that somebody can write to
  set_size(file(), size);
  add_seals(file(), F_SEAL_WRITE);
  mapping_ = map_sealed(file(), size);
  sealing_ = Sealing::sealed;
}

}}}  // namespace drover::v1::detail
