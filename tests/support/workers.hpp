#pragma once

#include <algorithm>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/pool/local_worker.hpp>
#include <drover/pool/worker_pool.hpp>
#include <drover/pool/worker_process.hpp>

#include "support/processes.hpp"
#include "support/sanitizers.hpp"
#include "support/ticker.hpp"

/// What tests of workers need.
namespace support {

using drover::CallOptions;
using drover::Errc;
using drover::Error;
using drover::Event;
using drover::LocalWorker;
using drover::StopReport;
using drover::WorkerOptions;
using drover::WorkerPool;

inline constexpr bool slowed_down = sanitized;  // a process takes a multiple of its time to begin and to end

/// The test worker with these steps on its way to serve(), see worker.cpp.
inline WorkerOptions worker_with(std::vector<std::string> steps) {
  WorkerOptions options;
  options.command.program = DROVER_HELPER_WORKER;
  options.command.args = std::move(steps);
  options.command.out = Stdio::null();
  return options;
}
inline WorkerOptions plain_worker() { return worker_with({}); }

/// A worker that is ready, and what it says.
struct Started {
  std::shared_ptr<ReadPipe> pipe = std::make_shared<ReadPipe>();
  std::shared_ptr<LocalWorker> worker;
};

inline asio::awaitable<Started> started(WorkerOptions options) {
  Started s;
  options.command.out = s.pipe->stdio();
  s.worker = std::make_shared<LocalWorker>(co_await asio::this_coro::executor, options);
  co_await s.worker->start();
  s.pipe->close_write_end();
  co_return s;
}
inline asio::awaitable<Started> started() { return started(plain_worker()); }

inline void expect_gone(const LocalWorker& worker) {
  EXPECT_FALSE(worker.alive());
  EXPECT_TRUE(gone(worker.pid()));
}

inline asio::awaitable<void> pause_for(Duration time) {
  asio::steady_timer timer(co_await asio::this_coro::executor, time);
  co_await timer.async_wait(asio::use_awaitable);
}

/// What an operation failed with, by its code; none if it did not.
struct Failure {
  std::error_code code;
  std::string text;
  std::optional<ExitStatus> exit;
  bool logic = false, argument = false;
  bool operator==(Errc errc) const { return code == drover::make_error_code(errc); }
  bool aborted() const { return code == asio::error::operation_aborted; }
  explicit operator bool() const { return !text.empty(); }
};

inline std::ostream& operator<<(std::ostream& out, const Failure& failure) {
  return out << (failure ? failure.text : "no failure");
}

inline Failure describe(const std::exception_ptr& thrown) {
  Failure failure;
  if (!thrown) return failure;
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& error) {
    failure = {error.code(), error.what(), error.exit_status()};
  } catch (const std::system_error& error) {
    failure = {error.code(), error.what(), {}};
  } catch (const std::invalid_argument& error) {
    failure.text = error.what();
    failure.argument = failure.logic = true;
  } catch (const std::logic_error& error) {
    failure.text = error.what();
    failure.logic = true;
  } catch (const std::exception& error) {
    failure.text = error.what();
  }
  return failure;
}

template <class T>
asio::awaitable<Failure> failure_of(asio::awaitable<T> operation) {
  std::exception_ptr thrown;
  try {
    if constexpr (std::is_void_v<T>)
      co_await std::move(operation);
    else [[maybe_unused]]
      const T unwanted = co_await std::move(operation);
  } catch (...) {
    thrown = std::current_exception();
  }
  co_return describe(thrown);
}

/// A coroutine that runs beside others and can be cancelled.
template <class T>
class Task {
 public:
  Task(asio::any_io_executor executor, asio::awaitable<T> body) : state_(std::make_shared<State>(executor)) {
    asio::co_spawn(
        executor, with_value(std::move(body)),
        asio::bind_cancellation_slot(state_->cancel.slot(), [state = state_](std::exception_ptr e, Value value) {
          state->thrown = e;
          state->value.emplace(std::move(value));
          state->ended_at = Clock::now();
          state->done = true;
          state->end.cancel();
        }));
  }

