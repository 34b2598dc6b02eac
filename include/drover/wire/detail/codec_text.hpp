#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <drover/wire/body.hpp>
#include <drover/wire/detail/codec_descriptor.hpp>
#include <drover/wire/detail/codec_form.hpp>
#include <drover/wire/detail/codec_number.hpp>
#include <drover/wire/detail/codec_parts.hpp>

/// Strings, paths, bytes, and messages that serialise themselves.
namespace drover { inline namespace v1 { namespace detail {

/// A string or vector with a copy of these elements, created in one pass.
template <class T, class Element>
T filled(const Element* elements, std::size_t count) {
  constexpr std::size_t large = std::size_t{4} << 20;
  if constexpr (requires(T value) { value.reserve(count); }) {
    if (count >= large) {
      T value;
      value.reserve(count);
      prefer_huge_pages(value.data(), count * sizeof(Element));
      value.assign(elements, elements + count);
      return value;
    }
  }
  if constexpr (is_a<T, std::basic_string> || is_a<T, std::vector>) {
    return T(elements, elements + count);
  } else {
    T value;
    value.assign(elements, elements + count);
    return value;
  }
}

/// Strings and paths. An array of char is sent as the text before its first NUL, or as all of it if it has none. If
/// anything but zeros follows that NUL, which text cannot express, the array is sent as all of its bytes.
template <class T>
struct Wire<T, Form::text> {
  static void encode(Encoder& out, const T& value) {
    const std::string_view text = view(value);
    if constexpr (std::is_array_v<T>) {
      if (!ends_with_text(value, text.size())) return Raw::of(out).tagged_bytes(Kind::bytes, value, sizeof(T));
    }
    Raw::of(out).tagged_bytes(Kind::text, text.data(), text.size());
  }

  static Decoded<T> decode(Decoder& in)
    requires(!std::is_array_v<T> && !std::is_pointer_v<T>)
  {
    Raw::of(in).expect(Kind::text);
    const std::string_view text = Raw::of(in).counted_bytes();
    if constexpr (!std::same_as<T, std::string_view>) {
      constexpr std::size_t held_in_place = 15;
      if (text.size() > held_in_place) Raw::of(in).budget().charge(block_of(text.size()));
    }
    if constexpr (PathLike<T>)
      return T(typename T::string_type(text));
    else if constexpr (is_a<T, std::basic_string>)
      return detail::filled<T>(text.data(), text.size());
    else
      return T(text);
  }

 private:
  static bool ends_with_text(const T& array, std::size_t text) {
    return std::all_of(array + text, array + std::extent_v<T>, [](char c) { return c == '\0'; });
  }

  static std::string_view view(const T& value) {
    if constexpr (std::is_array_v<T>) {
      return {value, ::strnlen(value, std::extent_v<T>)};
    } else if constexpr (std::is_pointer_v<T>) {
      if (value == nullptr) throw std::invalid_argument("a null pointer is not a string");
      return value;
    } else if constexpr (PathLike<T>) {
      return value.native();
    } else {
      return value;
    }
  }
};

/// The content for an array of `size` characters: its text, or all of its bytes (see Wire<T, Form::text>).
inline std::string_view take_characters(RawDecoder& in, std::size_t size) {
  const Kind kind = in.kind(describe(Kind::text));
  if (kind != Kind::text && kind != Kind::bytes) RawDecoder::mismatch(describe(Kind::text), kind);
  const std::string_view found = in.counted_bytes();
  if (kind == Kind::text ? found.size() > size : found.size() != size)
    decode_failed(std::string(describe(kind)) + " of " + std::to_string(found.size()) + " bytes for an array of " +
                  std::to_string(size) + " characters");
  return found;
}

/// Takes bytes, also from text and from numbers of one byte.
inline std::span<const std::byte> take_bytes(RawDecoder& in) {
  const Kind kind = in.kind("bytes");
  if (kind == Kind::bytes || kind == Kind::text) {
    const std::string_view bytes = in.counted_bytes();
    return {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()};
  }
  if (kind != Kind::numbers) RawDecoder::mismatch("bytes", kind);
  const NumberRun run = NumberRun::take(in);
  if (run.width != 1 || run.type == element_type<bool>()) RawDecoder::mismatch("bytes", kind);
  return {run.bytes, run.count};
}

template <class T>
struct Wire<T, Form::bytes> {
  static void encode(Encoder& out, const T& value) {
    Raw::of(out).tagged_bytes(Kind::bytes, value.data(), value.size());
  }

