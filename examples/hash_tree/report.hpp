#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <unistd.h>

/// Reports to standard error: a progress bar if that is a terminal, failures, and a line at the end.
class Report {
 public:
  struct Totals {
    std::uint64_t files{}, bytes{};
  };

  static bool is_a_terminal() { return ::isatty(STDERR_FILENO) != 0; }

  /// Sets the totals for the progress bar.
  void expect(Totals totals) { expected_ = totals; }

  void add(std::uint64_t bytes) {
    ++done_.files;
    done_.bytes += bytes;
  }

  void failure(std::string_view path, std::string_view what) {
    hide();
    ++failures_;
    print("hash_tree: " + std::string(path) + ": " + std::string(what) + '\n');
  }

  std::uint64_t failures() const { return failures_; }

  void draw(std::string_view workers) {
    constexpr std::size_t width = 24;
    const std::uint64_t handled = done_.files + failures_;
    const std::size_t filled =
        expected_.files == 0 ? 0 : std::min<std::size_t>(width, handled * width / expected_.files);
    print("\r[" + std::string(filled, '#') + std::string(width - filled, '.') + "] " + std::to_string(handled) + '/' +
          std::to_string(expected_.files) + " files, " + size(rate()) + "/s, " + std::string(workers) + "\x1b[K");
    shown_ = true;
  }

  /// Removes the progress bar. Call this before anything else is written to the terminal.
  void hide() {
    if (shown_) print("\r\x1b[K");
    shown_ = false;
  }

  void finish(std::string_view workers) {
    hide();
    char seconds[32];
    std::snprintf(seconds, sizeof seconds, "%.1f s", elapsed());
    print("hash_tree: " + std::to_string(done_.files) + " files, " + size(static_cast<double>(done_.bytes)) + " in " +
          seconds + " (" + size(rate()) + "/s), " + std::string(workers) + '\n');
  }

 private:
  static void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stderr); }

  static std::string size(double bytes) {
    static constexpr const char* units[] = {"B", "kB", "MB", "GB", "TB"};
    std::size_t unit = 0;
    for (; bytes >= 1000 && unit < 4; ++unit) bytes /= 1000;
    char text[32];
    std::snprintf(text, sizeof text, "%.*f %s", unit == 0 ? 0 : 1, bytes, units[unit]);
    return text;
  }

  double elapsed() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count(); }

  double rate() const { return static_cast<double>(done_.bytes) / std::max(elapsed(), 1e-3); }

  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  Totals expected_, done_;
  std::uint64_t failures_ = 0;
  bool shown_ = false;
};
