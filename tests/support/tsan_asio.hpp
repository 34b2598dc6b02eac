#pragma once
// Included first in all that is built with ThreadSanitizer, which does not follow fences: Asio counts its references
// with them, and what is deleted by the last of several threads would be reported. This stands for its header of that
// name.
#define ASIO_DETAIL_ATOMIC_COUNT_HPP

#ifdef __cplusplus
#include <atomic>

namespace asio::detail {

using atomic_count = std::atomic<long>;

inline void increment(atomic_count& count, long by) { count += by; }
inline void decrement(atomic_count& count, long by) { count -= by; }
inline void ref_count_up(atomic_count& count) { ++count; }
inline bool ref_count_down(atomic_count& count) { return --count == 0; }

}  // namespace asio::detail
#endif
