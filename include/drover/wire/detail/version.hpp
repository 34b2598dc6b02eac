#pragma once

namespace drover { inline namespace v1 { namespace detail {

/// Of the library: CMakeLists.txt takes it from here, workers tell it in their HELLO.
inline constexpr const char* library_version = "0.1.0";

}}}  // namespace drover::v1::detail
