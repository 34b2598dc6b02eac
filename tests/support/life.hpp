#pragma once

#include <string>
#include <utility>
#include <vector>

#include "support/calls.hpp"

/// What tests of a worker's own life need.
namespace support {

/// See life_worker.cpp.
inline WorkerOptions life_worker(std::vector<std::string> steps = {}) {
  WorkerOptions options = call_worker(std::move(steps));
  options.command.program = DROVER_HELPER_LIFE_WORKER;
  return options;
}

}  // namespace support
