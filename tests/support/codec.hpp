#pragma once

#include <string>
#include <type_traits>

#include <drover/wire/codec.hpp>

/// What tests of the codec need.
namespace support {

template <class... T>
drover::detail::ByteBuffer encoded(const T&... values) {
  drover::detail::ByteBuffer bytes;
  drover::Encoder out(bytes);
  (out.put(values), ...);
  return bytes;
}

/// A value of another type, from the bytes of a value.
template <class To, class From>
To through(const From& value) {
  const drover::detail::ByteBuffer bytes = encoded(value);
  drover::Decoder in(bytes.view());
  To result = in.get<To>();
  in.finish();
  return result;
}

/// The error of that, or "accepted".
template <class To, class From>
std::string refusal(const From& value) {
  try {
    through<To>(value);
  } catch (const drover::DecodeError& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace support
