#pragma once

namespace drover { inline namespace v1 { namespace detail {

/// The library's version. CMakeLists.txt reads it from here; workers report it in their HELLO.
inline constexpr const char* library_version = "0.1.0";

}}}  // namespace drover::v1::detail
