#pragma once

#include <charconv>
#include <cstddef>
#include <fcntl.h>
#include <optional>
#include <string>
#include <sys/types.h>
#include <unistd.h>

#include <drover/os/fd.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Bytes of the process's resident set, from /proc/PID/statm; proc(5). Empty if the process has gone or /proc does not
/// show it.
inline std::optional<std::size_t> resident_set(pid_t pid) {
  const UniqueFd file(::open(("/proc/" + std::to_string(pid) + "/statm").c_str(), O_RDONLY | O_CLOEXEC));
  char text[128];
  const ssize_t size = file ? ::read(file.get(), text, sizeof text) : -1;
  if (size <= 0) return std::nullopt;
  const char* const end = text + size;
  std::size_t total = 0, resident = 0;
  const auto first = std::from_chars(text, end, total);
  if (first.ec != std::errc() || first.ptr == end) return std::nullopt;
  const auto second = std::from_chars(first.ptr + 1, end, resident);
  if (second.ec != std::errc()) return std::nullopt;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

}}}  // namespace drover::v1::detail
