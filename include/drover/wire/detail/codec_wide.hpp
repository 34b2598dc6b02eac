#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include <drover/wire/detail/codec_form.hpp>
#include <drover/wire/detail/codec_number.hpp>

/// Integers of 128 bits. Those that fit into 64 are sent as any other integer, so that they convert.
namespace drover { inline namespace v1 { namespace detail {

template <class T>
struct Wire<T, Form::wide_integer> {
  static constexpr bool is_signed = T(-1) < T(0);
  using Narrow = std::conditional_t<is_signed, std::int64_t, std::uint64_t>;

  static void encode(Encoder& out, T value) {
    const auto narrow = static_cast<Narrow>(value);
    if (narrow == value) return Wire<Narrow>::encode(out, narrow);
    RawEncoder& raw = Raw::of(out);
    raw.tagged(Kind::wide_integer, static_cast<std::uint8_t>(value < T(0)));
    raw.fixed(static_cast<std::uint64_t>(static_cast<UInt128>(value) >> 64));
    raw.fixed(static_cast<std::uint64_t>(value));
  }

  static T decode(Decoder& in) {
    RawDecoder& raw = Raw::of(in);
    constexpr const char* name = is_signed ? "an integer" : "an unsigned integer";
    if (raw.peek(name) != Kind::wide_integer) {
      const Number number = take_number(raw, name);
      if (number.what == Number::Class::unsigned_int) return static_cast<T>(number.unsigned_int);
      return to_signed(number, name);
    }
    raw.skip_kind();
    const bool negative = raw.flag("integer");
    const auto high = raw.template fixed<std::uint64_t>();
    const auto low = raw.template fixed<std::uint64_t>();
    // A T that has a sign has it in the first bit.
    if (negative != (is_signed && high >> 63 != 0))
      decode_failed(std::string("a number that does not fit into ") + name);
    return static_cast<T>(static_cast<UInt128>(high) << 64 | low);
  }

 private:
  static T to_signed(const Number& number, const char* name) {
    if (number.what != Number::Class::integer) RawDecoder::mismatch(name, number.kind());
    if (!is_signed && number.integer < 0) does_not_fit(std::to_string(number.integer), name, sizeof(T));
    return static_cast<T>(number.integer);
  }
};

}}}  // namespace drover::v1::detail
