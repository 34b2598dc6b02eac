#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

#include <asio/awaitable.hpp>

#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/options.hpp>
#include <drover/routine.hpp>
#include <drover/wire/borrow.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/detail/passing.hpp>

/// Calls of a drover::Routine, whose arguments are checked when they are compiled.
namespace drover { inline namespace v1 { namespace detail {

/// The argument with this number converts to the parameter. The compiler prints the arguments where it does not.
template <class Signature, std::size_t Number, class Parameter, class Given>
inline constexpr bool argument_converts = passing<std::decay_t<Parameter>, Given>() != Passing::refused;

template <class Signature, std::size_t Number, class Parameter, class Given>
consteval void require_conversion() {
  static_assert(argument_converts<Signature, Number, Parameter, Given>,
                "an argument of this call does not convert to the parameter that the drover::Routine declares: "
                "argument_converts<type of the routine, number of the argument, parameter, argument> names it.");
}

template <class R, class... P, class... A>
consteval bool arguments_fit(std::type_identity<R(P...)>, std::type_identity<void(A...)>) {
  constexpr bool no_items = !(is_for_items<std::decay_t<P>> || ...);
  static_assert(no_items, "this drover::Routine sends or takes items: call it by stream(routine, arguments...)");
  constexpr bool no_options = !(std::is_same_v<std::remove_cvref_t<A>, CallOptions> || ...);
  static_assert(no_options, "CallOptions come before the drover::Routine: call(options, routine, arguments...)");
  static_assert(!no_items || !no_options || sizeof...(P) == sizeof...(A),
                "this call passes another number of arguments than the drover::Routine declares.");
  if constexpr (!no_items || !no_options || sizeof...(P) != sizeof...(A)) {
    return false;
  } else if constexpr (!(argument_converts<R(P...), 0, P, A> && ...)) {
    [&]<std::size_t... At>(std::index_sequence<At...>) {
      (require_conversion<R(P...), At + 1, P, A>(), ...);
    }(std::index_sequence_for<P...>());
    return false;
  } else {
    return true;
  }
}

template <class R>
consteval bool can_be_awaited() {
  constexpr bool awaitable = is_a<R, asio::awaitable>;
  static_assert(!awaitable, "the result of a drover::Routine is declared without asio::awaitable");
  static_assert(std::is_void_v<R> || std::is_default_constructible_v<R>,
                "the result of a drover::Routine has to be default-constructible: asio::awaitable needs it");
  static_assert(
      !refers_to_message<R>,
      "the result of a drover::Routine can't be or contain a view: what it views is gone when call() returns; use "
      "std::string or std::vector");
  return !awaitable && (std::is_void_v<R> || std::is_default_constructible_v<R>) && !refers_to_message<R>;
}

/// Text with the type T in it, see type_in().
template <class T>
const char* declaration_of() noexcept {
  return __PRETTY_FUNCTION__;
}

template <class Parameter, class Given>
void put_typed_argument(Encoder& out, FrameBody& body, Given&& value) {
  if constexpr (std::is_same_v<std::remove_cvref_t<Given>, Borrowed>)
    put_borrowed(out, body, value);
  else
    detail::put_as<std::decay_t<Parameter>>(out, body, std::forward<Given>(value));
}

/// As begin_call().
template <class R, class... P, class... A>
asio::awaitable<R> begin_typed_call(const std::shared_ptr<Dispatcher>& dispatcher, const CallOptions& options,
                                    const drover::Routine<R(P...)>& routine, A&&... arguments) {
  if constexpr (can_be_awaited<R>() &&
                arguments_fit(std::type_identity<R(P...)>(), std::type_identity<void(A && ...)>())) {
    const auto write = [&](Encoder& out, FrameBody& body) {
      (detail::put_typed_argument<P>(out, body, std::forward<A>(arguments)), ...);
    };
    return await_result<R>(
        send_call(dispatcher, options, routine.name(), ArgumentWriter::of(write),
                  {.declaration = declaration_of<R(P...)>(), .takes_descriptors = carries_descriptors<R>()}));
  } else {
    return {};
  }
}

}}}  // namespace drover::v1::detail