  /// On the executor.
  void cancel() const { state_->cancel.emit(asio::cancellation_type::terminal); }
  bool done() const { return state_->done; }
  Clock::time_point ended_at() const { return state_->ended_at; }

  asio::awaitable<void> ended() const { return wait(state_); }
  asio::awaitable<Failure> failure() const { return failure_at_end(state_); }
  asio::awaitable<T> result() const { return result_at_end(state_); }

 private:
  using Value = std::conditional_t<std::is_void_v<T>, int, T>;
  struct State {
    explicit State(const asio::any_io_executor& executor) : end(executor, Clock::time_point::max()) {}
    asio::cancellation_signal cancel;
    asio::steady_timer end;
    bool done = false;
    std::exception_ptr thrown;
    std::optional<Value> value;
    Clock::time_point ended_at{};
  };

  static asio::awaitable<Value> with_value(asio::awaitable<T> body) {
    if constexpr (std::is_void_v<T>) {
      co_await std::move(body);
      co_return 0;
    } else {
      co_return co_await std::move(body);
    }
  }
  static asio::awaitable<void> wait(std::shared_ptr<State> state) {
    while (!state->done) {
      try {
        co_await state->end.async_wait(asio::use_awaitable);
      } catch (const std::system_error&) {  // that is how the end is told
      }
    }
  }
  static asio::awaitable<Failure> failure_at_end(std::shared_ptr<State> state) {
    co_await wait(state);
    co_return describe(state->thrown);
  }
  static asio::awaitable<T> result_at_end(std::shared_ptr<State> state) {
    co_await wait(state);
    if (state->thrown) std::rethrow_exception(state->thrown);
    if constexpr (!std::is_void_v<T>) co_return *state->value;
  }

  std::shared_ptr<State> state_;
};

/// Runs scenarios side by side on one thread; all have to end.
inline void run_together(std::vector<std::function<asio::awaitable<void>()>> scenarios, Duration bound = 60s) {
  asio::io_context context;
  std::size_t left = scenarios.size();
  for (auto& scenario : scenarios)
    asio::co_spawn(context, scenario(), [&](std::exception_ptr thrown) {
      if (thrown) ADD_FAILURE() << "a scenario threw: " << describe(thrown);
      if (--left == 0) context.stop();
    });
  context.run_for(bound);
  EXPECT_EQ(left, 0u) << "scenarios did not finish";
}

/// Until `text` comes as a line from the pipe, without blocking the loop.
inline asio::awaitable<void> said(std::shared_ptr<ReadPipe> pipe, std::string text) {
  for (;;) {
    if (!pipe->readable()) {
      co_await pause_for(1ms);
      continue;
    }
    const std::string line = pipe->line();
    if (line == text) co_return;
    if (line.empty()) throw std::runtime_error("the worker ended and had not said '" + text + "'");
  }
}

/// Until a process is gone, which may be anybody's.
inline asio::awaitable<bool> sees_gone(pid_t pid, Duration bound = slack) {
  for (const auto until = Clock::now() + bound; !gone(pid);) {
    if (Clock::now() > until) co_return false;
    co_await pause_for(1ms);
  }
  co_return true;
}

/// Until all children have been reaped, by the reaper, after whoever waited for them has gone.
inline bool soon_childless(Duration bound = slack) {
  for (const auto until = Clock::now() + bound; Clock::now() < until; ::poll(nullptr, 0, 1)) {
    siginfo_t info{};
    if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 && errno == ECHILD) return true;
  }
  return false;
}

/// What is made with the first worker, and stays, is there before descriptors are counted.
struct WorkerWarmUp {
  WorkerWarmUp() {
    asio::io_context context;
    LocalWorker worker(context.get_executor(), plain_worker());
    run(context, once(worker));
  }

 private:
  static asio::awaitable<void> once(LocalWorker& worker) {
    co_await worker.start();
    co_await worker.stop();
  }
};

class Workers : private WorkerWarmUp, public Processes {};

}  // namespace support
