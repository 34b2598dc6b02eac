#pragma once

#include <drover/detail/platform.hpp>

#include <optional>
#include <type_traits>
#include <utility>

#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>

namespace drover { inline namespace v1 {
namespace detail {

/// Runs `main` on a context of its own and throws what it threw. `signal` receives the number of the first signal, or
/// 0.
void run_to_end(asio::awaitable<void> main, int& signal);

template <class T>
asio::awaitable<void> keep_result(asio::awaitable<T> main, std::optional<T>& result) {
  T value = co_await std::move(main);
  result.emplace(std::move(value));
}

}  // namespace detail

/// Runs a coroutine on an io_context of its own, on this thread, and returns its result. run() returns when the
/// coroutine has ended. Everything else that waits on the context is then destroyed silently, so let the coroutine
/// await all work that has to be finished, and stop() all workers and pools that have to be stopped.
///
/// *Errors:* an exception of the coroutine; operation_aborted if the context is stopped before the coroutine has ended.
/// *Cancellation:* SIGINT, SIGTERM and SIGHUP cancel the coroutine (terminal cancellation), each time one arrives; the
/// coroutine then has to end by itself. A signal that is ignored stays ignored. Otherwise its disposition is replaced
/// while run() runs, and set to the default afterwards, as asio::signal_set does. A worker needs these signals itself:
/// a routine may call run(), but no signal cancels it there.
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

/// run() for main(). Returns 0 on success; 128 + the number of the first signal if one arrived and the coroutine then
/// ended with an error; 1 for any other error, whose text is written to stderr.
int run_main(asio::awaitable<void> main);

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/run.ipp>
#endif
