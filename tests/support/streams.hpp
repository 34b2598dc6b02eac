#pragma once

#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "support/calls.hpp"

/// What tests of streams need.
namespace support {

using drover::Stream;

inline PoolOptions stream_pool(std::size_t size, std::size_t max_in_flight = 1) {
  PoolOptions options = call_pool(size);
  options.worker.command.program = DROVER_HELPER_STREAM_WORKER;
  options.worker.max_in_flight = max_in_flight;
  options.restart.backoff = options.restart.max_backoff = 1ms;
  options.restart.max_restarts = 10'000;
  return options;
}

/// Reads to the end, and checks that the items are 0, 1, 2, ...
template <class R>
asio::awaitable<int> read_all(Stream<R, int>& stream) {
  int n = 0;
  for (;;) {
    const std::optional<int> item = co_await stream.next();
    if (!item) co_return n;
    EXPECT_EQ(*item, n++);
  }
}

/// What it throws.
template <class T>
asio::awaitable<std::string> text_thrown_by(asio::awaitable<T> operation) {
  try {
    co_await std::move(operation);
  } catch (const std::exception& e) {
    co_return e.what();
  }
  co_return "";
}
template <class T>
asio::awaitable<std::error_code> code_thrown_by(asio::awaitable<T> operation) {
  try {
    co_await std::move(operation);
  } catch (const std::system_error& e) {
    co_return e.code();
  }
  co_return std::error_code();
}

}  // namespace support
