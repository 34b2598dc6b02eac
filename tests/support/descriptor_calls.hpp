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
  WorkerOptions options;
  options.command.program = DROVER_HELPER_DESCRIPTOR_WORKER;
  options.max_in_flight = max_in_flight;
  return options;
}
inline PoolOptions descriptor_pool(std::size_t size) {
  PoolOptions options;
  options.size = size;
  options.worker = descriptor_worker();
  options.restart.backoff = 1ms;
  return options;
}

}  // namespace support
