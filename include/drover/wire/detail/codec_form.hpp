#pragma once

#include <array>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include <drover/os/fd.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/detail/codec_members.hpp>
#include <drover/wire/shared.hpp>

/// Selects the encoding of a type.
namespace drover { inline namespace v1 { namespace detail {

enum class Form {
  none,
  custom,
  fields,
  message,
  boolean,
  integer,
  enumeration,
  floating,
  text,
  bytes,
  sequence,
  fixed_sequence,
  map,
  optional,
  pointer,
  variant,
  tuple,
  duration,
  time_point,
  calendar,
  wide_integer,
  complex,
  bits,
  error_code,
  descriptor,
  shared,
  aggregate
};

template <class T, template <class...> class Template>
inline constexpr bool is_a = false;
template <template <class...> class Template, class... Args>
inline constexpr bool is_a<Template<Args...>, Template> = true;

/// True if the name begins with "std::".
template <class T>
consteval bool is_from_std() {
  constexpr std::string_view whole = __PRETTY_FUNCTION__;  // "... [with T = std::vector<int>]", without "with" in Clang
  constexpr std::string_view mark = "T = ";
  constexpr std::size_t begin = whole.find(mark);
  return begin != std::string_view::npos && whole.substr(begin + mark.size()).starts_with("std::");
}

template <class T>
concept HasCodec = requires { sizeof(Codec<T>); };

// drover_fields() may take its argument by reference or by const reference.
template <class T>
concept HasConstFields = requires(const T& value) { drover_fields(value); };
template <class T>
concept HasSomeFields = HasConstFields<T> || requires(T& value) { drover_fields(value); };

// OnlyA converts to a T and to nothing else; OnlyLikeA to whatever a T would be converted to, but not to a T.
template <class T>
struct OnlyA {
  template <class U>
    requires std::same_as<std::remove_const_t<U>, T>
  operator U&() const;
};
template <class T>
struct OnlyLikeA {
  template <class U>
    requires(!std::same_as<std::remove_const_t<U>, T> && (std::is_base_of_v<U, T> || std::is_convertible_v<T&, U>))
  operator U&() const;
};

/// Only a base class of T, or a type that T converts to, has drover_fields(): the rest of T would be lost.
template <class T>
concept InheritsFields = HasSomeFields<T> && !requires(OnlyA<T> value) { drover_fields(value); } &&
                         requires(OnlyLikeA<T> value) { drover_fields(value); };
template <class T>
concept HasFields = HasSomeFields<T> && !InheritsFields<T>;

template <class Fields, std::size_t... At>
consteval bool refers_to_fields(std::index_sequence<At...>) {
  return ((std::is_lvalue_reference_v<std::tuple_element_t<At, Fields>> &&
           !std::is_const_v<std::remove_reference_t<std::tuple_element_t<At, Fields>>>) &&
          ...);
}

/// The result of drover_fields() for a T& can be decoded to.
template <class T>
concept HasWritableFields =
    HasFields<T> && requires(T& value) { drover_fields(value); } &&
    refers_to_fields<decltype(drover_fields(std::declval<T&>()))>(
        std::make_index_sequence<std::tuple_size_v<decltype(drover_fields(std::declval<T&>()))>>());

template <class T>
concept MessageLike = requires(const T& in, T& out, void* to, const void* from) {
  { in.ByteSizeLong() } -> std::convertible_to<std::size_t>;
  { in.SerializeToArray(to, 0) } -> std::convertible_to<bool>;
  { out.ParseFromArray(from, 0) } -> std::convertible_to<bool>;
} || requires(const T& in, T& out, std::string* to, const std::string& from) {
  { in.SerializeToString(to) } -> std::convertible_to<bool>;
  { out.ParseFromString(from) } -> std::convertible_to<bool>;
};

template <class T>
concept PathLike = requires(const T& path) {
  typename T::string_type;
  typename T::format;
  { path.native() } -> std::same_as<const typename T::string_type&>;
} && std::constructible_from<T, typename T::string_type>;

template <class T, class... Others>
inline constexpr bool is_one_of = (std::same_as<T, Others> || ...);

template <class T>
concept Iterable = requires(const T& c) {
  typename T::value_type;
  { c.begin() != c.end() } -> std::convertible_to<bool>;
  { *c.begin() } -> std::convertible_to<const typename T::value_type&>;
} && !std::same_as<typename T::value_type, T>;

// Bytes: containers of std::byte with contiguous elements.
template <class T>
concept ByteRange =
    Iterable<T> && std::same_as<std::remove_cv_t<typename T::value_type>, std::byte> && requires(const T& c) {
      { c.data() } -> std::convertible_to<const std::byte*>;
      c.size();
    };

template <class T>
concept MapLike = Iterable<T> && requires {
  typename T::key_type;
  typename T::mapped_type;
};

template <class T>
inline constexpr bool is_std_array = false;
template <class T, std::size_t N>
inline constexpr bool is_std_array<std::array<T, N>> = true;

template <class T>
inline constexpr bool is_own_pointer = false;
template <class T>
inline constexpr bool is_own_pointer<std::unique_ptr<T>> = !std::is_array_v<T>;
template <class T>
inline constexpr bool is_own_pointer<std::shared_ptr<T>> = !std::is_array_v<T> && !std::is_void_v<T>;

__extension__ using Int128 = __int128;
__extension__ using UInt128 = unsigned __int128;

/// The parts of a date, and dates that are made of them. Their place in the list is sent, so append only.
using CalendarTypes =
    std::tuple<std::chrono::day, std::chrono::month, std::chrono::year, std::chrono::weekday,
               std::chrono::weekday_indexed, std::chrono::weekday_last, std::chrono::month_day,
               std::chrono::month_day_last, std::chrono::month_weekday, std::chrono::month_weekday_last,
               std::chrono::year_month, std::chrono::year_month_day, std::chrono::year_month_day_last,
               std::chrono::year_month_weekday, std::chrono::year_month_weekday_last>;

template <class T, class Types>
inline constexpr bool is_listed = false;
template <class T, class... Types>
inline constexpr bool is_listed<T, std::tuple<Types...>> = is_one_of<T, Types...>;
template <class T>
concept CalendarLike = is_listed<T, CalendarTypes> || is_a<T, std::chrono::hh_mm_ss>;

// std::complex, without its header.
template <class T>
concept ComplexLike = requires(const T& number) {
  requires std::floating_point<typename T::value_type>;
  { number.real() } -> std::same_as<typename T::value_type>;
  { number.imag() } -> std::same_as<typename T::value_type>;
} && std::constructible_from<T, typename T::value_type, typename T::value_type>;

// std::bitset, without its header.
template <class T>
inline constexpr bool is_bitset = false;
template <template <std::size_t> class Bits, std::size_t Size>
  requires requires(const Bits<Size>& bits) {
    { bits.test(Size) } -> std::same_as<bool>;
    bits.to_ullong();
  }
inline constexpr bool is_bitset<Bits<Size>> = true;

template <class T>
concept StringLike = std::same_as<T, std::string_view> || (is_a<T, std::basic_string> && requires(const T& text) {
                       { std::string_view(text) };
                     });

/// For a T without const and volatile; the first form that fits.
template <class T>
consteval Form form_of() {
  if constexpr (HasCodec<T>)
    return Form::custom;
  else if constexpr (std::same_as<T, bool>)
    return Form::boolean;
  else if constexpr (is_one_of<T, Int128, UInt128>)
    return Form::wide_integer;
  else if constexpr (std::integral<T>)
    return sizeof(T) <= sizeof(std::int64_t) ? Form::integer : Form::none;
  else if constexpr (std::floating_point<T>)
    return Form::floating;
  else if constexpr (StringLike<T>)
    return Form::text;
  else if constexpr (HasFields<T>)
    return Form::fields;
  else if constexpr (std::is_enum_v<T>)
    return Form::enumeration;
  else if constexpr (std::is_array_v<T>) {
    using Element = std::remove_cv_t<std::remove_extent_t<T>>;
    if constexpr (std::same_as<Element, char>)
      return Form::text;
    else if constexpr (std::is_unbounded_array_v<T>)
      return Form::none;
    else
      return is_one_of<Element, wchar_t, char8_t, char16_t, char32_t> ? Form::none : Form::fixed_sequence;
  } else if constexpr (std::is_pointer_v<T>) {
    return std::same_as<std::remove_cv_t<std::remove_pointer_t<T>>, char> ? Form::text : Form::none;
  } else if constexpr (InheritsFields<T>)
    return Form::none;
  else if constexpr (MessageLike<T>)
    return Form::message;
  else if constexpr (PathLike<T>)
    return Form::text;
  else if constexpr (is_a<T, std::optional> || std::same_as<T, std::nullopt_t>)
    return Form::optional;
  else if constexpr (is_own_pointer<T>)
    return Form::pointer;
  else if constexpr (is_a<T, std::variant>)
    return Form::variant;
  else if constexpr (is_a<T, std::tuple> || is_a<T, std::pair> || std::same_as<T, std::monostate>)
    return Form::tuple;
  else if constexpr (is_a<T, std::chrono::duration>)
    return Form::duration;
  else if constexpr (is_a<T, std::chrono::time_point>)
    return Form::time_point;
  else if constexpr (CalendarLike<T>)
    return Form::calendar;
  else if constexpr (std::same_as<T, std::error_code>)
    return Form::error_code;
  else if constexpr (std::same_as<T, UniqueFd>)
    return Form::descriptor;
  else if constexpr (is_a<T, Shared>)
    return Form::shared;
  else if constexpr (ByteRange<T>)
    return Form::bytes;
  else if constexpr (MapLike<T>)
    return Form::map;
  else if constexpr (is_std_array<T>)
    return Form::fixed_sequence;
  else if constexpr (Iterable<T>)
    return Form::sequence;
  else if constexpr (is_bitset<T>)
    return Form::bits;
  else if constexpr (ComplexLike<T>)
    return Form::complex;
  else if constexpr (obstacle_of<T>() == Obstacle::none && !is_from_std<T>())
    return Form::aggregate;
  else
    return Form::none;
}

/// A lower bound on the bytes of a value in a message. The claimed length of a sequence is checked against it.
template <class T>
consteval std::size_t least_size() {
  constexpr std::size_t kind = 1, length = sizeof(std::uint64_t), number = kind + sizeof(std::int64_t);
  switch (form_of<T>()) {
    case Form::boolean:
    case Form::enumeration: return kind + 1;  // there are enums of bool
    case Form::integer:
    case Form::wide_integer:
    case Form::floating: return number;
    case Form::text:
    case Form::bytes:
    case Form::sequence:
    case Form::fixed_sequence:
    case Form::map:
    case Form::shared: return kind + length;
    case Form::message: return kind + 2 * (kind + length);
    case Form::tuple:
    case Form::aggregate:
    case Form::fields: return kind + sizeof(std::uint32_t);
    case Form::calendar: return kind + 2;
    case Form::complex: return kind + 2 * number;
    case Form::bits: return kind + length;
    case Form::error_code: return kind + sizeof(std::int32_t) + kind + length;
    case Form::variant: return kind + sizeof(std::uint32_t) + kind;
    case Form::duration: return kind + 2 * sizeof(std::int64_t) + number;
    case Form::time_point: return kind + 1 + kind + 2 * sizeof(std::int64_t) + number;
    default: return kind;  // an optional may be sent as the bare value, which may have any form
  }
}

/// True if a value of this form contains no value of a type that contains it, or counts as a level of nesting itself.
constexpr bool ends_recursion(Form form) noexcept {
  switch (form) {
    case Form::sequence:
    case Form::fixed_sequence:
    case Form::map:
    case Form::optional:
    case Form::pointer:
    case Form::variant:
    case Form::tuple: return false;
    default: return true;
  }
}

struct NoLevel {
  template <class RawCoder>
  explicit NoLevel(RawCoder&) noexcept {}
};

/// A level of a tree counts once: as its struct, not as the container of the children in it. A container counts if it
/// is the struct, as in struct Tree : std::map<int, Tree> {}.
template <class T, class RawCoder, class... Elements>
using ContainerLevel =
    std::conditional_t<is_from_std<T>() || (ends_recursion(form_of<Elements>()) && ...), NoLevel, Level<T, RawCoder>>;

/// How a type of that form is sent: static void encode(Encoder&, const T&); static T decode(Decoder&), absent if the
/// type cannot be decoded.
template <class T, Form = form_of<T>()>
struct Wire;

// A function cannot even be declared to return an array.
template <class T>
using Decoded = std::conditional_t<std::is_array_v<T>, void, T>;

template <class T>
concept Encodable = (form_of<std::remove_cvref_t<T>>() != Form::none);

template <class T>
concept Decodable = requires(Decoder& in) {
  { Wire<T>::decode(in) } -> std::same_as<T>;
};

/// A value of this type, or a value in it, may be a descriptor, see codec_parts.hpp.
template <class T>
consteval bool carries_descriptors();

template <class T>
struct Wire<T, Form::custom> {
  static void encode(Encoder& out, const T& value) {
    RawEncoder& raw = Raw::of(out);
    const Level<T, RawEncoder> level(raw);
    raw.kind(Kind::custom);
    Codec<T>::encode(out, value);
  }

  static T decode(Decoder& in)
    requires requires {
      { Codec<T>::decode(in) } -> std::convertible_to<T>;
    }
  {
    RawDecoder& raw = Raw::of(in);
    const Level<T, RawDecoder> level(raw);
    raw.expect(Kind::custom);
    return Codec<T>::decode(in);
  }
};

inline void decode_failed(const std::string& what) { throw DecodeError(what); }

}}}  // namespace drover::v1::detail
