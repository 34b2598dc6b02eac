#pragma once

#include <csignal>
#include <cstdio>
#include <exception>
#include <system_error>
#include <utility>

#include <asio/awaitable.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/signal_set.hpp>

#include <drover/detail/context/spawn.hpp>
#include <drover/detail/run_signals.hpp>
#include <drover/detail/what_of.hpp>
#include <drover/run.hpp>
#include <drover/wire/detail/process_role.hpp>

namespace drover { inline namespace v1 {
namespace detail {

struct RunState {
  asio::cancellation_signal cancel;  // operations left in the context may still refer to it
  asio::io_context context{1};
  RunSignals& run_signals = asio::use_service<RunSignals>(context);
  asio::signal_set signals{context};
  int signal = 0;  // the first that arrived
  std::exception_ptr failure;

  void wait_for_signal() {
    signals.async_wait([this](std::error_code ec, int number) {
      if (ec) return;
      if (signal == 0) signal = number;
      run_signals.signalled();
      cancel.emit(asio::cancellation_type::terminal);
      wait_for_signal();
    });
  }

  /// nohup(1) and shells without job control ignore a signal on purpose: it must not have an effect on this program.
  static bool ignored(int number) {
    struct sigaction action{};
    return ::sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
  }

  /// Sets SA_RESTART, so that the program's blocking calls on other threads are not interrupted; signal_set does not
  /// set it.
  static void restart_system_calls(int number) {
    struct sigaction action{};
    if (::sigaction(number, nullptr, &action) != 0) return;
    action.sa_flags |= SA_RESTART;
    ::sigaction(number, &action, nullptr);
  }

  void watch_signals() {
    if (started_as_worker()) return;  // a worker handles these signals itself
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
      if (ignored(number)) continue;
      signals.add(number);
      restart_system_calls(number);
    }
    wait_for_signal();
  }
};

DROVER_INLINE void run_to_end(asio::awaitable<void> main, int& signal) {
  RunState state;
  state.watch_signals();
  const std::error_code aborted = asio::error::operation_aborted;
  state.failure = std::make_exception_ptr(std::system_error(aborted));  // if the context is stopped early
  const auto finish = [&state](std::exception_ptr failure) {
    state.failure = failure;
    state.context.stop();
  };
  detail::spawn(state.context.get_executor(), std::move(main), finish, state.cancel.slot());
  state.context.run();
  state.signals.clear();  // restores the default dispositions
  signal = state.signal;
  // Run the handlers that were ready when the coroutine ended, such as the last events of a worker. Their number is
  // bounded: a pending operation (of a worker that was not stopped, for example) could keep this loop busy for ever.
  state.context.restart();
  for (int turns = 0; turns < 1000 && state.context.poll_one() != 0; ++turns) {
  }
  if (state.failure) std::rethrow_exception(state.failure);
}

}  // namespace detail

DROVER_INLINE int run_main(asio::awaitable<void> main) {
  int signal = 0;
  try {
    detail::run_to_end(std::move(main), signal);
    return 0;
  } catch (const std::exception& error) {
    if (signal != 0) return 128 + signal;
    std::fprintf(stderr, "error: %s\n", detail::what_of(error));
  } catch (...) {
    if (signal != 0) return 128 + signal;
    std::fprintf(stderr, "error: an exception that is not a std::exception\n");
  }
  return 1;
}

}}  // namespace drover::v1
