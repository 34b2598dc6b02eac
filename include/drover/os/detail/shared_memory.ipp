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
#include <sys/resource.h>
#include <sys/sysinfo.h>
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

[[noreturn]] inline void throw_size_error(std::size_t size, int error) {
  throw_errno("shared memory cannot have " + std::to_string(size) + " bytes", error);
}

/// The kernel would send SIGXFSZ to a thread that makes a file larger than that.
inline void check_file_limit(std::size_t size) {
  rlimit limit{};
  const bool limited = ::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  if (size > PTRDIFF_MAX || (limited && size > limit.rlim_cur)) throw_size_error(size, EFBIG);
}

inline void set_size(int file, std::size_t size) {
  check_file_limit(size);
  if (::ftruncate(file, static_cast<off_t>(size)) != 0) throw_size_error(size, errno);
}

/// Gets all of its memory from the kernel. If there were none left later, writing would be a SIGBUS.
inline void allocate(int file, std::size_t size) {
  constexpr std::size_t most_at_once = std::size_t{16} << 20;  // a signal undoes the piece that it interrupts
  struct sysinfo machine{};
  if (size > most_at_once && ::sysinfo(&machine) == 0 && size / machine.mem_unit > machine.totalram + machine.totalswap)
    throw_size_error(size, ENOMEM);  // rather than have processes killed to make room for it
  for (std::size_t done = 0; done < size;) {
    const std::size_t piece = std::min(size - done, most_at_once);
    if (::fallocate(file, 0, static_cast<off_t>(done), static_cast<off_t>(piece)) == 0)
      done += piece;
    else if (errno != EINTR)
      throw_size_error(size, errno);
  }
}

inline void add_seals(int file, int write_seal) {
  if (::fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | write_seal) != 0)
    throw_errno("shared memory cannot be sealed");
}

/// Private, since before Linux 6.7 sealed memory could not be mapped in another way. Nobody writes to it anyway.
inline Mapping map_sealed(int file, std::size_t size) { return Mapping(file, size, PROT_READ, MAP_PRIVATE); }

/// write(2) takes a quarter of the time that writing to fresh memory through a mapping takes.
DROVER_INLINE std::shared_ptr<const SharedMemory> SharedMemory::copy_of(std::span<const std::byte> bytes) {
  check_file_limit(bytes.size());
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

/// The mapping of a new file that this process can write to.
inline Mapping map_writable(int file, std::size_t size) {
  set_size(file, size);
  Mapping mapping(file, size, PROT_READ | PROT_WRITE, MAP_SHARED);
  allocate(file, size);  // last: a size for which there are no addresses costs nothing
  return mapping;
}

DROVER_INLINE std::shared_ptr<SharedMemory> SharedMemory::draft(std::size_t size) {
  UniqueFd file = create_memory_file();
  Mapping mapping = map_writable(file.get(), size);
  return std::make_shared<SharedMemory>(std::move(file), std::move(mapping), Sealing::draft);
}

DROVER_INLINE std::unique_ptr<SharedMemory> SharedMemory::block(std::size_t size) {
  UniqueFd file = create_memory_file();
  Mapping mapping = map_writable(file.get(), size);
  auto made = std::make_unique<SharedMemory>(std::move(file), std::move(mapping), Sealing::block);
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
