#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace drover { inline namespace v1 { namespace detail {

/// The type in a __PRETTY_FUNCTION__ whose template parameter is named T.
constexpr std::string_view type_in(std::string_view pretty_function) noexcept {
  // "... [with T = int; std::string_view = ...]" with GCC, "... [T = int]" with Clang.
  constexpr std::string_view mark = "T = ";
  const std::size_t begin = pretty_function.find(mark) + mark.size();
  const std::size_t semicolon = pretty_function.find("; std::string_view =", begin);
  const std::size_t end = semicolon == std::string_view::npos ? pretty_function.size() - 1 : semicolon;
  return pretty_function.substr(begin, end - begin);
}

/// A type as it is written in code, for texts that people read.
template <class T>
constexpr std::string_view type_name() noexcept {
  return type_in(__PRETTY_FUNCTION__);
}

/// The same, with the names that are used for the standard library's strings and for drover's own types, and with the
/// words and spaces that are the same for each compiler.
inline std::string readable(std::string_view type) {
  constexpr std::string_view long_names[][2] = {{"std::__cxx11::", "std::"},
                                                {"std::basic_string<char>", "std::string"},
                                                {"std::basic_string_view<char>", "std::string_view"},
                                                {"drover::v1::", "drover::"},
                                                {"long long unsigned int", "unsigned long long"},
                                                {"long unsigned int", "unsigned long"},
                                                {"short unsigned int", "unsigned short"},
                                                {"long long int", "long long"},
                                                {"long int", "long"},
                                                {"short int", "short"},
                                                {" >", ">"},
                                                {" &", "&"},
                                                {" *", "*"}};
  std::string text(type);
  for (const auto& [from, to] : long_names)
    for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
      text.replace(at, from.size(), to);
  const std::size_t space = text.find(" (");
  if (space != std::string::npos && text.ends_with(')')) text.erase(space, 1);
  return text;
}

}}}  // namespace drover::v1::detail
