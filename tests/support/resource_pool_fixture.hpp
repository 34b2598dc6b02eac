#pragma once

#include <type_traits>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/io_context.hpp>

#include <drover/resource_pool.hpp>
#include <drover/timeout.hpp>

#include "support/resource_pool_run.hpp"

namespace pool_test {

/// Acquires a key as a coroutine of its own, into a lease of the test.
template <class Key, class Value>
asio::awaitable<void> acquire_into(drover::ResourcePool<Key, Value>& pool, std::type_identity_t<Key> key,
                                   typename drover::ResourcePool<Key, Value>::Lease& lease) {
  lease = co_await pool.acquire(std::move(key));
}

/// A pool whose values are numbered in the order of their creation. It records which values were finalized, and what
/// the pool reported. The finalizer of the value with the number `slow` waits for the gate.
struct NumberedPool {
  using Pool = drover::ResourcePool<int, int>;

  explicit NumberedPool(drover::Duration ttl)
      : pool(context.get_executor(), [this](int) { return ++created; },
             {.ttl = ttl,
              .finalizer = [this](int& value) -> asio::awaitable<void> {
                if (value == slow) co_await pass(gate);
                co_await breathe(1);  // so that a release that does not wait is noticed
                finalized.push_back(value);
              },
              .on_event = [this](const Pool::Event& event) { events.push_back(event.kind); }}) {}
  NumberedPool(const NumberedPool&) = delete;
  NumberedPool& operator=(const NumberedPool&) = delete;

  int created = 0, slow = 0;
  std::vector<int> finalized;
  std::vector<Pool::Event::Kind> events;
  Gate gate = make_gate();
  asio::io_context context;
  Pool pool;
};

}  // namespace pool_test
