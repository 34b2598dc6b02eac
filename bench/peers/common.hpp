#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../support/machine.hpp"
#include "guard.hpp"

/// Code that all peers share. A peer does the work of drover's benchmarks with another library, and uses nothing of
/// drover. Every program prints
///
///     --list                                  the figures that it can measure: "FIGURE PEER", one a line
///     --run FIGURE [--peer PEER] --seconds S  the result, as one line of JSON: figure, peer, value, unit, note
namespace peers {

using bench::Clock;
using bench::cores;
using bench::microseconds;

inline double seconds_since(Clock::time_point start) { return bench::seconds(Clock::now() - start); }

inline void pin(int first, int second) { checked(bench::pin({first, second}), "sched_setaffinity"); }

// Measurements --------------------------------------------------------------------------------------------------------

struct Result {
  double value;
  std::string unit;
};

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Calls once(), which returns microseconds, for `seconds` after a warm-up of a fifth of that. Returns the median.
template <class Once>
Result median_of(double seconds, Once once) {
  const auto warming = Clock::now();
  for (int i = 0; i < 3 || seconds_since(warming) < seconds / 5; ++i) once();
  std::vector<double> values;
  const auto start = Clock::now();
  while (values.size() < 5 || seconds_since(start) < seconds) values.push_back(once());
  return {median(std::move(values)), "us"};
}

/// Allocates memory until `total` bytes of this process are resident.
inline std::unique_ptr<bench::ResidentMemory> ballast(std::size_t total) {
  std::size_t mapped = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> mapped >> resident;
  resident *= 4096;
  if (resident >= total) return nullptr;
  if (total - resident + (std::size_t{1} << 29) > bench::available_memory())
    throw std::runtime_error("there is too little free memory for a parent of this size");
  return std::make_unique<bench::ResidentMemory>(total - resident);
}

// Figures and roles ---------------------------------------------------------------------------------------------------

struct Figure {
  std::string name, peer, note;
  std::function<Result(double seconds)> run;
};

/// The path of the tiny program, see ../support/tiny.cpp.
inline std::string tiny_program() {
  const char* path = std::getenv("DROVER_BENCH_TINY");
  return path ? path : DROVER_PEERS_TINY;
}

/// T-1: spawn() spawns the tiny program and returns the microseconds until its first byte arrived.
template <class Spawn>
void add_spawn(std::vector<Figure>& figures, const std::string& peer, const std::string& note, Spawn spawn) {
  for (const auto& [size, bytes] : {std::pair("10MB", std::size_t{10} << 20), std::pair("4GB", bench::large_parent())})
    figures.push_back({std::string("T-1/") + size, peer, note, [=, amount = bytes](double seconds) {
                         const auto memory = ballast(amount);
                         return median_of(seconds, spawn);
                       }});
}

/// The functions that a copy of this program runs if the program starts it as --internal NAME ARGUMENTS...
using Role = std::function<int(const std::vector<std::string>& arguments)>;
using Roles = std::map<std::string, Role>;

// main() --------------------------------------------------------------------------------------------------------------

/// The private folder of this run, for sockets.
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
    if (given.count("--run"))
      std::fprintf(stderr, "%s has no figure \"%s\" of \"%s\"; --list prints what it has\n", argv[0],
                   given["--run"].c_str(), given.count("--peer") ? given["--peer"].c_str() : "any peer");
    else
      std::fprintf(stderr, "usage: %s --list | --run FIGURE [--peer PEER] [--seconds S]\n", argv[0]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 2;
}

}  // namespace peers
