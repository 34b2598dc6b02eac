#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <sys/types.h>
#include <vector>

#include <drover/detail/config.hpp>
#include <drover/pool/histogram.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {

/// One worker of a pool at one moment.
struct WorkerFigures {
  std::size_t slot{};  ///< its place in the pool, from 0
  pid_t pid{};
  std::string name{};            ///< WorkerOptions::name
  bool ready{};                  ///< it takes calls
  bool is_spare{};               ///< it waits for the death of another worker; its slot is no_slot
  bool is_successor{};           ///< it starts beside the worker of its slot, which it is to replace
  bool has_successor{};          ///< its slot has another worker, or was removed; it finishes its calls and exits
  std::uint64_t calls{};         ///< that it has answered
  std::size_t in_flight{};       ///< calls that it runs, with those whose caller has given up
  Duration oldest_call{};        ///< for how long it has run the oldest one of them; zero if it runs none
  std::string oldest_routine{};  ///< the routine of that call
  std::size_t rss{};             ///< bytes of resident memory; 0 if the kernel does not say
  Duration cpu_time{};           ///< user and system time, in steps of 10 ms; zero if the kernel does not say
};

/// How the workers of a pool have ended, by cause. A stop of the pool and its first start count nothing.
struct WorkerDeaths {
  std::uint64_t crashed{};          ///< killed by a signal that drover did not send
  std::uint64_t exited{};           ///< exited by themselves, with any code, without having reported that they drain
  std::uint64_t drained{};          ///< reported that they drain, and exited with code 0
  std::uint64_t killed_for_call{};  ///< killed by CallOptions::kill_after
  std::uint64_t stalled{};          ///< killed by WorkerOptions::kill_stalled
  std::uint64_t failed_start{};     ///< could not be spawned, or did not get ready
  std::uint64_t protocol_error{};   ///< ended because they sent nonsense, or could not be reached any more
  std::uint64_t unknown{};          ///< somebody else in the program took the exit status away

  friend bool operator==(const WorkerDeaths&, const WorkerDeaths&) = default;
};

/// A pool at one moment. Its parts are read one after another while calls go on, so that they may differ by a call.
struct PoolStats {
  std::size_t workers{};     ///< processes that exist
  std::size_t ready{};       ///< workers that take calls
  std::size_t spares{};      ///< spare workers that are ready
  std::size_t size{};        ///< PoolOptions::size, or what the last resize() has made of it
  std::size_t max_size{};    ///< how many workers an elastic pool may have; otherwise the same as size
  std::size_t in_flight{};   ///< calls that a worker runs
  std::size_t queued{};      ///< calls that wait for a worker
  std::uint64_t calls{};     ///< so far
  std::uint64_t crashes{};   ///< unexpected exits of workers
  std::uint64_t restarts{};  ///< workers that replaced another one
  WorkerDeaths deaths{};
  /// How long calls have waited: from call() until a worker got the call, or until it ended without one, because its
  /// caller gave up or the pool stopped. A call that was sent ahead waits until its turn has come, and one with a
  /// run_for until its routine begins. Calls that were refused at once do not count. A call counts when it has ended.
  Histogram queue_time{};
  /// How long workers have had calls: from the end of queue_time until the result arrived or the worker exited, also if
  /// the caller had given up before. Calls that no worker began do not count.
  Histogram run_time{};
  /// The processes that exist, by slot. In each slot the worker that has it is the first.
  std::vector<WorkerFigures> per_worker{};

  /// One line for a log: "8 workers, 7 ready; 7 calls in flight, 2 queued, 1200 so far; waited 12 us (p50), 4.1 ms
  /// (p99); ran 2.1 ms (p50), 16 ms (p99); 1 crash, 1 restart".
  std::string to_string() const;
};

/// The stats of pools, each with a name of the program's choice, in the text format of Prometheus (version 0.0.4). The
/// name becomes the label `pool`. An exporter sends one such text; those of two pools can't be put one after another.
std::string metrics_text(const std::map<std::string, PoolStats>& pools);

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/detail/metrics.ipp>
#include <drover/pool/stats.ipp>
#endif
