#pragma once

#include <drover/detail/platform.hpp>

#include <optional>
#include <string_view>

#include <drover/detail/config.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/cancel_reason.hpp>

/// The call that the routine which calls these functions runs for. They work in plain routines and in coroutines, there
/// also after a co_await, and in coroutines that a routine spawns on its executor. Where no call runs they say so: on
/// other threads, such as the one of stop callbacks, on other executors, and once the call has ended.
///
/// *Threads:* the main thread of a worker. Elsewhere there is no call.
namespace drover { inline namespace v1 { namespace this_call {

/// When the call is late. Calls that the routine makes itself inherit it, see CallOptions::inherit_deadline. nullopt:
/// no bound, or no call.
std::optional<Clock::time_point> deadline() noexcept;

/// Why the call was cancelled, as soon as the worker knows, also in a routine that does not take a std::stop_token or
/// awaits nothing. The first reason counts.
///
/// *Errors:* std::bad_alloc.
CancelReason reason();

/// CallOptions::context; empty if there is none.
///
/// *Lifetime:* until the routine has ended.
std::string_view context() noexcept;

/// Which attempt at the call this is, from 1. 0: no call.
unsigned attempt() noexcept;

}}}  // namespace drover::v1::this_call

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/worker/this_call.ipp>
#endif
