#pragma once

#include <cstddef>

#include "support/failing_allocations.hpp"
#include "support/sanitizers.hpp"

// A chosen allocation of a test program fails. One source file of the program includes this.

namespace support {

inline int spared = -1;  // so many allocations succeed before one fails; negative: none fails
inline bool failed = false;

}  // namespace support

bool support::allocation_fails() noexcept {
  if (spared < 0 || spared-- > 0) return false;
  return failed = true;
}

#if !defined(DROVER_TEST_ASAN) && !defined(DROVER_TEST_TSAN)
// Buffers grow with this.
extern "C" void* __libc_realloc(void* memory, std::size_t size);
extern "C" void* realloc(void* memory, std::size_t size) noexcept {
  return support::allocation_fails() ? nullptr : __libc_realloc(memory, size);
}
#endif
