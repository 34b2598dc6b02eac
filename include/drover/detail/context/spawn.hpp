#pragma once

#include <exception>
#include <functional>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/cancellation_signal.hpp>

#include <drover/detail/config.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// asio::co_spawn(), compiled once: each combination of types takes a tenth of a second. `done` may be empty, which
/// ignores the coroutine's exception. It runs on the executor. `slot` cancels the coroutine.
void spawn(const asio::any_io_executor& executor, asio::awaitable<void> coroutine,
           std::function<void(std::exception_ptr)> done = {}, asio::cancellation_slot slot = {});

/// Ends after other handlers of the coroutine's executor have run.
asio::awaitable<void> after_post();

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/detail/context/spawn.ipp>
#endif
