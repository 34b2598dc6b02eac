#pragma once

#include <drover/detail/platform.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <drover/detail/brace_safe.hpp>
#include <drover/event.hpp>
#include <drover/exit_status.hpp>
#include <drover/os/command.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/on_terminate.hpp>

namespace drover { inline namespace v1 {

/// How one worker is started, stopped and told apart. Times are steady-clock durations; negative ones, a max_in_flight
/// of 0, a max_message_size of 0 or over 2 GiB and an empty program are refused with std::invalid_argument when the
/// worker is started.
struct WorkerOptions {
  /// Shown in events and errors, and told to the worker.
  detail::BraceSafe<std::string> name = "worker";
  /// The program to run; its main() has to reach drover::serve().
  Command command = Command::self();
  /// What CallOptions::tags may ask for.
  detail::BraceSafe<std::set<std::string>> tags{};
  /// The caller's own notes; kept in WorkerMetadata.
  detail::BraceSafe<std::map<std::string, std::string>> extra{};
  /// How long stop() lets calls finish by default, and how long a worker whose parent has died may take to end.
  Duration shutdown_grace = std::chrono::seconds(10);
  /// How long SIGTERM may take before SIGKILL follows.
  Duration term_grace = std::chrono::seconds(5);
  /// What a stop may take beyond its grace before SIGTERM is sent.
  Duration stop_margin = std::chrono::seconds(5);
  using OnTerminate = drover::OnTerminate;
  /// What SIGTERM from outside does to the worker. A worker that ends so counts as one that ended gracefully.
  OnTerminate on_terminate = OnTerminate::cancel;
  /// Calls that the worker runs at a time, the others wait in the parent. With 1 a crash takes one call with it; raise
  /// it for routines that are coroutines.
  std::size_t max_in_flight = 1;
  /// Bytes of one message, each way: a call with its arguments, an answer. Once decoded, an answer may take 48 bytes of
  /// memory for each of its bytes, and 16 MiB or a quarter of this bound, whichever is more, beyond that; over it the
  /// call fails with Errc::bad_arguments.
  std::size_t max_message_size = std::size_t{64} << 20;
  /// Told what happens to the worker, in order, on the executor that the worker or the pool was made with. What it
  /// throws is dropped. What happened before stop(), or a start() that fails, returns has been told by then (so it must
  /// not block until they return), unless the executor does not run or the waiting is cancelled twice; nothing is told
  /// once the worker or the pool has been destroyed, but for what another thread of the context is telling just then.
  detail::BraceSafe<std::function<void(const Event&)>> on_event{};
};

/// What is known of a worker that is ready.
struct WorkerMetadata {
  std::string name{};
  pid_t pid{};
  std::string version{};  ///< of the drover library in the worker
  std::set<std::string> tags{};
  std::map<std::string, std::string> extra{};
  std::vector<std::string> routines{};  ///< names of the routines it serves, sorted
};

/// A worker's own answer to status().
struct WorkerStatus {
  std::size_t in_flight{};  ///< calls that it has read and not answered
  Duration idle_for{};      ///< since its last call ended; 0 while one is in flight
  std::uint64_t served{};   ///< calls answered
};

/// How a stop went.
struct StopReport {
  /// What became of the request to stop: success if the worker acknowledged it, Errc::deadline_exceeded if it did not
  /// in time, Errc::connection_lost, Errc::worker_exited if it was dead already, Errc::not_running if it had not
  /// been ready yet, operation_aborted if the caller was cancelled.
  std::error_code rpc{};
  ExitStatus exit{};
  bool terminated{}, killed{};         ///< SIGTERM, SIGKILL had to be sent
  std::size_t drained{}, cancelled{};  ///< calls that finished during the stop, and that it cancelled
  Duration elapsed{};
  std::size_t lost_lines{}, lost_bytes{};  ///< of its output, see ReapReport
};

/// How one call is made.
struct CallOptions {
  /// Covers waiting for a free worker, sending and running. When it is over the call ends with Errc::deadline_exceeded
  /// and is cancelled in the worker. nullopt: no bound.
  Timeout deadline{};
  /// Kills the worker if the routine has not ended this long after the deadline or the cancellation. A pool replaces it
  /// at once and does not count it as a crash. nullopt: never.
  Timeout kill_after{};
  /// Only workers that have all of them.
  detail::BraceSafe<std::set<std::string>> tags{};
};

/// How a pool replaces workers that end unasked. Each slot of a pool is counted by itself.
struct RestartPolicy {
  /// More deaths than this `within` that time, and the slot is given up: it waits max_backoff, and then tries one
  /// worker after another until one answers a call or lives for `within`. While all slots are given up, calls fail at
  /// once with Errc::pool_failed. Deaths of workers that have answered a call do not count, nor ends that were asked
  /// for.
  std::size_t max_restarts = 5;
  Duration within = std::chrono::seconds(10);
  /// Before a replacement; doubled for each other death that counts `within` that time, up to max_backoff.
  Duration backoff = std::chrono::milliseconds(50);
  Duration max_backoff = std::chrono::seconds(5);
};

namespace detail {
inline std::size_t default_pool_size() noexcept {
  const unsigned sessions = std::thread::hardware_concurrency();
  return sessions == 0 ? 1 : sessions;
}
}  // namespace detail

/// How a pool of workers is made.
struct PoolOptions {
  std::size_t size = detail::default_pool_size();
  /// How each worker is made. Its shutdown_grace governs what happens when this process dies.
  WorkerOptions worker{};
  /// For each worker, replacements included.
  Timeout start_timeout = std::chrono::seconds(30);
  /// The grace of WorkerPool::stop().
  Timeout shutdown_grace = std::chrono::seconds(10);
  /// Cuts the graceful part of stop(): when it is over, what still runs is sent SIGTERM, and SIGKILL after
  /// worker.term_grace; so stop() may overrun it by that. nullopt: shutdown_grace + worker.stop_margin is the bound.
  Timeout shutdown_timeout{};
  RestartPolicy restart{};
  /// Calls that wait for a free worker; the next one is refused with Errc::overloaded.
  std::size_t max_queued = 1024;
};

/// A pool at one moment.
struct PoolStats {
  std::size_t workers{};     ///< processes that exist
  std::size_t ready{};       ///< of these, that take calls
  std::size_t in_flight{};   ///< calls in a worker
  std::size_t queued{};      ///< calls that wait for one
  std::uint64_t calls{};     ///< ever made
  std::uint64_t crashes{};   ///< workers that ended unasked
  std::uint64_t restarts{};  ///< workers that took another's place
};

/// The name of a routine, from a string only (so that options given in its place are a compile error).
class RoutineName {
 public:
  template <class S>
    requires std::convertible_to<const S&, std::string_view> && (!std::same_as<std::remove_cvref_t<S>, std::nullptr_t>)
  RoutineName(const S& name) : name_(checked(name)) {}

