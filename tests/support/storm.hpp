#pragma once

#include <cstdlib>

#include "support/sanitizers.hpp"

namespace support {

/// How many calls a storm makes. DROVER_STORM_CALLS sets another number.
inline int calls_of_a_storm(int if_sanitized) {
  const char* const wanted = std::getenv("DROVER_STORM_CALLS");
  return wanted != nullptr ? std::atoi(wanted) : sanitized ? if_sanitized : 100'000;
}

}  // namespace support
