#pragma once

#include <cstddef>

#include <drover/pool/local_worker.hpp>
#include <drover/pool/worker_pool.hpp>

#include "support/calls.hpp"
#include "support/descriptor_routines.hpp"
#include "support/descriptors.hpp"

/// Calls of workers with descriptors.
namespace support {

inline WorkerOptions descriptor_worker(std::size_t max_in_flight = 1) {
  return worker_of(DROVER_HELPER_DESCRIPTOR_WORKER, max_in_flight);
}
inline PoolOptions descriptor_pool(std::size_t size) { return pool_of(descriptor_worker(), size); }

}  // namespace support
