#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <unistd.h>

#include <drover/pool/map.hpp>
#include <drover/pool/stats.hpp>

#include "sha256.hpp"

/// Standard output gets a line for each file, as sha256sum prints it. Standard error gets failures, a line at the end
/// and, if it is a terminal, a progress bar.
class Report {
 public:
  static bool has_terminal() { return ::isatty(STDERR_FILENO) != 0; }

  /// Sets the number of files for the progress bar.
  void expect(std::uint64_t files) { expected_ = files; }

  void print(drover::MapResult<Digest, File>& result) {
    try {
      const Digest& digest = result.value();
      ++files_;
      bytes_ += digest.bytes;
      hide();
      const std::string line = checksum_line(digest.hex, result.input.path);
      std::fwrite(line.data(), 1, line.size(), stdout);
    } catch (const std::exception& error) {
      failure(result.input.path, error.what());
    }
  }

  void failure(std::string_view path, std::string_view what) {
    ++failures_;
    hide();
    tell("hash_tree: " + std::string(path) + ": " + std::string(what) + '\n');
  }

  std::uint64_t failures() const { return failures_; }

  void draw(const drover::PoolStats& pool) {
    constexpr std::size_t width = 24;
    const std::uint64_t handled = files_ + failures_;
    const std::size_t filled = expected_ == 0 ? 0 : std::min<std::size_t>(width, handled * width / expected_);
    tell("\r[" + std::string(filled, '#') + std::string(width - filled, '.') + "] " + std::to_string(handled) + '/' +
         std::to_string(expected_) + " files, " + size(rate()) + "/s, " + std::to_string(pool.ready) + '/' +
         std::to_string(pool.workers) + " workers ready, " + std::to_string(pool.in_flight) + " busy, " +
         std::to_string(died(pool)) + " died\x1b[K");
    shown_ = true;
  }

  void finish(const drover::PoolStats& pool) {
    hide();
    char seconds[32];
    std::snprintf(seconds, sizeof seconds, "%.1f s", elapsed());
    tell("hash_tree: " + std::to_string(files_) + " files, " + size(static_cast<double>(bytes_)) + " in " + seconds +
         " (" + size(rate()) + "/s), " + std::to_string(pool.size) + " workers; " + std::to_string(died(pool)) +
         " died, " + std::to_string(pool.restarts) + " were replaced\n");
  }

  /// Writes what is left for standard output. False, and a message, if some of it could not be written.
  bool flush() {
    hide();
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return true;
    std::perror("hash_tree: standard output");
    return false;
  }

 private:
  static void tell(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stderr); }

  /// Removes the progress bar, so that something else can be written to the terminal.
  void hide() {
    if (shown_) tell("\r\x1b[K");
    shown_ = false;
  }

  /// If the name has backslashes or line breaks, they are escaped, and the line begins with a backslash.
  static std::string checksum_line(const std::string& hex, const std::string& path) {
    std::string name;
    for (const char c : path) {
      switch (c) {
        case '\\': name += "\\\\"; break;
        case '\n': name += "\\n"; break;
        case '\r': name += "\\r"; break;
        default: name += c;
      }
    }
    return (name.size() == path.size() ? "" : "\\") + hex + "  " + name + '\n';
  }

  static std::string size(double bytes) {
    static constexpr const char* units[] = {"B", "kB", "MB", "GB", "TB"};
    std::size_t unit = 0;
    for (; bytes >= 1000 && unit < 4; ++unit) bytes /= 1000;
    char text[32];
    std::snprintf(text, sizeof text, "%.*f %s", unit == 0 ? 0 : 1, bytes, units[unit]);
    return text;
  }

  static std::uint64_t died(const drover::PoolStats& pool) { return pool.crashes + pool.deaths.killed_for_call; }

  double elapsed() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count(); }

  double rate() const { return static_cast<double>(bytes_) / std::max(elapsed(), 1e-3); }

  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::uint64_t expected_ = 0, files_ = 0, bytes_ = 0, failures_ = 0;
  bool shown_ = false;
};
