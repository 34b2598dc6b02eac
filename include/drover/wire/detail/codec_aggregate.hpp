#pragma once

#include <concepts>
#include <cstddef>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include <drover/wire/detail/codec_compound.hpp>
#include <drover/wire/detail/codec_container.hpp>
#include <drover/wire/detail/codec_form.hpp>
#include <drover/wire/detail/codec_members.hpp>

/// Structs without drover_fields(). They are sent as if it named all their members.
namespace drover { inline namespace v1 { namespace detail {

/// A type has a form, and so have the types in it if it is one of std's templates. This is not asked of structs, which
/// may contain themselves: each of them is asked for its own members.
template <class T>
consteval bool has_forms();
template <class... Types>
consteval bool all_have_forms(std::type_identity<std::tuple<Types...>>) {
  return (has_forms<std::remove_cv_t<Types>>() && ...);
}
template <template <class...> class Template, class... Types>
consteval auto types_in(std::type_identity<Template<Types...>>) -> std::type_identity<std::tuple<Types...>> {
  return {};
}

template <class T>
consteval bool has_forms() {
  constexpr Form form = form_of<T>();
  if constexpr (std::is_array_v<T>)
    return form != Form::none && has_forms<std::remove_cv_t<std::remove_extent_t<T>>>();
  else if constexpr (ends_recursion(form) || !is_from_std<T>())
    return form != Form::none;
  else if constexpr (form == Form::map)
    return has_forms<typename T::key_type>() && has_forms<std::remove_cv_t<typename T::mapped_type>>();
  else if constexpr (form == Form::variant || (form == Form::tuple && !std::same_as<T, std::monostate>))
    return detail::all_have_forms(types_in(std::type_identity<T>()));
  else if constexpr (requires { typename T::value_type; })
    return has_forms<std::remove_cv_t<typename T::value_type>>();
  else if constexpr (requires { typename T::element_type; })
    return has_forms<std::remove_cv_t<typename T::element_type>>();
  else
    return true;
}

/// The member with this number of a struct can be sent, or received. The compiler prints the arguments where it cannot.
template <class Struct, std::size_t Number, class Member>
inline constexpr bool member_can_be_sent = has_forms<Member>();
template <class Struct, std::size_t Number, class Member>
inline constexpr bool member_can_be_received = !std::is_const_v<Member> && has_forms<std::remove_const_t<Member>>() &&
                                               (std::is_array_v<Member> || Decodable<std::remove_const_t<Member>>);

template <class Struct, std::size_t Number, class Member>
consteval void require_sendable() {
  static_assert(
      member_can_be_sent<Struct, Number, Member>,
      "drover can't send a member of this struct: member_can_be_sent<struct, number, type> names it. Give the member a "
      "type that travels (see drover/wire/codec.hpp), or write drover_fields() for the struct, without the member.");
}
template <class Struct, std::size_t Number, class Member>
consteval void require_receivable() {
  static_assert(
      member_can_be_received<Struct, Number, Member>,
      "drover can't decode to a member of this struct: member_can_be_received<struct, number, type> names it. Give the "
      "member a type that travels (see drover/wire/codec.hpp) and is not const, or write drover_fields() for the "
      "struct, without the member.");
}

template <class Struct>
struct MemberEncoder {
  Encoder& out;

  template <class... Members>
  void operator()(const Members&... members) const {
    if constexpr ((member_can_be_sent<Struct, 0, Members> && ...))
      detail::encode_fields(out, members...);
    else
      [&]<std::size_t... At>(std::index_sequence<At...>) {
        (require_sendable<Struct, At + 1, Members>(), ...);
      }(std::index_sequence_for<Members...>());
  }
};

/// Compares bit-fields with what has been assigned to them: they may be too narrow for it.
template <class Values>
struct BitFieldCheck {
  const Values& values;

  template <class... Members>
  void operator()(const Members&... members) const {
    [&]<std::size_t... At>(std::index_sequence<At...>) {
      (check(members, std::get<At>(values)), ...);
    }(std::index_sequence_for<Members...>());
  }

 private:
  template <class Member>
  static void check(const Member& member, const Member& value) {
    if constexpr (std::is_integral_v<Member> || std::is_enum_v<Member>) {
      if (member != value) decode_failed("a number does not fit into a bit-field");
    }
  }
};

template <class Struct>
struct MemberDecoder {
  Decoder& in;
  Struct& whole;

  template <class... Members>
  void operator()(Members&... members) const {
    if constexpr (require<Members...>()) (detail::decode_to(in, members), ...);
  }

  /// For a struct with bit-fields.
  template <class... Members>
  void with_copies(const Members&...) const {
    static_assert(!(std::is_array_v<Members> || ...),
                  "drover can't decode a struct that has both bit-fields and an array: use std::array, or specialise "
                  "drover::Codec.");
    static_assert(std::is_move_assignable_v<Struct>,
                  "drover can't decode a struct that has both bit-fields and const members: specialise drover::Codec.");
    if constexpr (require<Members...>() && !(std::is_array_v<Members> || ...)) {
      std::tuple<Members...> values{in.get<Members>()...};  // braces evaluate from left to right
      assign(values, std::index_sequence_for<Members...>());
      detail::visit_members(std::as_const(whole), BitFieldCheck<std::tuple<Members...>>{values});
    }
  }

 private:
  template <class... Members>
  static consteval bool require() {
    [&]<std::size_t... At>(std::index_sequence<At...>) {
      (require_receivable<Struct, At + 1, Members>(), ...);
    }(std::index_sequence_for<Members...>());
    return (member_can_be_received<Struct, 0, Members> && ...);
  }

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
  template <class Values, std::size_t... At>
  void assign(Values& values, std::index_sequence<At...>) const {
    // In parentheses: braces do not take an integer for a bit-field.
    whole = Struct(std::move(std::get<At>(values))...);
  }
#pragma GCC diagnostic pop
};

template <class T>
struct Wire<T, Form::aggregate> {
  static void encode(Encoder& out, const T& value) {
    const Level<T, RawEncoder> level(Raw::of(out));
    detail::visit_members(value, MemberEncoder<T>{out});
  }

  static T decode(Decoder& in)
    requires std::move_constructible<T>
  {
    const Level<T, RawDecoder> level(Raw::of(in));
    T value{};
    expect_fields(Raw::of(in), count_members<T>());
    detail::visit_members(value, MemberDecoder<T>{in, value});
    return value;
  }
};

}}}  // namespace drover::v1::detail
