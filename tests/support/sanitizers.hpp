#pragma once

/// Is this program sanitized? GCC and Clang tell it in different ways.
#if defined(__SANITIZE_ADDRESS__)
#define DROVER_TEST_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define DROVER_TEST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DROVER_TEST_ASAN 1
#elif __has_feature(thread_sanitizer)
#define DROVER_TEST_TSAN 1
#endif
#endif

namespace support {

#if defined(DROVER_TEST_ASAN) || defined(DROVER_TEST_TSAN)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif

}  // namespace support
