#pragma once

#include <exception>

namespace drover::inline v1::detail {

/// what(), which a class of the user's may answer with a null pointer.
inline const char* what_of(const std::exception& exception) noexcept {
  const char* const what = exception.what();
  return what != nullptr ? what : "";
}

}  // namespace drover::inline v1::detail
