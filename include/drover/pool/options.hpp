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
#include <drover/detail/report_text.hpp>
#include <drover/event.hpp>
#include <drover/exit_status.hpp>
#include <drover/os/command.hpp>
#include <drover/pool/call_options.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/detail/environment_text.hpp>
#include <drover/wire/on_terminate.hpp>
#include <drover/wire/protocol.hpp>

namespace drover { inline namespace v1 {

/// How one worker is started, stopped and identified. Times are steady-clock durations.
///
/// *Errors:* start() throws std::invalid_argument for a negative time, a max_in_flight of 0, a max_message_size of 0 or
/// over 2 GiB, a stall below 1 ms, kill_stalled without stall, an empty program, and more name, tags and extra than fit
/// into an environment variable.
struct WorkerOptions {
  /// Shown in events and errors, and passed to the worker.
  detail::BraceSafe<std::string> name = "worker";
  /// The program to run. Its main() has to reach drover::serve(). It may be another program than the parent.
  Command command = Command::self();
  /// The tags that CallOptions::tags may ask for. The worker knows them, too: this_worker::tags().
  detail::BraceSafe<std::set<std::string>> tags{};
  /// Notes of the caller, copied to WorkerMetadata and to the worker, see this_worker::extra(). With name and tags they
  /// may take 126 KiB, since they travel in the worker's environment.
  detail::BraceSafe<std::map<std::string, std::string>> extra{};
  /// How long stop() lets calls finish by default, and how long a worker may take to exit after its parent has died.
  Duration shutdown_grace = std::chrono::seconds(10);
  /// How long SIGTERM may take before SIGKILL follows.
  Duration term_grace = std::chrono::seconds(5);
  /// How long a stop may take beyond its grace before SIGTERM is sent.
  Duration stop_margin = std::chrono::seconds(5);
  using OnTerminate = drover::OnTerminate;
  /// What SIGTERM from outside does to the worker. A worker that exits because of it counts as one that exited
  /// gracefully.
  OnTerminate on_terminate = OnTerminate::cancel;
  /// Calls that the worker runs at a time. The others wait. With 1 a crash fails one call: one more may have been sent
  /// to a worker that answers quickly, but it begins after the one before. Raise it for routines that are coroutines.
  std::size_t max_in_flight = 1;
  /// For so long after each call, the worker polls for the next one before it sleeps, and the parent polls for the
  /// result before it sleeps. Polling takes a core on each side and saves the wake-ups. It is for cores that would
  /// otherwise be idle, and for a parent whose context one thread runs: several threads would wake each other. The
  /// thread that polls runs other handlers in between, but io_context::poll() does not return meanwhile. Zero: never.
  /// Some 50 us are enough for routines that are quicker than that.
  Duration spin{};
  /// Bytes of one message in each direction: a call with its arguments, a result; with the shared memory in it (see
  /// Shared). A decoded result may take 48 bytes of
  /// memory for each of its bytes, plus 16 MiB or a quarter of this bound, whichever is more. Beyond that the call
  /// fails with Errc::bad_arguments.
  std::size_t max_message_size = std::size_t{64} << 20;
  /// The worker reports the event `stalled` once its main loop has not turned for so long while it has calls: a plain
  /// routine takes long, a coroutine blocks, or a handler does. Coroutines that wait are no stall. The worker's control
  /// thread sees that, a quarter of this time later at most. It reports one stall once. It looks only while the worker
  /// has calls: an idle worker makes no system calls for it. A worker that is suspended does not report itself, see
  /// Event::Kind::stopped. At least 1 ms. nullopt: it does not look.
  Timeout stall{};
  /// A worker that reports a stall is killed with SIGKILL, unless it is being stopped already. The calls that it has
  /// begun fail with Errc::worker_exited, whose text names the routine. A pool replaces the worker at once and does not
  /// count it as a crash. Needs `stall`.
  bool kill_stalled = false;
  /// Called for every event, in order, on the executor of the worker or the pool. Exceptions are ignored. stop() and a
  /// failing start() return after all earlier events have been delivered, so the handler must not wait for them; not so
  /// if the executor does not run, or if the wait is cancelled twice. No call begins after the worker or the pool is
  /// destroyed; another thread of the context may still be in one.
  detail::BraceSafe<std::function<void(const Event&)>> on_event{};
};

/// Facts about a worker that is ready.
struct WorkerMetadata {
  std::string name{};
  pid_t pid{};
  std::size_t slot{};     ///< the number of its place in the pool, from 0; 0 outside of pools
  std::string version{};  ///< of the drover library in the worker
  std::set<std::string> tags{};
  std::map<std::string, std::string> extra{};
  std::vector<std::string> routines{};  ///< names of the routines it serves, sorted
};

/// A worker's answer to status().
struct WorkerStatus {
  std::size_t in_flight{};  ///< calls that it has received and not answered
  Duration idle_for{};      ///< since its last call ended; 0 while one is in flight
  std::uint64_t served{};   ///< calls answered
};

/// How a stop went.
struct StopReport {
  /// The result of the stop request: success if the worker acknowledged it, Errc::deadline_exceeded if it did not in
  /// time, Errc::connection_lost, Errc::worker_exited if it had exited before, Errc::not_running if it had not been
  /// ready yet, operation_aborted if the caller was cancelled.
  std::error_code rpc{};
  ExitStatus exit{};
  bool terminated{}, killed{};         ///< whether SIGTERM, SIGKILL had to be sent
  std::size_t drained{}, cancelled{};  ///< calls that finished during the stop, and calls that it cancelled
  Duration elapsed{};
  std::size_t lost_lines{}, lost_bytes{};  ///< of its output, see ReapReport

