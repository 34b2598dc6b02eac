#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

#include <drover/wire/detail/codec_form.hpp>

/// bool, integers, enums and floating point; and the element types of number sequences. (Built-in functions instead of
/// <cmath>, which is slow to compile.)
namespace drover { inline namespace v1 { namespace detail {

/// A number as found in the message, before its conversion to the expected type.
struct Number {
  enum class Class : std::uint8_t { boolean = 1, integer, unsigned_int, floating };

  Class what{};
  std::int64_t integer = 0;
  std::uint64_t unsigned_int = 0;  // booleans too
  double floating = 0;

  Kind kind() const noexcept {
    switch (what) {
      case Class::boolean: return Kind::boolean;
      case Class::integer: return Kind::integer;
      case Class::unsigned_int: return Kind::unsigned_int;
      default: return Kind::floating;
    }
  }
};

[[noreturn]] inline void does_not_fit(const std::string& number, const char* wanted, std::size_t width) {
  decode_failed("the number " + number + " does not fit into " + wanted + " of " + std::to_string(width) + " bytes");
}

template <std::integral T>
T to_integer(const Number& number) {
  constexpr const char* name = std::signed_integral<T> ? "an integer" : "an unsigned integer";
  using Limits = std::numeric_limits<T>;
  if (number.what == Number::Class::integer) {
    const std::int64_t v = number.integer;
    if constexpr (std::signed_integral<T>) {
      if (v < Limits::min() || v > Limits::max()) does_not_fit(std::to_string(v), name, sizeof(T));
    } else {
      if (v < 0 || static_cast<std::uint64_t>(v) > Limits::max()) does_not_fit(std::to_string(v), name, sizeof(T));
    }
    return static_cast<T>(v);
  }
  if (number.what != Number::Class::unsigned_int) RawDecoder::mismatch(name, number.kind());
  if (number.unsigned_int > static_cast<std::uint64_t>(Limits::max()))
    does_not_fit(std::to_string(number.unsigned_int), name, sizeof(T));
  return static_cast<T>(number.unsigned_int);
}

template <std::floating_point T>
T to_floating(const Number& number) {
  constexpr const char* name = "a floating-point number";
  // Exact if the conversion back yields the same value; below `bound` that conversion is defined.
  const auto exact = [](auto v) {
    const T converted = static_cast<T>(v);
    constexpr T bound = static_cast<T>(std::numeric_limits<decltype(v)>::max() / 2 + 1) * 2;
    if (converted >= bound || static_cast<decltype(v)>(converted) != v)
      does_not_fit(std::to_string(v), "a floating-point number", sizeof(T));
    return converted;
  };
  if (number.what == Number::Class::integer) return exact(number.integer);
  if (number.what == Number::Class::unsigned_int) return exact(number.unsigned_int);
  if (number.what != Number::Class::floating) RawDecoder::mismatch(name, number.kind());
  const double v = number.floating;
  if constexpr (sizeof(T) < sizeof(double)) {
    if (__builtin_isfinite(v) && (__builtin_fabs(v) > static_cast<double>(std::numeric_limits<T>::max()) ||
                                  static_cast<double>(static_cast<T>(v)) != v))
      does_not_fit(std::to_string(v), name, sizeof(T));
  }
  return static_cast<T>(v);
}

template <class T>
T to_number(const Number& number) {
  if constexpr (std::same_as<T, bool>) {
    if (number.what != Number::Class::boolean) RawDecoder::mismatch("a bool", number.kind());
    return number.unsigned_int != 0;
  } else if constexpr (std::is_enum_v<T>) {
    return static_cast<T>(to_number<std::underlying_type_t<T>>(number));
  } else if constexpr (std::floating_point<T>) {
    return to_floating<T>(number);
  } else {
    return to_integer<T>(number);
  }
}

/// One value, with its kind.
inline Number take_number(RawDecoder& in, const char* wanted) {
  const Kind kind = in.kind(wanted);
  switch (kind) {
    case Kind::integer: return {.what = Number::Class::integer, .integer = in.fixed<std::int64_t>()};
    case Kind::unsigned_int: return {.what = Number::Class::unsigned_int, .unsigned_int = in.fixed<std::uint64_t>()};
    case Kind::floating: return {.what = Number::Class::floating, .floating = in.fixed<double>()};
    default: RawDecoder::mismatch(wanted, kind);
  }
}

template <class T>
struct Wire<T, Form::boolean> {
  static void encode(Encoder& out, bool value) { Raw::of(out).tagged(Kind::boolean, static_cast<std::uint8_t>(value)); }
  static bool decode(Decoder& in) {
    Raw::of(in).expect(Kind::boolean);
    return Raw::of(in).flag("bool");
  }
};

template <class T>
struct Wire<T, Form::integer> {
  static void encode(Encoder& out, T value) {
    if constexpr (std::is_signed_v<T>)
      Raw::of(out).tagged(Kind::integer, static_cast<std::int64_t>(value));
    else
      Raw::of(out).tagged(Kind::unsigned_int, static_cast<std::uint64_t>(value));
  }
  static T decode(Decoder& in) {
    return to_integer<T>(take_number(Raw::of(in), std::is_signed_v<T> ? "an integer" : "an unsigned integer"));
  }
};

template <class T>
struct Wire<T, Form::enumeration> {
  using Plain = std::underlying_type_t<T>;
  static void encode(Encoder& out, T value) { Wire<Plain>::encode(out, static_cast<Plain>(value)); }
  static T decode(Decoder& in) { return static_cast<T>(Wire<Plain>::decode(in)); }
};

template <class T>
struct Wire<T, Form::floating> {
  static constexpr bool wide = sizeof(T) > sizeof(double);
  static constexpr int parts = 3;

