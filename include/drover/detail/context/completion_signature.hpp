#pragma once

#include <drover/detail/platform.hpp>

#include <exception>

namespace drover { inline namespace v1 { namespace detail {

/// The signature of the handlers that get a value of this type, or the exception instead of one.
template <class T>
struct CompletionSignature {
  using type = void(std::exception_ptr, T);
};
template <>
struct CompletionSignature<void> {
  using type = void(std::exception_ptr);
};

}}}  // namespace drover::v1::detail
