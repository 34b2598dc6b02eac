#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <drover/routine.hpp>
#include <drover/wire/shared.hpp>

/// What the tests' worker with shared memory and its callers declare together.
namespace support {

using Text = drover::Shared<std::string>;
using Bytes = drover::Shared<std::vector<std::byte>>;

struct Page {  // an aggregate
  std::string name;
  Text text;
  std::vector<Bytes> parts;
};

inline constexpr drover::Routine<Text(Text)> reversed_typed{"reversed_typed"};

}  // namespace support