  static Decoded<T> decode(Decoder& in)
    requires std::same_as<T, std::span<const std::byte>> ||
             requires(T& c, const std::byte* at) { c.assign(at, at); } || is_std_array<T>
  {
    const std::span<const std::byte> bytes = take_bytes(Raw::of(in));
    if constexpr (is_std_array<T>) {
      T value;
      if (bytes.size() != value.size())
        decode_failed("expected " + std::to_string(value.size()) + " bytes, found " + std::to_string(bytes.size()));
      if (!bytes.empty()) std::memcpy(value.data(), bytes.data(), bytes.size());
      return value;
    } else if constexpr (std::same_as<T, std::span<const std::byte>>) {
      return bytes;
    } else {
      Raw::of(in).budget().charge_block(bytes.size());
      return detail::filled<T>(bytes.data(), bytes.size());
    }
  }
};

/// Encodes an argument or a result. A large string or vector of bytes that is passed as an rvalue is moved into the
/// body, and so are descriptors in rvalues.
template <class T>
void put_or_move(Encoder& out, FrameBody& body, T&& value) {
  if constexpr (std::is_same_v<T, UniqueFd> && form_of<T>() == Form::descriptor)
    return put_descriptor(Raw::of(out), std::move(value));
  if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, std::vector<std::byte>>) {
    constexpr Form form = form_of<T>();  // the program may have a codec for it
    if constexpr (form == Form::text || form == Form::bytes) {
      if (value.size() >= worth_moving) {
        Raw::of(out).tagged(form == Form::text ? Kind::text : Kind::bytes, std::uint64_t{value.size()});
        return body.insert(std::move(value));
      }
    }
  }
  out.put(std::as_const(value));
  if constexpr (std::is_same_v<T, std::remove_cvref_t<T>> && std::is_move_constructible_v<T>) {
    // The duplicates are sent, these are closed.
    if constexpr (carries_descriptors<T>()) [[maybe_unused]]
      const T sent(std::move(value));
  }
}

template <class T>
struct Wire<T, Form::message> {
  static constexpr bool by_array = requires(const T& in, void* to) { in.SerializeToArray(to, 0); };
  static constexpr std::size_t limit = std::numeric_limits<int>::max();

  static void encode(Encoder& out, const T& value) {
    RawEncoder& raw = Raw::of(out);
    raw.kind(Kind::message);
    const auto name = name_of(value);
    raw.tagged_bytes(Kind::text, name.data(), name.size());
    bool done = false;
    if constexpr (by_array) {
      const auto size = static_cast<std::size_t>(value.ByteSizeLong());
      if (size > limit) throw std::length_error("message of 2 GiB or more");
      done = value.SerializeToArray(raw.tagged_room(Kind::bytes, size), static_cast<int>(size));
    } else {
      std::string bytes;
      done = value.SerializeToString(&bytes);
      raw.tagged_bytes(Kind::bytes, bytes.data(), bytes.size());
    }
    if (!done) throw std::invalid_argument("a message could not be serialised: " + std::string(name));
  }

  static T decode(Decoder& in)
    requires std::default_initializable<T>
  {
    RawDecoder& raw = Raw::of(in);
    raw.expect(Kind::message);
    T value;
    raw.expect(Kind::text);
    const std::string_view found = raw.counted_bytes();
    const auto wanted = name_of(value);
    if (found != std::string_view(wanted))
      decode_failed("expected the message " + std::string(wanted) + ", found " + std::string(found.substr(0, 200)));
    raw.expect(Kind::bytes);
    const std::string_view bytes = raw.counted_bytes();
    if (!parse(value, bytes)) decode_failed("malformed message " + std::string(wanted));
    return value;
  }

 private:
  static auto name_of(const T& value) {
    if constexpr (requires { value.GetTypeName(); })
      return value.GetTypeName();
    else
      return std::string_view();
  }

  static bool parse(T& value, std::string_view bytes) {
    if constexpr (by_array)
      return bytes.size() <= limit && value.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
    else
      return value.ParseFromString(std::string(bytes));
  }
};

}}}  // namespace drover::v1::detail
