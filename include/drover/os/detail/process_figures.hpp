#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fcntl.h>
#include <optional>
#include <span>
#include <sys/types.h>
#include <unistd.h>

#include <drover/os/fd.hpp>
#include <drover/timeout.hpp>

/// What /proc says about a process, see proc(5). Empty if the process does not exist or /proc is not mounted.
namespace drover { inline namespace v1 { namespace detail {

/// The beginning of /proc/PID/`name`, with a NUL after it. 0 bytes if it cannot be read.
inline std::size_t read_process_file(pid_t pid, const char* name, std::span<char> text) noexcept {
  char path[48];
  std::snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
  const ssize_t size = file ? ::read(file.get(), text.data(), text.size() - 1) : -1;
  const std::size_t read = size > 0 ? static_cast<std::size_t>(size) : 0;
  text[read] = '\0';
  return read;
}

/// What follows the name of the command in the content of a stat file. Null if there is no such name. The name may
/// contain anything, spaces and parentheses too.
inline const char* after_command_name(std::span<const char> stat) noexcept {
  std::size_t end = stat.size();
  while (end > 0 && stat[end - 1] != ')') --end;
  return end > 0 ? stat.data() + end : nullptr;
}

/// Its parent, as seen in our pid namespace.
inline std::optional<pid_t> parent_of(pid_t pid) noexcept {
  char text[512];
  const std::size_t size = read_process_file(pid, "stat", text);
  const char* const rest = after_command_name(std::span(text, size));
  char state = 0;
  int parent = 0;
  if (rest == nullptr || std::sscanf(rest, " %c %d", &state, &parent) != 2) return std::nullopt;
  return parent;
}

/// Bytes of its memory that are in RAM. 0 for a zombie.
inline std::optional<std::size_t> resident_set(pid_t pid) noexcept {
  char text[256];
  unsigned long pages = 0;
  if (read_process_file(pid, "statm", text) == 0 || std::sscanf(text, "%*u %lu", &pages) != 1) return std::nullopt;
  return std::size_t{pages} * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

/// The fields utime and stime of a stat file, in ticks.
inline std::optional<std::uint64_t> cpu_ticks_in(std::span<const char> stat) noexcept {
  const char* const rest = after_command_name(stat);
  unsigned long user = 0;
  unsigned long system = 0;
  if (rest == nullptr || std::sscanf(rest, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
    return std::nullopt;
  return std::uint64_t{user} + system;
}

/// The user and system time of all its threads, in steps of 10 ms. Its children do not count.
inline std::optional<Duration> cpu_time(pid_t pid) noexcept {
  char text[1024];
  const std::size_t size = read_process_file(pid, "stat", text);
  const auto ticks = cpu_ticks_in(std::span<const char>(text, size));
  if (!ticks) return std::nullopt;
  const auto a_second = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  constexpr std::uint64_t ns = 1'000'000'000;
  return std::chrono::seconds(*ticks / a_second) + std::chrono::nanoseconds(*ticks % a_second * ns / a_second);
}

}}}  // namespace drover::v1::detail
