#pragma once

#include <cstddef>

#include <drover/pool/worker_pool.hpp>

#include "support/calls.hpp"

/// Pools for maps.
namespace support {

inline PoolOptions quick_pool(std::size_t size) {
  PoolOptions options = pool_of(call_worker(), size);
  options.restart.max_restarts = 10'000;
  return options;
}

}  // namespace support
