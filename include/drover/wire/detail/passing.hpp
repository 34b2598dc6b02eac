#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

#include <drover/wire/body.hpp>
#include <drover/wire/borrow.hpp>
#include <drover/wire/codec.hpp>

/// How a value is sent that a drover::Routine declares the type of.
namespace drover { inline namespace v1 { namespace detail {

enum class Passing {
  unchanged,  // what decodes the declared type decodes the given one, and checks that nothing is lost
  converted,
  refused
};

constexpr bool is_integer(Form form) noexcept { return form == Form::integer || form == Form::wide_integer; }
constexpr bool is_number(Form form) noexcept {
  return is_integer(form) || form == Form::boolean || form == Form::floating;
}

/// Bytes, or a container of numbers of one byte, which accepts them.
template <class T>
consteval bool takes_bytes() {
  if constexpr (form_of<T>() == Form::sequence)
    return std::is_integral_v<typename T::value_type> && sizeof(typename T::value_type) == 1 &&
           !std::is_same_v<typename T::value_type, bool>;
  else
    return form_of<T>() == Form::bytes && !is_std_array<T>;
}

/// For a Given as std::forward<Given> passes it.
template <class Declared, class Given>
consteval Passing passing() {
  using Value = std::remove_cvref_t<Given>;
  if constexpr (std::is_same_v<Declared, Value>) {
    return Passing::unchanged;
  } else if constexpr (std::is_same_v<Value, Borrowed>) {
    return form_of<Declared>() == Form::text || takes_bytes<Declared>() ? Passing::unchanged : Passing::refused;
  } else {
    constexpr Form wanted = form_of<Declared>(), given = form_of<Value>();
    constexpr bool convertible = std::is_convertible_v<Given, Declared>;
    if constexpr (is_number(wanted) && is_number(given)) {
      if (wanted == Form::floating && given == Form::floating) return Passing::converted;  // rounded, as C++ does
      const bool same_kind = wanted == given || (is_integer(wanted) && is_integer(given));
      return same_kind || (wanted == Form::floating && is_integer(given)) ? Passing::unchanged : Passing::refused;
    } else if constexpr (is_number(wanted) && !std::is_class_v<Value>) {
      return given == Form::enumeration && convertible && is_integer(wanted) ? Passing::unchanged : Passing::refused;
    } else if constexpr ((wanted == Form::text && given == Form::text) ||
                         (wanted == Form::bytes && given == Form::bytes && takes_bytes<Declared>()) ||
                         (wanted == Form::duration && given == Form::duration && convertible)) {
      return Passing::unchanged;
    } else {
      return convertible ? Passing::converted : Passing::refused;
    }
  }
}

/// Encodes a value that is passed for a Declared, but no Borrowed.
template <class Declared, class Given>
void put_as(Encoder& out, FrameBody& body, Given&& value) {
  if constexpr (passing<Declared, Given>() == Passing::converted)
    detail::put_or_move(out, body, static_cast<Declared>(std::forward<Given>(value)));
  else
    detail::put_or_move(out, body, std::forward<Given>(value));
}

}}}  // namespace drover::v1::detail
