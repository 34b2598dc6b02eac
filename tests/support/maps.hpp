#pragma once

#include <cstddef>

#include <drover/pool/worker_pool.hpp>

#include "support/calls.hpp"

/// Pools for maps.
namespace support {

inline PoolOptions quick_pool(std::size_t size) {
  PoolOptions options = call_pool(size);
  options.restart.backoff = 1ms;
  options.restart.max_restarts = 10'000;
  return options;
}

}  // namespace support
