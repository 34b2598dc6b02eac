#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <drover/wire/detail/codec_fill.hpp>
#include <drover/wire/detail/codec_form.hpp>
#include <drover/wire/detail/codec_number.hpp>
#include <drover/wire/detail/codec_text.hpp>

/// Sequences, sets, maps and arrays. Sequences of numbers are contiguous, and are copied in one go if the element types
/// agree.
namespace drover { inline namespace v1 { namespace detail {

/// Containers whose elements are contiguous in memory, as in a message.
template <class T>
concept Contiguous = requires(const T& c) {
  { c.data() } -> std::convertible_to<const typename T::value_type*>;
  c.size();
};

template <class C>
std::size_t size_of(const C& container) {
  if constexpr (requires { container.size(); })
    return container.size();
  else
    return static_cast<std::size_t>(std::distance(container.begin(), container.end()));
}

template <class Element, class Elements>
void encode_elements(Encoder& out, const Elements& elements, std::size_t count) {
  RawEncoder& raw = Raw::of(out);
  if constexpr (Packable<Element>) {
    raw.tagged(Kind::numbers, element_type<Element>());
    raw.fixed<std::uint64_t>(count);
    std::byte* place = raw.out().extend(count * sizeof(Element));
    if constexpr (std::is_array_v<Elements> || Contiguous<Elements>) {
      if (count != 0) std::memcpy(place, std::data(elements), count * sizeof(Element));
    } else {
      for (const Element element : elements) {
        std::memcpy(place, &element, sizeof element);
        place += sizeof element;
      }
    }
  } else {
    raw.tagged<std::uint64_t>(Kind::sequence, count);
    for (const auto& element : elements) out.put(element);
  }
}

template <class T>
struct Wire<T, Form::sequence> {
  using Element = std::remove_cv_t<typename T::value_type>;

  static void encode(Encoder& out, const T& value) {
    [[maybe_unused]] const ContainerLevel<T, RawEncoder, Element> level(Raw::of(out));
    detail::encode_elements<Element>(out, value, detail::size_of(value));
  }

  static T decode(Decoder& in)
    requires Fillable<T>
  {
    RawDecoder& raw = Raw::of(in);
    T value;
    if constexpr (Packable<Element>) {
      const Kind kind = raw.kind("a sequence of numbers");
      if (kind == Kind::bytes && sizeof(Element) == 1 && !std::same_as<Element, bool>) {
        const std::string_view bytes = raw.counted_bytes();
        fill(raw, value, {element_type<Element>(), 1, bytes.size(), reinterpret_cast<const std::byte*>(bytes.data())});
      } else if (kind == Kind::numbers) {
        fill(raw, value, NumberRun::take(raw));
      } else {
        RawDecoder::mismatch("a sequence of numbers", kind);
      }
    } else {
      [[maybe_unused]] const ContainerLevel<T, RawDecoder, Element> level(raw);
      raw.expect(Kind::sequence);
      const std::size_t count = raw.count(least_size<Element>());
      Filler<T> filler(value, raw, count);
      for (std::size_t i = 0; i < count; ++i) filler.add(in.get<Element>());
    }
    return value;
  }

 private:
  static constexpr bool copyable_at_once =
      Contiguous<T> && !std::same_as<Element, bool> && requires(T& c) { c.resize(1); };

  static void fill(RawDecoder& raw, T& value, const NumberRun& run) {
    if constexpr (copyable_at_once) {
      if (run.type == element_type<Element>()) {
        detail::charge_container<T>(raw, run.count);
        if constexpr (std::integral<Element> && sizeof(Element) == 1 &&
                      requires { value.assign(&value[0], &value[0]); }) {
          // One pass: resize() would fill it with zeros first. Any byte may be read as any of these types.
          const auto* const first = reinterpret_cast<const Element*>(run.bytes);
          value = detail::filled<T>(first, run.count);
        } else if (run.count != 0) {
          value.resize(run.count);
          std::memcpy(value.data(), run.bytes, run.count * sizeof(Element));
        }
        return;
      }
    }
    Filler<T> filler(value, raw, run.count);
    for (std::size_t i = 0; i < run.count; ++i) filler.add(to_number<Element>(run[i]));
  }
};

/// Decodes into a variable, which may be an array.
template <class T>
void decode_to(Decoder& in, T& place) {
  if constexpr (!std::is_array_v<T>) {
    place = in.get<T>();
  } else if constexpr (form_of<T>() == Form::text) {
    const std::string_view text = take_characters(Raw::of(in), sizeof place);
    std::memset(place, 0, sizeof place);
    if (!text.empty()) std::memcpy(place, text.data(), text.size());
  } else if constexpr (form_of<T>() == Form::none) {
    static_assert(!sizeof(T), "drover can't decode to an array of wide characters: take a string.");
  } else {
    Wire<T>::decode_elements(in, place);
  }
}

/// std::array, and C arrays, which are decoded in place as fields of a struct.
template <class T>
struct Wire<T, Form::fixed_sequence> {
  using Element = std::remove_cvref_t<decltype(std::declval<T&>()[0])>;

  static void encode(Encoder& out, const T& value) { detail::encode_elements<Element>(out, value, std::size(value)); }

  static Decoded<T> decode(Decoder& in)
    requires(!std::is_array_v<T> && std::default_initializable<T>)
  {
    T value{};
    decode_elements(in, value);
    return value;
  }

  static void decode_elements(Decoder& in, T& value) {
    RawDecoder& raw = Raw::of(in);
    if constexpr (Packable<Element>) {
      raw.expect(Kind::numbers);
      const NumberRun run = NumberRun::take(raw);
      check(std::size(value), run.count);
      for (std::size_t i = 0; i < run.count; ++i) value[i] = to_number<Element>(run[i]);
    } else {
      raw.expect(Kind::sequence);
      check(std::size(value), raw.count(1));
      for (auto& element : value) detail::decode_to(in, element);
    }
  }

 private:
  static void check(std::size_t wanted, std::size_t found) {
    if (wanted != found)
      decode_failed("expected " + std::to_string(wanted) + " elements, found " + std::to_string(found));
  }
};

template <class T>
struct Wire<T, Form::map> {
  using Key = std::remove_cv_t<typename T::key_type>;
  using Mapped = typename T::mapped_type;

  static void encode(Encoder& out, const T& value) {
    RawEncoder& raw = Raw::of(out);
    [[maybe_unused]] const ContainerLevel<T, RawEncoder, Key, Mapped> level(raw);
    raw.tagged(Kind::map, static_cast<std::uint64_t>(detail::size_of(value)));
    for (const auto& [key, mapped] : value) {
      out.put(key);
      out.put(mapped);
    }
  }

  static T decode(Decoder& in)
    requires std::default_initializable<T>
  {
    RawDecoder& raw = Raw::of(in);
    [[maybe_unused]] const ContainerLevel<T, RawDecoder, Key, Mapped> level(raw);
    raw.expect(Kind::map);
    const std::size_t count = raw.count(least_size<Key>() + least_size<Mapped>());
    T value;
    Filler<T> filler(value, raw, count);
    for (std::size_t i = 0; i < count; ++i) {
      Key key = in.get<Key>();
      Mapped mapped = in.get<Mapped>();
      filler.add(std::move(key), std::move(mapped));
    }
    return value;
  }
};

}}}  // namespace drover::v1::detail
