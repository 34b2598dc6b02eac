#pragma once

#include <cstdint>
#include <string>
#include <tuple>

namespace support {

/// What a routine sees of its call.
struct CallSeen {
  std::string context = "nothing";
  std::int64_t left = -2;  // milliseconds until its deadline; -1: it has none
  unsigned attempt = 0;
};
inline auto drover_fields(CallSeen& seen) { return std::tie(seen.context, seen.left, seen.attempt); }

}  // namespace support
