#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>

#include <drover/wire/detail/codec_form.hpp>
#include <drover/wire/error_category.hpp>

/// Error codes, complex numbers and bitsets. The last two are recognised by their members: their headers are large.
namespace drover { inline namespace v1 { namespace detail {

template <>
struct Wire<std::error_code, Form::error_code> {
  static void encode(Encoder& out, const std::error_code& value) {
    Raw::of(out).tagged<std::int32_t>(Kind::error_code, value.value());
    out.put(std::string_view(value.category().name()));
  }

  static std::error_code decode(Decoder& in) {
    Raw::of(in).expect(Kind::error_code);
    const auto value = Raw::of(in).fixed<std::int32_t>();
    return {value, category_of_name(in.get<std::string_view>())};
  }
};

template <class T>
struct Wire<T, Form::complex> {
  using Part = typename T::value_type;

  static void encode(Encoder& out, const T& value) {
    Raw::of(out).kind(Kind::complex);
    out.put(value.real());
    out.put(value.imag());
  }

  static T decode(Decoder& in) {
    Raw::of(in).expect(Kind::complex);
    const Part real = in.get<Part>();
    const Part imag = in.get<Part>();
    return T(real, imag);
  }
};

template <template <std::size_t> class Bits, std::size_t Size>
struct Wire<Bits<Size>, Form::bits> {
  static constexpr std::size_t bytes = (Size + 7) / 8;

  static void encode(Encoder& out, const Bits<Size>& value) {
    Raw::of(out).tagged(Kind::bits, std::uint64_t{Size});
    std::byte* const place = Raw::of(out).out().extend(bytes);
    for (std::size_t byte = 0; byte < bytes; ++byte) {
      unsigned bits = 0;
      for (std::size_t bit = 0; bit < 8 && byte * 8 + bit < Size; ++bit)
        bits |= static_cast<unsigned>(value[byte * 8 + bit]) << bit;
      place[byte] = static_cast<std::byte>(bits);
    }
  }

  static Bits<Size> decode(Decoder& in) {
    RawDecoder& raw = Raw::of(in);
    raw.expect(Kind::bits);
    const auto found = raw.template fixed<std::uint64_t>();
    if (found != Size)
      decode_failed("expected a bitset of " + std::to_string(Size) + " bits, found one of " + std::to_string(found));
    const std::byte* const place = raw.take(bytes);
    if (Size % 8 != 0 && std::to_integer<unsigned>(place[bytes - 1]) >> Size % 8 != 0)
      decode_failed("malformed bitset");
    Bits<Size> value;
    for (std::size_t at = 0; at < Size; ++at)
      value[at] = (std::to_integer<unsigned>(place[at / 8]) >> at % 8 & 1U) != 0;
    return value;
  }
};

}}}  // namespace drover::v1::detail