  static void encode(Encoder& out, T value) {
    const auto narrow = static_cast<double>(value);
    if constexpr (wide) {
      if (__builtin_isfinite(value) && static_cast<T>(narrow) != value) {
        // In parts that a double holds: the padding of a long double is not initialised and must not leave the process.
        int exponent = 0;
        T rest = __builtin_frexpl(value, &exponent);
        RawEncoder& raw = Raw::of(out);
        raw.tagged<std::int32_t>(Kind::extended, exponent);
        for (int part = 0; part < parts; ++part) {
          const auto high = static_cast<double>(rest);
          rest -= static_cast<T>(high);
          raw.fixed(high);
        }
        return;
      }
    }
    Raw::of(out).tagged(Kind::floating, narrow);
  }

  static T decode(Decoder& in) {
    RawDecoder& raw = Raw::of(in);
    constexpr const char* name = "a floating-point number";
    if constexpr (wide) {
      if (raw.peek(name) == Kind::extended) {
        raw.skip_kind();
        const auto exponent = raw.template fixed<std::int32_t>();
        T mantissa = 0;
        for (int part = 0; part < parts; ++part) mantissa += static_cast<T>(raw.template fixed<double>());
        return __builtin_ldexpl(mantissa, exponent);
      }
    }
    return to_floating<T>(take_number(raw, name));
  }
};

// --- sequences of numbers --------------------------------------------------------------------------------------------

/// Types that are contiguous in a sequence of numbers.
template <class T>
concept Packable = !HasCodec<T> && !HasFields<T> &&
                   ((std::is_arithmetic_v<T> && sizeof(T) <= sizeof(std::int64_t)) || std::is_enum_v<T>);

/// Class and width of an element in one byte.
template <Packable T>
consteval std::uint8_t element_type() {
  if constexpr (std::is_enum_v<T>)
    return element_type<std::underlying_type_t<T>>();
  else {
    const auto what = std::same_as<T, bool>    ? Number::Class::boolean
                      : std::floating_point<T> ? Number::Class::floating
                      : std::is_signed_v<T>    ? Number::Class::integer
                                               : Number::Class::unsigned_int;
    return static_cast<std::uint8_t>(static_cast<unsigned>(what) << 4 | sizeof(T));
  }
}

/// A sequence of numbers in its place in the message.
struct NumberRun {
  std::uint8_t type;
  std::size_t width;
  std::size_t count;
  const std::byte* bytes;

  static NumberRun take(RawDecoder& in) {
    const auto type = in.fixed<std::uint8_t>();
    const unsigned what = type >> 4, width = type & 15U;
    const bool sound = what == 1   ? width == sizeof(bool)
                       : what == 4 ? width == sizeof(float) || width == sizeof(double)
                                   : (what == 2 || what == 3) && width <= 8 && std::has_single_bit(width);
    if (!sound) decode_failed("malformed sequence of numbers");
    const std::size_t count = in.count(width);
    return {type, width, count, in.take(count * width)};
  }

  Number operator[](std::size_t i) const {
    const std::byte* const place = bytes + i * width;
    switch (type) {
      case 0x11: {
        const auto value = load<std::uint8_t>(place);
        if (value > 1) decode_failed("malformed bool");
        return {.what = Number::Class::boolean, .unsigned_int = value};
      }
      case 0x21: return {.what = Number::Class::integer, .integer = load<std::int8_t>(place)};
      case 0x22: return {.what = Number::Class::integer, .integer = load<std::int16_t>(place)};
      case 0x24: return {.what = Number::Class::integer, .integer = load<std::int32_t>(place)};
      case 0x28: return {.what = Number::Class::integer, .integer = load<std::int64_t>(place)};
      case 0x31: return {.what = Number::Class::unsigned_int, .unsigned_int = load<std::uint8_t>(place)};
      case 0x32: return {.what = Number::Class::unsigned_int, .unsigned_int = load<std::uint16_t>(place)};
      case 0x34: return {.what = Number::Class::unsigned_int, .unsigned_int = load<std::uint32_t>(place)};
      case 0x38: return {.what = Number::Class::unsigned_int, .unsigned_int = load<std::uint64_t>(place)};
      case 0x44: return {.what = Number::Class::floating, .floating = static_cast<double>(load<float>(place))};
      default: return {.what = Number::Class::floating, .floating = load<double>(place)};
    }
  }

  template <class T>
  static T load(const std::byte* place) noexcept {
    T value;
    std::memcpy(&value, place, sizeof value);
    return value;
  }
};

}}}  // namespace drover::v1::detail
