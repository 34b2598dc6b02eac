#pragma once

#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <sched.h>
#include <string>
#include <sys/mman.h>
#include <utility>
#include <vector>

#include "system_call.hpp"

/// The clock, the cores and the memory that all benchmark programs use in the same way. The programs in peers/ include
/// this file, too: it is C++17 and knows nothing of drover.
namespace bench {

using Clock = std::chrono::steady_clock;

inline double microseconds(Clock::duration d) { return std::chrono::duration<double, std::micro>(d).count(); }
inline double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

// Cores ---------------------------------------------------------------------------------------------------------------

/// "0,1", or "0", which is the same core twice.
inline std::pair<int, int> parse_cores(const char* text) {
  char* end = nullptr;
  const int first = static_cast<int>(std::strtol(text, &end, 10));
  return {first, *end == ',' ? static_cast<int>(std::strtol(end + 1, nullptr, 10)) : first};
}

/// The two cores in use: those in DROVER_BENCH_CORES ("0,1"), otherwise the first two on which this process may run. If
/// there is only one, it is both.
inline std::pair<int, int> cores() {
  static const std::pair<int, int> chosen = [] {
    if (const char* text = std::getenv("DROVER_BENCH_CORES")) return parse_cores(text);
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    ::sched_getaffinity(0, sizeof allowed, &allowed);
    std::vector<int> found;
    for (int core = 0; core < CPU_SETSIZE && found.size() < 2; ++core)
      if (CPU_ISSET(core, &allowed)) found.push_back(core);
    return std::pair(found.front(), found.back());
  }();
  return chosen;
}

/// Pins this thread, and all threads and processes that it creates from now on. -1 is an error, see
/// sched_setaffinity(2).
inline int pin(std::initializer_list<int> where) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : where) CPU_SET(core, &set);
  return ::sched_setaffinity(0, sizeof set, &set);
}

// Memory --------------------------------------------------------------------------------------------------------------

/// Bytes that the kernel can still hand out, see proc_meminfo(5).
inline std::size_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  for (std::size_t kibi = 0; file >> name >> kibi; std::getline(file, unit))
    if (name == "MemAvailable:") return kibi * 1024;
  return 0;
}

/// The size of a large parent in bytes: 4 GB, or DROVER_BENCH_MEMORY_MB.
inline std::size_t large_parent() {
  const char* text = std::getenv("DROVER_BENCH_MEMORY_MB");
  return (text ? std::stoull(text) : std::size_t{4096}) << 20;
}

/// Resident private memory in pages of 4 KiB, as in a heap that has grown bit by bit. fork(2) copies the page table of
/// such memory; huge pages would hide what that costs.
class ResidentMemory {
 public:
  explicit ResidentMemory(std::size_t size) : size_(size) {
    memory_ = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) throw std::system_error(errno, std::system_category(), "mmap");
    ::madvise(memory_, size_, MADV_NOHUGEPAGE);
    for (std::size_t at = 0; at < size_; at += 4096) static_cast<volatile char*>(memory_)[at] = 1;
  }
  ~ResidentMemory() { ::munmap(memory_, size_); }
  ResidentMemory(const ResidentMemory&) = delete;
  ResidentMemory& operator=(const ResidentMemory&) = delete;

  std::size_t size() const noexcept { return size_; }

 private:
  std::size_t size_;
  void* memory_;
};

}  // namespace bench
