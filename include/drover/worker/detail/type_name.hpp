#pragma once

#include <cstdlib>
#include <cxxabi.h>
#include <memory>
#include <string>
#include <string_view>
#include <typeinfo>

namespace drover { inline namespace v1 { namespace detail {

/// A type as it is written in code, for texts that people read.
template <class T>
constexpr std::string_view type_name() noexcept {
  // "... [with T = int; std::string_view = ...]" with GCC, "... [T = int]" with Clang.
  constexpr std::string_view whole = __PRETTY_FUNCTION__;
  constexpr std::string_view mark = "T = ";
  constexpr std::size_t begin = whole.find(mark) + mark.size();
  constexpr std::size_t semicolon = whole.find("; std::string_view =", begin);
  constexpr std::size_t end = semicolon == std::string_view::npos ? whole.size() - 1 : semicolon;
  return whole.substr(begin, end - begin);
}

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
