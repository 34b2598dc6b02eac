#pragma once

#include <cstddef>
#include <cstdint>
#include <sched.h>

namespace drover { inline namespace v1 { namespace detail {

/// The core that this thread runs on, counted from 1; 0 if it is unknown. The thread may run on another core by the
/// time the number is used, so it is only a hint. See sched_getcpu(3).
inline std::uint16_t current_core() noexcept {
  const int core = ::sched_getcpu();
  return core >= 0 && core < 0xffff ? static_cast<std::uint16_t>(core + 1) : std::uint16_t{0};
}

/// The number of cores that this program may use; sched_getaffinity(2).
inline std::size_t available_cores() noexcept {
  cpu_set_t cores;
  return ::sched_getaffinity(0, sizeof cores, &cores) == 0 ? static_cast<std::size_t>(CPU_COUNT(&cores)) : 1;
}

}}}  // namespace drover::v1::detail
