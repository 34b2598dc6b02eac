#pragma once

#include <cstdlib>
#include <exception>
#include <string>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/drover.hpp>

#include "bench.hpp"

namespace bench {

/// Options of a worker that executes this program again. DROVER_BENCH_SELF names the program where /proc/self/exe does
/// not: under valgrind, which that link leads to.
inline drover::WorkerOptions worker_options(Placement placement) {
  drover::WorkerOptions options;
  if (const char* self = std::getenv("DROVER_BENCH_SELF")) options.command.program = self;
  options.command.env.emplace(pin_variable, pin_value(placement));
  return options;
}

/// in_worker() for the workers of worker_options(): pins them before drover starts its control thread.
inline bool in_worker() {
  pin_as_requested();
  return drover::in_worker();
}

/// Registers a benchmark whose body(&state, arguments...) is a coroutine. It runs on this thread.
template <class Body, class... Arguments>
void add_coroutine(const std::string& name, double a_second, Placement placement, Body body, Arguments... arguments) {
  add(name, a_second, [=](benchmark::State& state) {
    pin_parent(placement);
    drover::run(body(&state, arguments...));
  });
}

/// Coroutines that run concurrently on one executor. The group must outlive them.
class Group {
 public:
  explicit Group(const asio::any_io_executor& executor)
      : executor_(executor), all_done_(executor, Clock::time_point::max()) {}

  void spawn(asio::awaitable<void> body) {
    ++running_;
    asio::co_spawn(executor_, std::move(body), [this](std::exception_ptr failure) {
      if (failure) failure_ = failure;
      if (--running_ == 0) all_done_.cancel();
    });
  }
  /// Waits for all of them. Throws an exception of one of them, if there was any.
  asio::awaitable<void> wait() {
    std::error_code cancelled;
    auto token = asio::redirect_error(asio::use_awaitable, cancelled);
    if (running_ > 0) co_await all_done_.async_wait(std::move(token));
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  asio::any_io_executor executor_;
  asio::steady_timer all_done_;
  int running_ = 0;
  std::exception_ptr failure_;
};

}  // namespace bench
