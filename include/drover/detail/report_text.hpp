#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include <drover/timeout.hpp>

/// Parts of the lines that reports print. They do not depend on the locale.
namespace drover { inline namespace v1 { namespace detail {

/// With three digits, rounded down: "0 s", "64 ns", "1.23 us", "45.6 ms", "789 s".
inline std::string duration_text(Duration duration) {
  using Unit = std::pair<std::int64_t, const char*>;
  constexpr std::array<Unit, 4> units{{{1'000'000'000, " s"}, {1'000'000, " ms"}, {1'000, " us"}, {1, " ns"}}};
  const std::int64_t ns = std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
  if (ns <= 0) return ns == 0 ? "0 s" : "less than 0 s";
  std::size_t unit = 0;
  while (ns < units[unit].first) ++unit;
  const auto& [size, name] = units[unit];
  std::string text = std::to_string(ns / size);
  const std::string fraction = std::to_string(1000 + ns % size * 1000 / size).substr(1);
  std::size_t digits = text.size() < 3 && size > 1 ? 3 - text.size() : 0;
  while (digits > 0 && fraction[digits - 1] == '0') --digits;
  if (digits > 0) text += "." + fraction.substr(0, digits);
  return text + name;
}

/// "1 call", "2 calls". `ending`: of the plural.
inline std::string counted(std::uint64_t count, const char* noun, const char* ending = "s") {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : ending);
}

/// What a reap had to do, and what was lost of the output: "; SIGTERM sent; 2 lines (31 bytes) lost".
inline std::string reap_text(bool terminated, bool killed, std::size_t lost_lines, std::size_t lost_bytes) {
  std::string text;
  if (terminated || killed)
    text += std::string("; ") + (terminated ? "SIGTERM" : "") + (terminated && killed ? " and " : "") +
            (killed ? "SIGKILL" : "") + " sent";
  if (lost_lines != 0) text += "; " + counted(lost_lines, "line") + " (" + counted(lost_bytes, "byte") + ") lost";
  return text;
}

}}}  // namespace drover::v1::detail
