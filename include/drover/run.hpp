#pragma once

#include <drover/detail/platform.hpp>

#include <optional>
#include <type_traits>
#include <utility>

#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>

namespace drover { inline namespace v1 {
namespace detail {

/// Runs it on a context of its own; `signal`: the first that came. Throws what it threw.
void run_to_end(asio::awaitable<void> main, int& signal);

template <class T>
asio::awaitable<void> keep_result(asio::awaitable<T> main, std::optional<T>& result) {
  T value = co_await std::move(main);
  result.emplace(std::move(value));
}

}  // namespace detail

/// Runs a coroutine to its end on an io_context of its own, on this thread, and returns its result or throws what it
/// threw. Returns when the coroutine has ended: what else waits on the context then goes with it silently, so await in
/// the coroutine what has to be finished, or stop() what has to be stopped. If somebody stops the context before that,
/// it throws operation_aborted.
///
/// SIGINT, SIGTERM and SIGHUP cancel it (terminal cancellation), each time one comes; it then has to end by itself. One
/// that is ignored stays so. Their dispositions are taken over for that time, and set to the default afterwards, as
/// asio::signal_set does. Not in a worker, which has its own use for these signals: routines may call this, and nothing
/// cancels it there.
template <class T>
T run(asio::awaitable<T> main) {
  int signal = 0;
  if constexpr (std::is_void_v<T>) {
    detail::run_to_end(std::move(main), signal);
  } else {
    std::optional<T> result;
    detail::run_to_end(detail::keep_result(std::move(main), result), signal);
    return std::move(*result);
  }
}

/// run() for main(): returns 0; 128 + the signal's number if one came and the coroutine ended with an error after it;
/// 1 for any other error, with its text on stderr.
int run_main(asio::awaitable<void> main);

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/run.ipp>
#endif
