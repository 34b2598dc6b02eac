#pragma once

#include <drover/detail/platform.hpp>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include <drover/worker/detail/routine.hpp>
#include <drover/worker/detail/routine_table.hpp>

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
/// begun.
///
/// **Exceptions** become RemoteError at the caller, with type and text, of 64 KiB at most. They never end the worker.
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
    if (name.empty()) throw std::invalid_argument("a routine needs a name");
    auto routine = detail::make_routine(std::move(f));
    if (table_.find(name) != nullptr) throw std::invalid_argument("there is a routine named \"" + name + "\" already");
    table_.add(std::move(name), std::move(routine));
    return *this;
  }

 private:
  friend detail::RoutinesAccess;
  detail::RoutineTable table_;
};

namespace detail {

struct RoutinesAccess {
  static const RoutineTable& table(const Routines& routines) noexcept { return routines.table_; }
};

}  // namespace detail
}}  // namespace drover::v1