  std::string_view view() const noexcept { return name_; }

 private:
  template <class S>
  static std::string_view checked(const S& name) {
    if constexpr (std::is_pointer_v<S>) {
      if (name == nullptr) throw std::invalid_argument("the name of a routine is a null pointer");
    }
    return static_cast<std::string_view>(name);
  }

  std::string_view name_;
};

namespace detail {

/// Throws std::invalid_argument that names the option and says what to change.
inline void check(const WorkerOptions& options) {
  if (options.command.program.empty())
    throw std::invalid_argument("WorkerOptions::command has no program; name one, or use Command::self()");
  if (options.max_in_flight == 0) throw std::invalid_argument("WorkerOptions::max_in_flight must be at least 1");
  if (options.max_message_size == 0)
    throw std::invalid_argument("WorkerOptions::max_message_size must be at least 1 byte");
  if (options.max_message_size > std::size_t{1} << 31)
    throw std::invalid_argument("WorkerOptions::max_message_size must not be over 2 GiB");
  require_not_negative(options.shutdown_grace, "WorkerOptions::shutdown_grace");
  require_not_negative(options.term_grace, "WorkerOptions::term_grace");
  require_not_negative(options.stop_margin, "WorkerOptions::stop_margin");
}

inline void check_start_timeout(Timeout timeout) {
  if (timeout && *timeout <= Duration::zero())
    throw std::invalid_argument("the time-out of start() must be positive; use std::nullopt for no bound");
}

inline void check(const CallOptions& options) {
  require_not_negative(options.deadline, "CallOptions::deadline");
  require_not_negative(options.kill_after, "CallOptions::kill_after");
}

inline void check(const PoolOptions& options) {
  if (options.size == 0) throw std::invalid_argument("PoolOptions::size must be at least 1");
  check(options.worker);
  if (options.start_timeout && *options.start_timeout <= Duration::zero())
    throw std::invalid_argument("PoolOptions::start_timeout must be positive; use std::nullopt for no bound");
  require_not_negative(options.shutdown_grace, "PoolOptions::shutdown_grace");
  require_not_negative(options.shutdown_timeout, "PoolOptions::shutdown_timeout");
  require_not_negative(options.restart.within, "RestartPolicy::within");
  require_not_negative(options.restart.backoff, "RestartPolicy::backoff");
  require_not_negative(options.restart.max_backoff, "RestartPolicy::max_backoff");
}

}  // namespace detail
}}  // namespace drover::v1
