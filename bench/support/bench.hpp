#pragma once

#include <algorithm>
#include <benchmark/benchmark.h>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <sys/types.h>
#include <time.h>
#include <vector>

#include "machine.hpp"

/// Code that all benchmark programs share: placement on cores, samples, and their report.
///
/// A benchmark is named after its figure in bench/README.md and its method: "T-7/1c/drover". Its counter "value" is the
/// result, in the figure's unit. run.py reads this counter and the costs beside it.
namespace bench {

/// The number of calls of operator new on this thread so far.
std::uint64_t allocations() noexcept;

// Placement -----------------------------------------------------------------------------------------------------------

enum class Placement {
  one_core,   ///< "1c": parent and worker share a core. Shows what the code costs.
  two_cores,  ///< "2c": parent and worker have a core each. Shows the wake-up between cores as well.
  anywhere,   ///< Parent and worker may run on both cores.
};

inline void pin_parent(Placement placement) {
  if (placement == Placement::anywhere)
    pin({cores().first, cores().second});
  else
    pin({cores().first});
}
inline void pin_worker(Placement placement) {
  if (placement == Placement::anywhere)
    pin({cores().first, cores().second});
  else
    pin({placement == Placement::one_core ? cores().first : cores().second});
}

/// The environment variable by which a parent requests the cores of a worker that executes this program again.
inline constexpr const char* pin_variable = "DROVER_BENCH_PIN";
/// The variable names the cores: the worker inherits its parent's affinity, so its own cores() might differ.
inline std::string pin_value(Placement placement) {
  const std::string first = std::to_string(cores().first), second = std::to_string(cores().second);
  if (placement == Placement::anywhere) return first + "," + second;
  return placement == Placement::one_core ? first : second;
}
/// Pins a worker as its parent requested. In any other process it does nothing.
inline void pin_as_requested() {
  const char* requested = std::getenv(pin_variable);
  if (requested == nullptr) return;
  const auto [first, second] = parse_cores(requested);
  pin({first, second});
}

// Measurements --------------------------------------------------------------------------------------------------------

/// One number for each iteration. The result is their median.
class Samples {
 public:
  explicit Samples(const benchmark::State& state) { values_.reserve(static_cast<std::size_t>(state.max_iterations)); }

  /// `taken` is the time of the iteration that Google Benchmark reports, `value` the number that counts.
  void add(benchmark::State& state, Clock::duration taken, double value) {
    state.SetIterationTime(seconds(taken));
    values_.push_back(value);
  }
  void add(benchmark::State& state, Clock::duration taken) { add(state, taken, microseconds(taken)); }

  void report(benchmark::State& state) {
    if (values_.empty()) return;
    std::sort(values_.begin(), values_.end());
    const auto at = [&](double part) {
      return values_[static_cast<std::size_t>(part * static_cast<double>(values_.size() - 1))];
    };
    state.counters["value"] = at(0.5);
    state.counters["p10"] = at(0.1);
    state.counters["p90"] = at(0.9);
  }

 private:
  std::vector<double> values_;
};

/// The CPU time of this process, with all its threads, and of one other process, and the allocations of this thread,
/// from the construction to report().
class Costs {
 public:
  explicit Costs(pid_t other = 0) : has_other_(other != 0 && ::clock_getcpuclockid(other, &other_clock_) == 0) {
    other_ = has_other_ ? cpu(other_clock_) : 0;
    own_ = cpu(CLOCK_PROCESS_CPUTIME_ID);
    allocations_ = allocations();
  }

  void report(benchmark::State& state, double operations) const {
    const auto allocated = allocations() - allocations_;
    const double own = cpu(CLOCK_PROCESS_CPUTIME_ID) - own_;
    if (operations <= 0) return;
    state.counters["allocations"] = static_cast<double>(allocated) / operations;
    state.counters["cpu_us"] = own / operations;
    if (has_other_) state.counters["worker_cpu_us"] = (cpu(other_clock_) - other_) / operations;
  }

 private:
  static double cpu(clockid_t clock) {
    timespec now{};
    ::clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
  }

  clockid_t other_clock_{};
  bool has_other_;
  double other_{}, own_{};
  std::uint64_t allocations_{};
};

// Benchmarks ----------------------------------------------------------------------------------------------------------

/// The number of iterations that take DROVER_BENCH_SECONDS (0.5 by default), from a guess of how many take a second.
/// Google Benchmark would find the number itself, but by running the benchmark several times, each with a new worker.
/// DROVER_BENCH_ITERATIONS sets the exact number, which is needed for counting instructions.
inline std::int64_t iterations(double a_second) {
  if (const char* exact = std::getenv("DROVER_BENCH_ITERATIONS")) return std::atoll(exact);
  const char* text = std::getenv("DROVER_BENCH_SECONDS");
  return std::max<std::int64_t>(1, static_cast<std::int64_t>((text ? std::atof(text) : 0.5) * a_second));
}

/// The machine lacks what a benchmark needs. run.py then leaves its figure out, and prints the text.
class Unavailable : public std::runtime_error {
 public:
  explicit Unavailable(const std::string& why) : runtime_error("unavailable: " + why) {}
};

/// Registers function(state, arguments...). An exception from it ends this benchmark only.
template <class Function, class... Arguments>
void add(const std::string& name, double a_second, Function function, Arguments... arguments) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 try {
                                   function(state, arguments...);
                                 } catch (const std::exception& error) {
                                   state.SkipWithError(error.what());
                                 }
                               })
      ->Iterations(iterations(a_second))
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

inline int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace bench
