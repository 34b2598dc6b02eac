#pragma once

#include <exception>
#include <gtest/gtest.h>
#include <memory>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/detail/context/async_event.hpp>

namespace pool_test {

using Gate = std::shared_ptr<drover::detail::AsyncEvent>;

inline Gate make_gate() { return std::make_shared<drover::detail::AsyncEvent>(); }
inline asio::awaitable<void> pass(Gate gate) { return drover::detail::AsyncEvent::wait(std::move(gate)); }

/// Runs a coroutine on the executor, and the context until it has nothing to do. Throws the exception of the coroutine.
template <class Executor, class Body>
void run(asio::io_context& context, const Executor& executor, Body body) {
  bool ended = false;
  std::exception_ptr error;
  asio::co_spawn(executor, body(), [&](std::exception_ptr e) {
    ended = true;
    error = e;
  });
  context.restart();
  context.run();
  if (error) std::rethrow_exception(error);
  EXPECT_TRUE(ended) << "the coroutine did not end";
}

template <class Body>
void run(asio::io_context& context, Body body) {
  run(context, context.get_executor(), std::move(body));
}

/// Lets other handlers of the executor run: by default all that are ready, and what they post.
inline asio::awaitable<void> breathe(int turns = 20) {
  for (int i = 0; i < turns; ++i) co_await asio::post(co_await asio::this_coro::executor, asio::use_awaitable);
}

/// Records whether and with which exception a coroutine has ended.
struct Ending {
  bool ended = false;
  std::exception_ptr error;
  auto handler() {
    return [this](std::exception_ptr e) {
      ended = true;
      error = e;
    };
  }
  template <class Error>
  bool failed_with() const {
    if (!error) return false;
    try {
      std::rethrow_exception(error);
    } catch (const Error&) {
      return true;
    } catch (...) {
      return false;
    }
  }
};

}  // namespace pool_test
