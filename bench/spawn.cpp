// T-1: the time from Process::spawn until the first byte of a tiny program arrives. T-2: the time that the caller is
// blocked in Process::spawn. Each is measured with 10 MB and with 4 GB of resident memory in the parent.
#include <algorithm>
#include <memory>
#include <string>

#include "support/coroutine.hpp"
#include "support/raw.hpp"
#include "support/raw_threads.hpp"

namespace {

using bench::Clock;
using bench::Placement;

constexpr std::size_t mebi = std::size_t{1} << 20;

/// On a small machine the large parent is limited to two thirds of the available memory.
void resize_parent(benchmark::State& state, bool large) {
  static std::unique_ptr<bench::ResidentMemory> resident;
  std::size_t wanted = 10 * mebi;
  if (large) {
    wanted = bench::large_parent();
    if (!resident || resident->size() != wanted) wanted = std::min(wanted, bench::available_memory() / 3 * 2);
  }
  if (!resident || resident->size() != wanted) {
    resident.reset();
    resident = std::make_unique<bench::ResidentMemory>(wanted);
  }
  state.counters["parent_mb"] = static_cast<double>(wanted / mebi);
}

enum class Figure { first_byte, caller_blocked };

/// Measures the spawns of tiny children. Each child is reaped before the next one is spawned.
class Spawns {
 public:
  Spawns(benchmark::State& state, Figure figure, bool large) : state_(state), figure_(figure), samples_(state) {
    bench::pin_parent(Placement::anywhere);
    resize_parent(state, large);
  }

  /// spawn() returns the child as soon as the measured function has returned.
  template <class Spawn>
  auto measure(Spawn spawn) {
    const auto begin = Clock::now();
    auto child = spawn();
    const auto returned = Clock::now();
    bench::receive_byte(child_output_.read_end());
    const auto first_byte = Clock::now();
    samples_.add(state_, (figure_ == Figure::first_byte ? first_byte : returned) - begin);
    return child;
  }
  void report() { samples_.report(state_); }

 private:
  benchmark::State& state_;
  const Figure figure_;
  const bench::CapturedStderr child_output_;
  bench::Samples samples_;
};

void spawn_raw(benchmark::State& state, Figure figure, bool large) {
  Spawns spawns(state, figure, large);
  for ([[maybe_unused]] auto _ : state) bench::wait_for_exit(spawns.measure([] { return bench::spawn_tiny(); }));
  spawns.report();
}

/// A child as drover promises it: with ChildAttributes, and no open descriptors but 0, 1 and 2.
pid_t spawn_clean() {
  const bench::ChildAttributes attributes;
  bench::FileActions actions;
  actions.close_from(3);
  return bench::spawn_tiny(nullptr, &actions, attributes.get());
}

void spawn_raw_clean(benchmark::State& state, Figure figure, bool large) {
  Spawns spawns(state, figure, large);
  for ([[maybe_unused]] auto _ : state) bench::wait_for_exit(spawns.measure(spawn_clean));
  spawns.report();
}

/// spawn_clean(), and a reaper thread that has to learn of each child.
void spawn_raw_threads(benchmark::State& state, Figure figure, bool large) {
  Spawns spawns(state, figure, large);
  bench::ReaperThread reaper;
  for ([[maybe_unused]] auto _ : state) {
    spawns.measure([&] {
      const pid_t pid = spawn_clean();
      reaper.watch(pid);
      return pid;
    });
    reaper.wait();
  }
  spawns.report();
}

/// fork and exec, for comparison.
void spawn_forked(benchmark::State& state, Figure figure, bool large) {
  Spawns spawns(state, figure, large);
  const auto spawn = [] {
    const pid_t pid = bench::checked(::fork(), "fork");
    if (pid != 0) return pid;
    ::execl(DROVER_BENCH_TINY, DROVER_BENCH_TINY, nullptr);
    ::_exit(127);
  };
  for ([[maybe_unused]] auto _ : state) bench::wait_for_exit(spawns.measure(spawn));
  spawns.report();
}

asio::awaitable<void> spawn_drover(benchmark::State* state, Figure figure, bool large) {
  drover::Command command;
  command.program = DROVER_BENCH_TINY;
  command.in = command.out = command.err = drover::Stdio::inherit();
  Spawns spawns(*state, figure, large);
  for ([[maybe_unused]] auto _ : *state) {
    drover::Process process = spawns.measure([&] { return drover::Process::spawn(command); });
    co_await process.wait();
  }
  spawns.report();
}

}  // namespace

int main(int argc, char** argv) {
  for (const bool large : {false, true}) {
    for (const auto figure : {Figure::first_byte, Figure::caller_blocked}) {
      const std::string name = std::string(figure == Figure::first_byte ? "T-1" : "T-2") + (large ? "/4GB/" : "/10MB/");
      bench::add(name + "raw", 600, spawn_raw, figure, large);
      bench::add(name + "clean", 600, spawn_raw_clean, figure, large);
      bench::add(name + "threads", 600, spawn_raw_threads, figure, large);
      bench::add_coroutine(name + "drover", 600, Placement::anywhere, spawn_drover, figure, large);
      bench::add(name + "fork+exec", large ? 15 : 400, spawn_forked, figure, large);
    }
  }
  return bench::run(argc, argv);
}
