#pragma once

#include <drover/detail/platform.hpp>

#include <string_view>
#include <system_error>

#include <drover/detail/config.hpp>

namespace drover { inline namespace v1 {

/// A std::error_code is sent as its value and the name of its category. It arrives in the category that has this name
/// in the receiving program: the generic and the system category, those of iostreams, of drover and of Asio, and those
/// that were given to this function. Call it once for each category of yours, on both sides, before the first call.
///
/// A code of any other category arrives with its value, and with a category that only has the name: it equals neither a
/// code of the original category nor a std::error_condition. A program keeps 64 such names; codes of further ones
/// arrive in a category named "unknown".
///
/// *Errors:* std::invalid_argument if another category of that name is known.
/// *Lifetime:* the category must live until the program ends.
/// *Threads:* any.
void add_error_category(const std::error_category& category);

namespace detail {

/// The category of this name that codes arrive in.
const std::error_category& category_of_name(std::string_view name);

}  // namespace detail
}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/wire/error_category.ipp>
#endif
