#pragma once

#include <concepts>
#include <memory>
#include <type_traits>

#include <drover/wire/detail/codec_form.hpp>
#include <drover/wire/detail/codec_members.hpp>

/// Encoder::put() and Decoder::get(), with their messages for types that cannot be sent.
namespace drover { inline namespace v1 { namespace detail {

/// A smart pointer that is_own_pointer leaves out.
template <class T>
inline constexpr bool is_other_pointer = is_a<T, std::unique_ptr> || is_a<T, std::shared_ptr> || is_a<T, std::weak_ptr>;

/// The advice for a type that cannot be sent. drover_fields() is not suggested where it would not be found: for types
/// that are not classes, and for types of std.
enum class Advice {
  write_fields,
  name_all_members,
  write_fields_for_many,
  write_fields_or_defaults,
  convert,
  own_the_value,
  use_a_view,
  take_a_container
};

template <class T>
consteval Advice advice_for() {
  if constexpr (is_other_pointer<T>)
    return Advice::own_the_value;
  else if constexpr (std::is_array_v<T>)
    return Advice::use_a_view;
  else if constexpr (Encodable<T> && is_from_std<T>())
    return Advice::take_a_container;  // such as std::span, which can only be encoded
  else if constexpr (is_from_std<T>() || (!std::is_class_v<T> && !std::is_union_v<T>))
    return Advice::convert;
  else
    switch (obstacle_of<T>()) {
      case Obstacle::base_class: return Advice::name_all_members;
      case Obstacle::too_many: return Advice::write_fields_for_many;
      case Obstacle::no_default: return Advice::write_fields_or_defaults;
      default: return Advice::write_fields;
    }
}

template <class T>
void refuse_to_encode() {
  constexpr Advice advice = advice_for<std::remove_cv_t<T>>();
  if constexpr (std::is_pointer_v<T>)
    static_assert(!sizeof(T), "drover can't send a pointer to another process: send the value it points to.");
  else if constexpr (InheritsFields<T>)
    static_assert(!sizeof(T), "drover_fields() is there for a base class of this type only: write one for this type.");
  else if constexpr (advice == Advice::own_the_value)
    static_assert(
        !sizeof(T),
        "drover can't encode a std::weak_ptr, or a smart pointer to an array or with a deleter of its own: send "
        "the value, a std::vector, a std::unique_ptr or a std::shared_ptr.");
  else if constexpr (advice == Advice::use_a_view)
    static_assert(!sizeof(T), "drover can't encode an array of wide characters: send a string or a string view of it.");
  else if constexpr (advice == Advice::convert)
    static_assert(!sizeof(T),
                  "drover can't encode this type, which is not of yours: send its value as a type that travels (see "
                  "drover/wire/codec.hpp), put it into a struct of yours, or specialise drover::Codec for it.");
  else if constexpr (advice == Advice::name_all_members)
    static_assert(
        !sizeof(T),
        "drover can't encode a struct with a base class by itself: write drover_fields() for it, which names the "
        "members of both (one line, see drover/wire/codec.hpp).");
  else if constexpr (advice == Advice::write_fields_for_many)
    static_assert(!sizeof(T),
                  "drover encodes structs of up to 32 members by itself: write drover_fields() for this one (see "
                  "drover/wire/codec.hpp), or put members together into structs.");
  else if constexpr (advice == Advice::write_fields_or_defaults)
    static_assert(
        !sizeof(T),
        "drover can't encode a struct by itself that is not default-constructible, or has such a member: make it "
        "so, or write drover_fields() for it (one line, see drover/wire/codec.hpp).");
  else
    static_assert(
        Encodable<T>,
        "drover can't encode this type: write drover_fields() for it (one line, see drover/wire/codec.hpp), or "
        "specialise drover::Codec.");
}

template <class T>
void refuse_to_decode() {
  constexpr Advice advice = advice_for<T>();
  if constexpr (std::is_pointer_v<T>)
    static_assert(!sizeof(T), "drover can't decode to a pointer: take std::string or std::string_view for text.");
  else if constexpr (InheritsFields<T>)
    static_assert(!sizeof(T), "drover_fields() is there for a base class of this type only: write one for this type.");
  else if constexpr (HasFields<T> && !HasWritableFields<T>)
    static_assert(!sizeof(T),
                  "drover_fields() has to return references to the fields, not to const and not copies of them, to "
                  "decode this type: take T& and not const T&, and use std::tie.");
  else if constexpr (HasFields<T>)
    static_assert(!sizeof(T),
                  "A type with drover_fields() must be default-constructible and movable to be decoded: make it so, or "
                  "specialise drover::Codec.");
  else if constexpr (detail::form_of<T>() == detail::Form::aggregate)
    static_assert(!sizeof(T), "a struct must be movable to be decoded: make it so, or specialise drover::Codec.");
  else if constexpr (advice == Advice::own_the_value)
    static_assert(
        !sizeof(T),
        "drover can't decode to a std::weak_ptr, or to a smart pointer to an array or with a deleter of its own: "
        "take the value, a std::vector, a std::unique_ptr or a std::shared_ptr.");
  else if constexpr (advice == Advice::take_a_container)
    static_assert(!sizeof(T), "drover can't decode to a view: take a container that owns its elements.");
  else if constexpr (advice == Advice::convert)
    static_assert(!sizeof(T),
                  "drover can't decode this type, which is not of yours: take its value as a type that travels (see "
                  "drover/wire/codec.hpp), put it into a struct of yours, or specialise drover::Codec for it.");
  else if constexpr (advice == Advice::name_all_members)
    static_assert(
        !sizeof(T),
        "drover can't decode a struct with a base class by itself: write drover_fields() for it, which names the "
        "members of both (one line, see drover/wire/codec.hpp).");
  else if constexpr (advice == Advice::write_fields_for_many)
    static_assert(!sizeof(T),
                  "drover decodes structs of up to 32 members by itself: write drover_fields() for this one (see "
                  "drover/wire/codec.hpp), or put members together into structs.");
  else if constexpr (advice == Advice::write_fields_or_defaults)
    static_assert(
        !sizeof(T),
        "drover can't decode a struct by itself that is not default-constructible, or has such a member: make it "
        "so, or write drover_fields() for it (one line, see drover/wire/codec.hpp).");
  else
    static_assert(
        Decodable<T>,
        "drover can't decode this type: write drover_fields() for it (one line, see drover/wire/codec.hpp), or "
        "specialise drover::Codec.");
}

}}}  // namespace drover::v1::detail

namespace drover { inline namespace v1 {

template <class T>
void Encoder::put(const T& value) {
  if constexpr (detail::Encodable<T>)
    detail::Wire<std::remove_cv_t<T>>::encode(*this, value);
  else
    detail::refuse_to_encode<T>();
}

template <class T>
T Decoder::get() {
  static_assert(std::same_as<T, std::remove_cvref_t<T>>, "decode to a plain type, without const, volatile and &.");
  if constexpr (detail::Decodable<T>)
    return detail::Wire<T>::decode(*this);
  else
    detail::refuse_to_decode<T>();
}

}}  // namespace drover::v1
