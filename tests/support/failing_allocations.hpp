#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

// Replaces the allocation functions of a test program. One source file of the program includes this.

namespace support {

/// Defined by the test: true if the present allocation is to fail.
bool allocation_fails() noexcept;

}  // namespace support

void* operator new(std::size_t size) {
  void* const memory = support::allocation_fails() ? nullptr : std::malloc(size != 0 ? size : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

// Asio allocates the functions that are posted with this.
extern "C" void* aligned_alloc(std::size_t alignment, std::size_t size) {
  void* memory = nullptr;
  return support::allocation_fails() || ::posix_memalign(&memory, alignment, size) != 0 ? nullptr : memory;
}
