#pragma once

#include <cstddef>
#include <functional>
#include <gtest/gtest.h>
#include <string>

#include <drover/pool/local_worker.hpp>
#include <drover/pool/worker_pool.hpp>

#include "support/mappings.hpp"
#include "support/shared_routines.hpp"

/// Calls of workers with shared memory.
namespace support {

inline WorkerOptions shared_worker(std::size_t max_in_flight = 1) {
  return worker_of(DROVER_HELPER_SHARED_WORKER, max_in_flight);
}
inline PoolOptions shared_pool(std::size_t size) { return pool_of(shared_worker(), size); }
inline std::string letters(std::size_t size) {
  std::string text(size, 'a');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>('a' + i % 23);
  return text;
}

/// A test's worker ends with as many descriptors as it began with, too.
class SharedMemoryOfACall : public CallsWithMemory {
 protected:
  static void with_worker(std::function<asio::awaitable<void>(LocalWorker&)> body, std::size_t max_in_flight = 1) {
    on_one_thread([&]() -> asio::awaitable<void> {
      LocalWorker worker(co_await asio::this_coro::executor, shared_worker(max_in_flight));
      co_await worker.start();
      const auto before = co_await worker.call<std::size_t>("open_descriptors");
      co_await body(worker);
      std::size_t after = 0;
      for (int tries = 0; tries < 100 && after != before; ++tries) {
        after = co_await worker.call<std::size_t>("open_descriptors");
        if (after != before) co_await pause_for(10ms);
      }
      EXPECT_EQ(after, before);
      co_await worker.stop();
    });
  }
  static void with_pool_of(std::size_t size, std::function<asio::awaitable<void>(WorkerPool&)> body) {
    on_one_thread([&]() -> asio::awaitable<void> {
      WorkerPool pool = co_await WorkerPool::start(shared_pool(size));
      co_await body(pool);
      co_await pool.stop();
    });
  }
};

}  // namespace support
