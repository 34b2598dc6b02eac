#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sched.h>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

#include "guard.hpp"

/// What the peers have in common: the same work that drover's benchmarks do, done by other libraries. Nothing of drover
/// is in here. Every program answers
///
///     --list                                  the figures it has and by what: "FIGURE PEER", one a line
///     --run FIGURE [--peer PEER] --seconds S  one line of JSON: figure, peer, value, unit, note
namespace peers {

using Clock = std::chrono::steady_clock;

inline double microseconds(Clock::duration d) { return std::chrono::duration<double, std::micro>(d).count(); }
inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Where processes run -------------------------------------------------------------------------------------------------

/// The two cores in use: DROVER_BENCH_CORES=0,1, else the first two that are allowed. The same one twice if there is
/// one.
inline std::pair<int, int> cores() {
  static const std::pair<int, int> chosen = [] {
    if (const char* text = std::getenv("DROVER_BENCH_CORES")) {
      char* end = nullptr;
      const int first = static_cast<int>(std::strtol(text, &end, 10));
      return std::pair(first, *end == ',' ? static_cast<int>(std::strtol(end + 1, nullptr, 10)) : first);
    }
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

/// This thread, and all threads and processes that it starts from now on.
inline void pin(int first, int second) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(first, &set);
  CPU_SET(second, &set);
  checked(::sched_setaffinity(0, sizeof set, &set), "sched_setaffinity");
}

// What is measured ----------------------------------------------------------------------------------------------------

struct Result {
  double value;
  std::string unit;
};

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Calls once(), which returns microseconds, for a fifth of the time to warm up and then for all of it.
template <class Once>
Result median_of(double seconds, Once once) {
  const auto warming = Clock::now();
  for (int i = 0; i < 3 || seconds_since(warming) < seconds / 5; ++i) once();
  std::vector<double> values;
  const auto start = Clock::now();
  while (values.size() < 5 || seconds_since(start) < seconds) values.push_back(once());
  return {median(std::move(values)), "us"};
}

/// Memory that makes this process so large that `total` bytes are resident. Plain 4 KiB pages, private: what fork
/// copies is their page table, and huge pages would hide that.
class Ballast {
 public:
  explicit Ballast(std::size_t total) {
    const std::size_t page = 4096;
    std::size_t mapped = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> mapped >> resident;
    if (resident * page >= total) return;
    size_ = total - resident * page;
    if (size_ + (std::size_t{1} << 29) > available())
      throw std::runtime_error("There is too little memory free for it.");
    memory_ = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) throw std::system_error(errno, std::system_category(), "mmap");
    ::madvise(memory_, size_, MADV_NOHUGEPAGE);
    for (std::size_t at = 0; at < size_; at += page) static_cast<volatile char*>(memory_)[at] = 1;
  }
  ~Ballast() {
    if (size_ != 0) ::munmap(memory_, size_);
  }
  Ballast(const Ballast&) = delete;
  Ballast& operator=(const Ballast&) = delete;

 private:
  static std::size_t available() {
    std::ifstream info("/proc/meminfo");
    for (std::string line; std::getline(info, line);)
      if (line.rfind("MemAvailable:", 0) == 0) return std::stoull(line.substr(13)) * 1024;
    return 0;
  }

  std::size_t size_ = 0;
  void* memory_ = nullptr;
};

// What a program offers -----------------------------------------------------------------------------------------------

struct Figure {
  std::string name, peer, note;
  std::function<Result(double seconds)> run;
};

/// The tiny program that is spawned: it writes a byte to stderr and ends, or stays if it is given an argument.
inline std::string tiny_program() {
  const char* said = std::getenv("DROVER_BENCH_TINY");
  return said ? said : DROVER_PEERS_TINY;
}

/// DROVER_BENCH_MEMORY_MB says what stands for 4 GB.
inline std::size_t large_parent() {
  const char* said = std::getenv("DROVER_BENCH_MEMORY_MB");
  return (said ? std::stoull(said) : std::size_t{4096}) << 20;
}

/// T-1: spawn() returns how many microseconds it took until the first byte of a tiny program arrived.
template <class Spawn>
void add_spawn(std::vector<Figure>& figures, const std::string& peer, const std::string& note, Spawn spawn) {
  for (const auto& [size, bytes] : {std::pair("10MB", std::size_t{10} << 20), std::pair("4GB", large_parent())})
    figures.push_back({std::string("T-1/") + size, peer, note, [=, amount = bytes](double seconds) {
                         const Ballast ballast(amount);
                         return median_of(seconds, spawn);
                       }});
}

/// Copies of this program that it starts itself, as --internal NAME ARGUMENTS...
using Role = std::function<int(const std::vector<std::string>& arguments)>;
using Roles = std::map<std::string, Role>;

// main() --------------------------------------------------------------------------------------------------------------

/// The private folder of this run; sockets go there.
inline std::filesystem::path& temporary_folder() {
  static std::filesystem::path folder;
  return folder;
}

inline int run_figure(const Figure& figure, double seconds) {
  return guarded([&](const std::filesystem::path& folder) {
    temporary_folder() = folder;
    pin(cores().first, cores().second);
    const Result result = figure.run(seconds);
    std::printf("{\"figure\": \"%s\", \"peer\": \"%s\", \"value\": %.6g, \"unit\": \"%s\", \"note\": \"%s\"}\n",
                figure.name.c_str(), figure.peer.c_str(), result.value, result.unit.c_str(), figure.note.c_str());
    return 0;
  });
}

inline int run_main(int argc, char** argv, const std::vector<Figure>& figures, const Roles& roles = {}) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  try {
    if (arguments.size() >= 2 && arguments[0] == "--internal")
      return roles.at(arguments[1])({arguments.begin() + 2, arguments.end()});
    if (arguments.size() == 1 && arguments[0] == "--list") {
      for (const Figure& figure : figures) std::printf("%s %s\n", figure.name.c_str(), figure.peer.c_str());
      return 0;
    }
    std::map<std::string, std::string> given;
    for (std::size_t i = 0; i + 1 < arguments.size(); i += 2) given[arguments[i]] = arguments[i + 1];
    const double seconds = given.count("--seconds") ? std::stod(given["--seconds"]) : 1.0;
    for (const Figure& figure : figures)
      if (figure.name == given["--run"] && (!given.count("--peer") || given["--peer"] == figure.peer))
        return run_figure(figure, seconds);
    std::fprintf(stderr, "usage: %s --list | --run FIGURE [--peer PEER] [--seconds S]\n", argv[0]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 2;
}

}  // namespace peers
