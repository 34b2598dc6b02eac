#pragma once

#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include <drover/wire/detail/codec_form.hpp>
#include <drover/wire/detail/codec_members.hpp>

/// Finds the parts of a type that is sent: the types of its elements, members and alternatives, and their parts.
namespace drover { inline namespace v1 { namespace detail {

struct TypesOfMembers {
  template <class... Members>
  auto operator()(const Members&...) const -> std::type_identity<std::tuple<Members...>> {
    return {};
  }
  template <class... Members>
  auto with_copies(const Members&...) const -> std::type_identity<std::tuple<Members...>> {
    return {};
  }
};

/// True if `Is::template of<Part>()` for T, or for a type of which a T has values: its elements, members, alternatives.
/// `Outer`: the structs and containers around it.
template <class Is, class T, class... Outer>
consteval bool has_part();

template <class Is, class... Outer, template <class...> class Template, class... Types>
consteval bool any_has_part(std::type_identity<Template<Types...>>) {
  return (has_part<Is, Types, Outer...>() || ...);
}

template <class Is, class T, class... Outer>
consteval bool has_part() {
  using Value = std::remove_cvref_t<T>;
  if constexpr (std::is_void_v<Value> || (std::same_as<Value, Outer> || ...)) {
    return false;
  } else if constexpr (std::is_array_v<Value>) {
    return has_part<Is, std::remove_extent_t<Value>, Outer...>();
  } else if constexpr (Is::template of<Value>()) {
    return true;
  } else {
    constexpr Form form = form_of<Value>();
    if constexpr (form == Form::map) {
      return has_part<Is, typename Value::key_type, Value, Outer...>() ||
             has_part<Is, typename Value::mapped_type, Value, Outer...>();
    } else if constexpr (form == Form::variant || (form == Form::tuple && !std::same_as<Value, std::monostate>)) {
      return any_has_part<Is, Outer...>(std::type_identity<Value>());
    } else if constexpr (form == Form::fields) {
      return any_has_part<Is, Value, Outer...>(std::type_identity<decltype(drover_fields(std::declval<Value&>()))>());
    } else if constexpr (form == Form::aggregate) {
      using Members = decltype(detail::visit_members(std::declval<Value&>(), TypesOfMembers()));
      return any_has_part<Is, Value, Outer...>(Members());
    } else if constexpr (form == Form::pointer) {
      return has_part<Is, typename Value::element_type, Value, Outer...>();
    } else if constexpr (form == Form::sequence || form == Form::fixed_sequence || form == Form::optional) {
      if constexpr (requires { typename Value::value_type; })
        return has_part<Is, typename Value::value_type, Value, Outer...>();
      else
        return false;
    } else {
      return false;
    }
  }
}

struct IsDescriptor {
  template <class T>
  static consteval bool of() {
    if constexpr (form_of<T>() == Form::custom) {
      if constexpr (requires { Codec<T>::carries_descriptors; })
        return Codec<T>::carries_descriptors;
      else
        return false;
    } else {
      return form_of<T>() == Form::descriptor || form_of<T>() == Form::shared;
    }
  }
};

template <class T>
inline constexpr bool is_span = false;
template <class T, std::size_t Extent>
inline constexpr bool is_span<std::span<T, Extent>> = true;

/// The program's Codec of a class template may decode values of its template arguments, see IsView.
template <class T>
inline constexpr bool has_view_argument = false;

/// The codec of drover decodes a view, or a Codec of the program may do so.
struct IsView {
  template <class T>
  static consteval bool of() {
    if constexpr (std::same_as<T, std::string_view> || is_span<T>)
      return true;
    else
      return form_of<T>() == Form::custom && has_view_argument<T>;
  }
};

template <template <class...> class Template, class... Types>
inline constexpr bool has_view_argument<Template<Types...>> = (has_part<IsView, Types>() || ...);

/// A decoded T refers to the message it came from.
template <class T>
inline constexpr bool refers_to_message = has_part<IsView, T>();

template <class T>
consteval bool carries_descriptors() {
  return has_part<IsDescriptor, T>();
}

}}}  // namespace drover::v1::detail
