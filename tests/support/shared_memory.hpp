#pragma once

#include <cstddef>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include <drover/os/fd.hpp>

#if !defined(F_SEAL_FUTURE_WRITE)
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

/// Shared memory as tests make and count it.
namespace support {

inline constexpr int seals_of_memory = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
inline constexpr int seals_of_block = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE;

/// A memfd with this content and these seals.
inline drover::UniqueFd memory_file(std::string_view content, int seals, unsigned flags = MFD_ALLOW_SEALING) {
  drover::UniqueFd file(::memfd_create("test", MFD_CLOEXEC | flags));
  if (!file || ::write(file.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size()))
    throw std::runtime_error("memfd_create");
  if (seals != 0 && ::fcntl(file.get(), F_ADD_SEALS, seals) != 0) throw std::runtime_error("F_ADD_SEALS");
  return file;
}

inline std::size_t open_descriptors_here() {
  using Entries = std::filesystem::directory_iterator;
  return static_cast<std::size_t>(std::distance(Entries("/proc/self/fd"), Entries()));
}

/// The lines of /proc/self/maps that are memory which drover shares, or that tests do.
inline std::vector<std::string> shared_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::vector<std::string> found;
  for (std::string line; std::getline(maps, line);)
    if (line.find("memfd:drover shared memory") != std::string::npos || line.find("memfd:test") != std::string::npos)
      found.push_back(line);
  return found;
}

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}
inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace support
