#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include <drover/wire/detail/codec_container.hpp>
#include <drover/wire/detail/codec_form.hpp>

/// optional, unique_ptr and shared_ptr, variant, tuples, and structs with drover_fields().
namespace drover { inline namespace v1 { namespace detail {

inline void encode_presence(RawEncoder& out, bool there) {
  out.tagged(Kind::optional, static_cast<std::uint8_t>(there));
}

/// True if a value follows. A bare value without an optional around it counts as well.
inline bool take_presence(RawDecoder& in) {
  if (in.peek(describe(Kind::optional)) != Kind::optional) return true;
  in.skip_kind();
  return in.flag("optional");
}

template <class T>
struct Wire<T, Form::optional> {
  static void encode(Encoder& out, const T& value) {
    encode_presence(Raw::of(out), value.has_value());
    if (value) out.put(*value);
  }

  static T decode(Decoder& in) {
    if (!take_presence(Raw::of(in))) return std::nullopt;
    return T(std::in_place, in.get<typename T::value_type>());
  }
};

template <>
struct Wire<std::nullopt_t, Form::optional> {
  static void encode(Encoder& out, std::nullopt_t) { encode_presence(Raw::of(out), false); }
};

template <class T>
struct Wire<T, Form::pointer> {
  static void encode(Encoder& out, const T& value) {
    encode_presence(Raw::of(out), value != nullptr);
    if (value) out.put(*value);
  }

  static T decode(Decoder& in) {
    if (!take_presence(Raw::of(in))) return nullptr;
    using Held = std::remove_cv_t<typename T::element_type>;
    Raw::of(in).budget().charge_block(sizeof(Held));
    if constexpr (is_a<T, std::shared_ptr>) Raw::of(in).budget().charge_block(3 * sizeof(void*));  // its counts
    return T(new Held(in.get<Held>()));
  }
};

template <class... Types>
struct Wire<std::variant<Types...>, Form::variant> {
  using Variant = std::variant<Types...>;

  static void encode(Encoder& out, const Variant& value) {
    if (value.valueless_by_exception()) throw std::invalid_argument("a variant without a value can't be encoded");
    RawEncoder& raw = Raw::of(out);
    raw.tagged(Kind::variant, static_cast<std::uint32_t>(value.index()));
    std::visit([&out](const auto& held) { out.put(held); }, value);
  }

  static Variant decode(Decoder& in) {
    RawDecoder& raw = Raw::of(in);
    raw.expect(Kind::variant);
    const auto index = raw.fixed<std::uint32_t>();
    if (index >= sizeof...(Types)) decode_failed("variant with an alternative that does not exist");
    return alternative(in, index, std::index_sequence_for<Types...>());
  }

 private:
  template <std::size_t... Is>
  static Variant alternative(Decoder& in, std::size_t index, std::index_sequence<Is...>) {
    using Make = Variant (*)(Decoder&);
    static constexpr Make makes[] = {
        +[](Decoder& from) { return Variant(std::in_place_index<Is>, from.get<Types>()); }...};
    return makes[index](in);
  }
};

// --- tuples and structs ----------------------------------------------------------------------------------------------

template <class... Types>
void encode_fields(Encoder& out, const Types&... fields) {
  Raw::of(out).tagged(Kind::tuple, static_cast<std::uint32_t>(sizeof...(Types)));
  (out.put(fields), ...);
}

inline void expect_fields(RawDecoder& in, std::size_t count) {
  in.expect(Kind::tuple);
  const auto found = in.fixed<std::uint32_t>();
  if (found != count)
    decode_failed("expected a tuple of " + std::to_string(count) + " values, found one of " + std::to_string(found));
}

template <class... Types>
struct Wire<std::tuple<Types...>, Form::tuple> {
  static void encode(Encoder& out, const std::tuple<Types...>& value) {
    std::apply([&out](const auto&... fields) { detail::encode_fields(out, fields...); }, value);
  }
  static std::tuple<Types...> decode(Decoder& in) {
    expect_fields(Raw::of(in), sizeof...(Types));
    return std::tuple<Types...>{in.get<std::remove_cv_t<Types>>()...};  // braces evaluate from left to right
  }
};

template <class First, class Second>
struct Wire<std::pair<First, Second>, Form::tuple> {
  static void encode(Encoder& out, const std::pair<First, Second>& value) {
    detail::encode_fields(out, value.first, value.second);
  }
  static std::pair<First, Second> decode(Decoder& in) {
    expect_fields(Raw::of(in), 2);
    return std::pair<First, Second>{in.get<std::remove_cv_t<First>>(), in.get<std::remove_cv_t<Second>>()};
  }
};

template <>
struct Wire<std::monostate, Form::tuple> {
  static void encode(Encoder& out, std::monostate) { detail::encode_fields(out); }
  static std::monostate decode(Decoder& in) {
    expect_fields(Raw::of(in), 0);
    return {};
  }
};

template <class T>
struct Wire<T, Form::fields> {
  static void encode(Encoder& out, const T& value) {
    const Level<T, RawEncoder> level(Raw::of(out));
    std::apply([&out](const auto&... fields) { detail::encode_fields(out, fields...); }, fields_of(value));
  }

  static T decode(Decoder& in)
    requires std::default_initializable<T> && std::move_constructible<T> && HasWritableFields<T>
  {
    const Level<T, RawDecoder> level(Raw::of(in));
    T value{};
    auto fields = drover_fields(value);
    constexpr std::size_t count = std::tuple_size_v<decltype(fields)>;
    expect_fields(Raw::of(in), count);
    std::apply([&in](auto&... field) { (detail::decode_to(in, field), ...); }, fields);
    return value;
  }

 private:
  static auto fields_of(const T& value) {
    if constexpr (HasConstFields<T>)
      return drover_fields(value);
    else
      return drover_fields(const_cast<T&>(value));  // std::tie takes addresses only
  }
};

}}}  // namespace drover::v1::detail
