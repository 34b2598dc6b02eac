#pragma once

#include <optional>
#include <string>
#include <vector>

#include <drover/os/fd.hpp>
#include <drover/routine.hpp>

/// What the tests' worker with descriptors and its callers declare together.
namespace support {

struct Job {  // an aggregate
  std::string name;
  drover::UniqueFd in;
  std::optional<drover::UniqueFd> log;
  std::vector<drover::UniqueFd> more;
};

inline constexpr drover::Routine<drover::UniqueFd(std::string)> open_typed{"open_typed"};
inline constexpr drover::Routine<std::string(drover::UniqueFd)> read_typed{"read_typed"};
inline constexpr drover::Routine<Job(Job)> turn_typed{"turn_typed"};

}  // namespace support
