#pragma once

#include <cstddef>
#include <memory>
#include <stop_token>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include <drover/routine.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/detail/passing.hpp>
#include <drover/worker/detail/routine.hpp>

/// Functions for a drover::Routine, whose types are checked when they are compiled.
namespace drover { inline namespace v1 { namespace detail {

/// Calls a function as its own signature does, but encodes the declared result, and describes the declared parameters.
template <class Own, class Result, class... Parameters>
struct DeclaredSignature : Own {
  using Encoded = Result;
  static std::string parameters() {
    return describe_parameters(std::type_identity<std::tuple<std::decay_t<Parameters>...>>());
  }
};

/// The signature of a function that is called with these parameters. Unlike for a routine without a declared type, the
/// function may be a template or an overload set.
template <class F, class... Parameters>
consteval auto signature_for() {
  if constexpr (HasSignature<F>)
    return std::type_identity<typename SignatureOf<F>::type>();
  else if constexpr (std::is_invocable_v<F&, Parameters...>)
    return std::type_identity<Signature<std::invoke_result_t<F&, Parameters...>, Parameters...>>();
  else if constexpr (std::is_invocable_v<F&, const std::stop_token&, Parameters...>)
    return std::type_identity<
        StoppableSignature<std::invoke_result_t<F&, const std::stop_token&, Parameters...>, Parameters...>>();
  else
    return std::type_identity<void>();
}

/// The type of a call's argument for a parameter. A Sink or a Source is passed by reference.
template <class P>
using PassedAs = std::conditional_t<is_for_items<std::decay_t<P>>, std::decay_t<P>&, std::decay_t<P>>;

/// A function that takes a Taken can be given what the caller sends for a Declared.
template <class Declared, class Taken>
inline constexpr bool takes_declared =
    std::is_same_v<Declared, Taken> || (form_of<Declared>() == Form::text && form_of<Taken>() == Form::text) ||
    (form_of<Declared>() == Form::bytes && form_of<Taken>() == Form::bytes && takes_bytes<Declared>() &&
     takes_bytes<Taken>());

template <class Sig, class... Declared>
consteval bool parameters_fit() {
  if constexpr (std::is_void_v<Sig>) {
    return false;
  } else if constexpr (std::tuple_size_v<typename Sig::Values> != sizeof...(Declared)) {
    return false;
  } else {
    return []<class... Taken>(std::type_identity<std::tuple<Taken...>>) {
      return (takes_declared<Declared, Taken> && ...);
    }(std::type_identity<typename Sig::Values>());
  }
}

template <class Sig, class Declared>
consteval bool result_fits() {
  if constexpr (std::is_void_v<Sig>)
    return true;  // the parameters do not fit
  else if constexpr (std::is_void_v<Declared> || std::is_void_v<typename Sig::Encoded>)
    return std::is_void_v<Declared> == std::is_void_v<typename Sig::Encoded>;
  else
    return passing<Declared, typename Sig::Encoded>() != Passing::refused;
}

/// The compiler prints the arguments where a function does not fit.
template <class Declared, class Function>
inline constexpr bool has_the_parameters = false;
template <class R, class... P, class F>
inline constexpr bool has_the_parameters<R(P...), F> =
    parameters_fit<typename decltype(signature_for<F, PassedAs<P>...>())::type, std::decay_t<P>...>();
template <class Declared, class Function>
inline constexpr bool has_the_result = false;
template <class R, class... P, class F>
inline constexpr bool has_the_result<R(P...), F> =
    result_fits<typename decltype(signature_for<F, PassedAs<P>...>())::type, R>();

template <class R, class... P, class F>
std::unique_ptr<Routine> make_declared_routine(std::type_identity<R(P...)>, F f) {
  static_assert(!is_awaitable<R> && (... && !std::is_same_v<std::decay_t<P>, std::stop_token>),
                "a drover::Routine declares what the caller sends and gets: leave out std::stop_token and "
                "asio::awaitable, which the function may have all the same");
  static_assert(has_the_parameters<R(P...), F>,
                "this function does not take the parameters that the drover::Routine declares: take the same types, by "
                "value, const& or && (text and bytes also as views); a std::stop_token may come first.");
  static_assert(has_the_result<R(P...), F>,
                "this function does not return the result that the drover::Routine declares, nor an asio::awaitable of "
                "it, nor anything that converts to it without being cut.");
  if constexpr (has_the_parameters<R(P...), F> && has_the_result<R(P...), F>) {
    using Sig = typename decltype(signature_for<F, PassedAs<P>...>())::type;
    static_assert(Sig::values_or_const,
                  "a routine takes its arguments by value, const reference or rvalue reference, and a drover::Sink or "
                  "drover::Source by reference");
    return make_routine_of<DeclaredSignature<Sig, R, P...>>(std::move(f));
  } else {
    return nullptr;
  }
}

}}}  // namespace drover::v1::detail