  /// One line for a log: "exited with code 0 after 12 ms; 3 calls drained, 1 cancelled".
  std::string to_string() const {
    std::string text = exit.to_string() + " after " + detail::duration_text(elapsed);
    if (drained != 0 || cancelled != 0)
      text += "; " + detail::counted(drained, "call") + " drained, " + std::to_string(cancelled) + " cancelled";
    text += detail::reap_text(terminated, killed, lost_lines, lost_bytes);
    if (rpc) text += "; the stop request failed: " + rpc.message();
    return text;
  }
};

/// How the workers of a pool come to be.
enum class Launch {
  exec,  ///< each one executes the program
  /// A fork server executes the program once: it runs to its first in_worker() and waits there. Each worker is a copy
  /// of it, and returns from in_worker() with its own environment, descriptors and working directory. So workers start
  /// faster, and share the memory that the program has filled by then. They are children of this program like others.
  ///
  /// Unlike executed workers, copies also share the addresses of code and data, the state of random generators that
  /// were seeded before, open files with their offsets, and epoll sets: an asio::io_context that is to be used in a
  /// worker is created after in_worker(). Timers of the kernel and locked memory are not inherited. Functions of
  /// pthread_atfork(3) are not called; those of atexit(3), and destructors, run in each worker. The environment, the
  /// working directory and stdio are those of the worker's start, whatever the program has done to them before.
  /// Resource limits, priority and credentials are those of the server.
  ///
  /// The start of a worker waits for the server's answer on its thread, for 500 ms at most; usually it takes less than
  /// posix_spawn(3), and some 15 ms for each GiB that the program has filled in pages of 4 KiB. A server that does not
  /// answer is killed, and workers are executed for RestartPolicy::max_backoff.
  ///
  /// The server is ready before the first worker is started, and started again with the next worker if it has exited. A
  /// reload() starts another one. Workers are executed, and Event::Kind::fork_failed says why, if the program has
  /// several threads when it calls in_worker(), if the command forks before it executes the program, without /proc,
  /// clone3(2) (Linux 5.3) or checkpoint/restore in the kernel, under valgrind and thread sanitizers, and for a while
  /// if the server exits too often, see RestartPolicy.
  fork
};

/// How a pool replaces workers that exit unexpectedly. Each slot of a pool is counted separately.
struct RestartPolicy {
  /// After more deaths than this `within` that time the slot is given up: it waits max_backoff, and then tries one
  /// worker after another until one answers a call or lives for `within`. While all slots are given up, calls fail at
  /// once with Errc::pool_failed. Deaths of workers that have answered a call do not count, nor do expected exits.
  std::size_t max_restarts = 5;
  Duration within = std::chrono::seconds(10);
  /// The delay before a replacement. It doubles with each further death that counts `within` that time, up to
  /// max_backoff.
  Duration backoff = std::chrono::milliseconds(50);
  Duration max_backoff = std::chrono::seconds(5);
};

/// When a pool replaces workers that are well. The successor is started first; once it is ready, the worker gets no
/// more calls, finishes those that it has and exits. One worker of a pool at a time is replaced. If a successor does
/// not get ready, the worker goes on, and another successor is tried later.
struct RecyclePolicy {
  std::uint64_t calls{};  ///< that a worker answers; it may answer some more while its successor starts. 0: no bound
  Timeout age{};          ///< since it was ready. nullopt: no bound
  /// Bytes of resident set, looked at once a second for workers that have had calls. 0: no bound. A worker that is not
  /// below when it is ready fails its start with Errc::start_failed.
  std::size_t rss{};
  /// `calls` and `age` of each worker are less by a random part of at most this, so that not all are due together.
  double jitter = 0.1;
  /// How long the calls of a replaced worker may take to finish before they are cancelled. nullopt: no bound. Until
  /// such a worker has exited, the pool replaces no other one, so a call that never ends needs a deadline with
  /// kill_after, or this bound.
  Timeout drain{};
};

/// The result of WorkerPool::reload().
struct ReloadReport {
  std::size_t replaced{};             ///< slots that have a new worker
  std::vector<StopReport> stopped{};  ///< of the workers that were replaced, in the order of their exits
  Duration elapsed{};
};

namespace detail {
inline std::size_t default_pool_size() noexcept {
  const unsigned cores = std::thread::hardware_concurrency();
  return cores == 0 ? 1 : cores;
}
}  // namespace detail

/// Options of a pool.
struct PoolOptions {
  std::size_t size = detail::default_pool_size();
  /// Options of each worker. Its shutdown_grace is for the death of the parent.
  WorkerOptions worker{};
  /// The start time-out of each worker, replacements included.
  Timeout start_timeout = std::chrono::seconds(30);
  /// The grace of WorkerPool::stop().
  Timeout shutdown_grace = std::chrono::seconds(10);
  /// Cuts the graceful part of stop() short: after this time, workers that still run get SIGTERM, and SIGKILL after
  /// worker.term_grace. So stop() may take longer by that. nullopt: the bound is shutdown_grace + worker.stop_margin.
  Timeout shutdown_timeout{};
  RestartPolicy restart{};
  /// When workers that are well are replaced.
  RecyclePolicy recycle{};
  /// As WorkerOptions::spin. The longer one of the two counts.
  Duration spin{};
  /// Calls that may wait for a free worker. The next one fails with Errc::overloaded, see CallOptions::when_full.
  std::size_t max_queued = 1024;
  /// Workers that are ready beside those of the pool. When a worker dies, one of them takes its slot at once, and
  /// another spare one is started. It learns its slot, and gets the variables of slot_env, just before its first call:
  /// on_start() sees no_slot and none of them, so it must not depend on the slot; threads that it leaves behind must
  /// not read the environment then, see getenv(3). Spare workers are started one after another once the pool's workers
  /// are ready, and replaced at the end of a reload().
  std::size_t spares = 0;
  /// An elastic pool: while calls wait for a worker it starts more of them, up to so many. 0: `size`, always. Calls
  /// that wait are shared out among the workers that start, max_in_flight to each; a spare worker that is ready takes
  /// part at once. A worker beyond `size` is replaced as any other when it dies. One that does not get ready is tried
  /// again for as long as calls wait; the pool does without it once none has waited for idle_after and max_backoff.
  std::size_t max_size = 0;
  /// An elastic pool that has more than `size` workers lets one go when it has had no call for so long, or for a
  /// quarter longer at most; that which has been idle for longest goes first. Any worker may be that one.
  Duration idle_after = std::chrono::seconds(60);
  /// How workers are started, spare ones and replacements included.
  Launch launch = Launch::exec;
  /// Variables for the environment of the workers in a slot, say a port or a core. Asked for once for each slot, up to
  /// max_size; a worker that replaces another one gets the same. The slots are numbered from 0. start() and resize()
  /// throw what it throws.
  detail::BraceSafe<std::function<std::map<std::string, std::string>(std::size_t slot)>> slot_env{};
  /// So many workers that die under calls of one CallOptions::key, with none of its calls answered in between, poison
  /// the key: its calls fail at once with Errc::poisoned, for `poison_for`. It does not matter how they died. 0: never.
  unsigned poison_after = 3;
  Duration poison_for = std::chrono::seconds(60);
};

/// How WorkerPool::stop() stops.
struct StopOptions {
  /// Calls that wait for a worker are still given to workers, and workers that die meanwhile are replaced. Only then,
  /// or when the grace is over, are the workers asked to stop. false: calls that wait fail with Errc::stopping at once.
  bool drain_queue = false;
  /// How long calls may finish, from the call of stop(). What waits after that fails with Errc::stopping, and what runs
  /// is cancelled. nullopt: however long they take.
  Timeout grace = std::chrono::seconds(10);
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

/// The worker gets them in its environment.
inline void check_worker_info(const WorkerOptions& options) {
  std::size_t size = size_of_text(options.name.value());
  for (const std::string& tag : options.tags.value()) size += size_of_text(tag);
  for (const auto& [key, value] : options.extra.value()) size += size_of_text(key) + size_of_text(value);
  if (size > most_worker_info)
    throw std::invalid_argument("WorkerOptions::name, WorkerOptions::tags and WorkerOptions::extra take " +
                                std::to_string(size) + " bytes of the worker's environment, which has room for " +
                                std::to_string(most_worker_info) + "; pass large data by a call or in a file");
}

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
  require_not_negative(options.spin, "WorkerOptions::spin");
  if (options.stall && *options.stall < std::chrono::milliseconds(1))
    throw std::invalid_argument("WorkerOptions::stall must be at least 1 ms; use std::nullopt for no report of stalls");
  if (options.kill_stalled && !options.stall)
    throw std::invalid_argument("WorkerOptions::kill_stalled needs WorkerOptions::stall; set how long is too long");
  check_worker_info(options);
}

inline void check_start_timeout(Timeout timeout) {
  if (timeout && *timeout <= Duration::zero())
    throw std::invalid_argument("the time-out of start() must be positive; use std::nullopt for no bound");
}

inline void check(const StopOptions& options) { require_not_negative(options.grace, "StopOptions::grace"); }

/// Of a pool, spare ones apart. More processes than any machine runs.
inline constexpr std::size_t most_workers = std::size_t{1} << 20;

inline void check(const PoolOptions& options) {
  if (options.size == 0) throw std::invalid_argument("PoolOptions::size must be at least 1");
  if (options.size > most_workers)
    throw std::invalid_argument("PoolOptions::size must not be over " + std::to_string(most_workers));
  if (options.spares > most_workers)
    throw std::invalid_argument("PoolOptions::spares must not be over " + std::to_string(most_workers));
  if (options.max_size != 0 && options.max_size < options.size)
    throw std::invalid_argument("PoolOptions::max_size is " + std::to_string(options.max_size) +
                                ", and PoolOptions::size is " + std::to_string(options.size) +
                                "; it must be at least as large, or 0 for a pool that does not grow");
  if (options.max_size > options.size && options.max_queued == 0)
    throw std::invalid_argument(
        "PoolOptions::max_size needs PoolOptions::max_queued to be at least 1: a pool grows while calls wait");
  if (options.max_size > most_workers)
    throw std::invalid_argument("PoolOptions::max_size must not be over " + std::to_string(most_workers));
  if (options.idle_after <= Duration::zero()) throw std::invalid_argument("PoolOptions::idle_after must be positive");
  check(options.worker);
  if (options.start_timeout && *options.start_timeout <= Duration::zero())
    throw std::invalid_argument("PoolOptions::start_timeout must be positive; use std::nullopt for no bound");
  require_not_negative(options.shutdown_grace, "PoolOptions::shutdown_grace");
  require_not_negative(options.shutdown_timeout, "PoolOptions::shutdown_timeout");
  require_not_negative(options.spin, "PoolOptions::spin");
  require_not_negative(options.restart.within, "RestartPolicy::within");
  require_not_negative(options.restart.backoff, "RestartPolicy::backoff");
  require_not_negative(options.restart.max_backoff, "RestartPolicy::max_backoff");
  if (options.recycle.age && *options.recycle.age <= Duration::zero())
    throw std::invalid_argument("RecyclePolicy::age must be positive; use std::nullopt for no bound");
  if (!(options.recycle.jitter >= 0 && options.recycle.jitter <= 1))
    throw std::invalid_argument("RecyclePolicy::jitter must be from 0 to 1");
  require_not_negative(options.recycle.drain, "RecyclePolicy::drain");
  if (options.poison_for <= Duration::zero())
    throw std::invalid_argument("PoolOptions::poison_for must be positive; use poison_after = 0 to poison no keys");
}

}  // namespace detail
}}  // namespace drover::v1
