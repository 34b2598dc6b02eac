#pragma once

#include <exception>

namespace drover { inline namespace v1 { namespace detail {

/// what(), or an empty string if a user-defined class returns a null pointer.
inline const char* what_of(const std::exception& exception) noexcept {
  const char* const what = exception.what();
  return what != nullptr ? what : "";
}

}}}  // namespace drover::v1::detail
