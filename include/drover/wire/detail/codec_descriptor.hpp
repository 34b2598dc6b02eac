#pragma once

#include <concepts>
#include <fcntl.h>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include <drover/os/fd.hpp>
#include <drover/wire/body.hpp>
#include <drover/wire/detail/codec_form.hpp>
#include <drover/wire/detail/codec_members.hpp>

/// Descriptors. A message names the kind of the value only; the descriptors are attached to it in the order of their
/// values.
namespace drover { inline namespace v1 { namespace detail {

inline void put_descriptor(RawEncoder& out, UniqueFd descriptor) {
  if (!descriptor)
    throw std::invalid_argument(
        "a drover::UniqueFd that owns no descriptor can't be sent: use std::optional<drover::UniqueFd>");
  if (::fcntl(descriptor.get(), F_GETFD) < 0)
    throw_errno("descriptor " + std::to_string(descriptor.release()) + " can't be sent");
  if (out.message() == nullptr)
    throw std::invalid_argument("a descriptor can only be sent as an argument or a result of a call");
  out.message()->attach(std::move(descriptor));
  out.kind(Kind::descriptor);
}

template <>
struct Wire<UniqueFd, Form::descriptor> {
  static void encode(Encoder& out, const UniqueFd& value) {
    UniqueFd copy(value ? ::fcntl(value.get(), F_DUPFD_CLOEXEC, 3) : -1);
    if (value && !copy) throw_errno("descriptor " + std::to_string(value.get()) + " can't be duplicated to be sent");
    put_descriptor(Raw::of(out), std::move(copy));
  }

  static UniqueFd decode(Decoder& in) {
    Raw::of(in).expect(Kind::descriptor);
    return Raw::of(in).take_descriptor();
  }
};

// --- which types carry descriptors -----------------------------------------------------------------------------------

struct TypesOfMembers {
  template <class... Members>
  auto operator()(const Members&...) const -> std::type_identity<std::tuple<Members...>> {
    return {};
  }
  template <class... Members>
  auto with_copies(const Members&...) const -> std::type_identity<std::tuple<Members...>> {
    return {};
  }
};

template <class... Outer, template <class...> class Template, class... Types>
consteval bool any_carries_descriptors(std::type_identity<Template<Types...>>) {
  return (carries_descriptors<Types, Outer...>() || ...);
}

template <class T, class... Outer>
consteval bool carries_descriptors() {
  using Value = std::remove_cvref_t<T>;
  if constexpr (std::is_void_v<Value> || (std::same_as<Value, Outer> || ...)) {
    return false;
  } else if constexpr (std::is_array_v<Value>) {
    return carries_descriptors<std::remove_extent_t<Value>, Outer...>();
  } else {
    constexpr Form form = form_of<Value>();
    if constexpr (form == Form::descriptor || form == Form::shared) {
      return true;
    } else if constexpr (form == Form::custom) {
      if constexpr (requires { Codec<Value>::carries_descriptors; })
        return Codec<Value>::carries_descriptors;
      else
        return false;
    } else if constexpr (form == Form::map) {
      return carries_descriptors<typename Value::key_type, Value, Outer...>() ||
             carries_descriptors<typename Value::mapped_type, Value, Outer...>();
    } else if constexpr (form == Form::variant || (form == Form::tuple && !std::same_as<Value, std::monostate>)) {
      return any_carries_descriptors<Outer...>(std::type_identity<Value>());
    } else if constexpr (form == Form::fields) {
      return any_carries_descriptors<Value, Outer...>(
          std::type_identity<decltype(drover_fields(std::declval<Value&>()))>());
    } else if constexpr (form == Form::aggregate) {
      using Members = decltype(detail::visit_members(std::declval<Value&>(), TypesOfMembers()));
      return any_carries_descriptors<Value, Outer...>(Members());
    } else if constexpr (form == Form::pointer) {
      return carries_descriptors<typename Value::element_type, Value, Outer...>();
    } else if constexpr (form == Form::sequence || form == Form::fixed_sequence || form == Form::optional) {
      if constexpr (requires { typename Value::value_type; })
        return carries_descriptors<typename Value::value_type, Value, Outer...>();
      else
        return false;
    } else {
      return false;
    }
  }
}

}}}  // namespace drover::v1::detail
