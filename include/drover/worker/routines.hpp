#pragma once

#include <drover/detail/platform.hpp>

#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include <drover/routine.hpp>
#include <drover/wire/worker_info.hpp>
#include <drover/worker/detail/declared_routine.hpp>
#include <drover/worker/detail/hook.hpp>
#include <drover/worker/detail/routine.hpp>
#include <drover/worker/detail/routine_table.hpp>
#include <drover/worker/sink.hpp>
#include <drover/worker/source.hpp>

namespace drover { inline namespace v1 {

namespace detail {
struct RoutinesAccess;
}

/// The functions that a worker offers by name, for the parent to call().
///
///     drover::Routines routines;
///     routines.add("square", [](int x) { return x * x; });
///     routines.add("fetch", [](std::string url) -> asio::awaitable<std::string> { ... });
///     routines.add("crunch", [](std::stop_token stop, std::vector<double> data) {
///       while (!stop.stop_requested()) ...
///     });
///
/// **Arguments and results** are encoded as described in wire/codec.hpp. Parameters are values, const references or
/// rvalue references. Views (std::string_view, std::span<const std::byte>) refer to the message and are valid until the
/// routine has ended.
///
/// **Plain functions** run one at a time on the main thread, in the order of their calls, and nothing else runs there
/// meanwhile. **Coroutines** (asio::awaitable<R>) run there side by side, as many as WorkerOptions::max_in_flight
/// permits; `asio::this_coro::executor` is the main thread's loop. Both are called on that thread, never at the same
/// time.
///
/// **Cancellation** (by the caller, by its deadline, by stop, SIGTERM or the parent's death) reaches a coroutine once,
/// as Asio cancellation of type terminal. The coroutine may then clean up by awaiting, see
/// asio::this_coro::reset_cancellation_state. If it ends with operation_aborted, the call ends as cancelled. A
/// `std::stop_token` as the first parameter is stopped as well, even while the routine blocks the main thread; stop
/// callbacks run on a thread of their own. A plain function without a std::stop_token cannot be cancelled once it has
/// begun, but it may ask for this_call::reason(). this_call also knows the deadline of the call.
///
/// **Exceptions** become RemoteError at the caller, with type and text, of 64 KiB at most. They never end the worker.
///
/// **The worker's own life**: on_start() prepares what the routines need, such as a connection or a model, before the
/// first call; on_stop() ends it after the last one.
///
///     routines.on_start([&](const drover::WorkerInfo& worker) { model = load(worker.extra.at("model")); });
///     routines.on_stop([&]() -> asio::awaitable<void> { co_await model.flush(); });
///
/// *Threads:* one thread at a time; nothing may be added once serve() has begun.
class Routines {
 public:
  /// Adds a routine. F is a function, a lambda or an object with one call operator, which need not be const. F is kept
  /// as long as the Routines object, so a capturing lambda may be a coroutine.
  ///
  /// *Errors:* std::invalid_argument if the name is empty or already used. A worker may have 16,384 routines with 2 MiB
  /// of names; with more, its start fails with Errc::protocol_error.
  template <class F>
  Routines& add(std::string name, F f) {
    return add_erased(std::move(name), detail::make_routine(std::move(f)));
  }

  /// The same for a routine that both sides have declared: a function with other types does not compile. F may be a
  /// template or an overload set here.
  template <class Signature, class F>
  Routines& add(const Routine<Signature>& routine, F f) {
    return add_erased(std::string(routine.name()),
                      detail::make_declared_routine(std::type_identity<Signature>(), std::move(f)));
  }

  /// Adds a function that serve() runs on the main thread's loop before the worker is ready. F is callable with () or
  /// (const WorkerInfo&) and returns void or asio::awaitable<void>. Several run one after another, in the order in
  /// which they were added. F is kept as long as the Routines object. What it leaves on the loop goes on running beside
  /// the calls.
  ///
  /// *Errors:* if one throws, those after it do not run, nor does any on_stop(). The parent's start() fails with
  /// Errc::start_failed, whose text has the exception's type and text, of 64 KiB at most each; serve() returns 70. A
  /// pool counts the failure of a replacement as a death.
  /// *Cancellation:* the parent's start time-out covers it. As before serve(), SIGTERM, SIGINT and SIGHUP have their
  /// default effect, and the parent's death ends the process at once.
  template <class F>
  Routines& on_start(F f) {
    static_assert(detail::StartHook<F>,
                  "on_start() takes a function that is called with () or (const drover::WorkerInfo&) and returns void "
                  "or asio::awaitable<void>");
    if constexpr (detail::StartHook<F>) hooks_.start.push_back(std::make_unique<detail::TypedHook<F>>(std::move(f)));
    return *this;
  }

  /// Adds a function that serve() runs on the main thread's loop when the last call has ended and its result is sent:
  /// at a stop, after a signal and after the parent's death. F is callable with () and returns void or
  /// asio::awaitable<void>. Several run one after another, the one that was added last first. It counts towards the
  /// time of the stop, or towards WorkerOptions::shutdown_grace if the stop has no bound; when that has passed, the
  /// process exits whatever it does. F is kept as long as the Routines object.
  ///
  /// *Errors:* an exception becomes a line on stderr with the worker's name. The others still run, and the exit code
  /// stays 0.
  template <class F>
  Routines& on_stop(F f) {
    static_assert(detail::StopHook<F>,
                  "on_stop() takes a function that is called with () and returns void or asio::awaitable<void>");
    if constexpr (detail::StopHook<F>) hooks_.stop.push_back(std::make_unique<detail::TypedHook<F>>(std::move(f)));
    return *this;
  }

 private:
  Routines& add_erased(std::string name, std::unique_ptr<detail::Routine> routine) {
    if (name.empty()) throw std::invalid_argument("a routine needs a name");
    if (table_.find(name) != nullptr) throw std::invalid_argument("there is a routine named \"" + name + "\" already");
    table_.add(std::move(name), std::move(routine));
    return *this;
  }

  friend detail::RoutinesAccess;
  detail::RoutineTable table_;
  detail::WorkerHooks hooks_;
};

namespace detail {

struct RoutinesAccess {
  static const RoutineTable& table(const Routines& routines) noexcept { return routines.table_; }
  static const WorkerHooks& hooks(const Routines& routines) noexcept { return routines.hooks_; }
};

}  // namespace detail
}}  // namespace drover::v1
