#pragma once

#include <cstdlib>
#include <cxxabi.h>
#include <memory>
#include <string>
#include <typeinfo>

#include <drover/detail/type_name.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline std::string demangle(const char* mangled) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> name(abi::__cxa_demangle(mangled, nullptr, nullptr, &status), std::free);
  return status == 0 && name ? name.get() : mangled;
}

/// The type of the exception that is being handled.
inline std::string current_exception_type() {
  const std::type_info* const type = abi::__cxa_current_exception_type();
  return type == nullptr ? "unknown" : demangle(type->name());
}

}}}  // namespace drover::v1::detail
