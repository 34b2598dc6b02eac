#pragma once

#include <cstddef>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include <drover/pool/detail/call/async_call.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/call/typed_call.hpp>
#include <drover/pool/options.hpp>
#include <drover/routine.hpp>
#include <drover/wire/codec.hpp>

/// Calls of a drover::Routine that complete any completion handler.
namespace drover { inline namespace v1 { namespace detail {

/// The arguments of a call of a drover::Routine<R(P...)>.
template <class R, class... P>
struct DeclaredArguments {
  static const char* declaration() noexcept { return declaration_of<R(P...)>(); }
  template <class... A>
  static void put(Encoder& out, FrameBody& body, A&&... arguments) {
    (detail::put_typed_argument<P>(out, body, std::forward<A>(arguments)), ...);
  }
};

/// See arguments_fit(). `Given`: a tuple of the arguments' types, and then others.
template <class Signature, class Given, std::size_t... At>
consteval bool first_arguments_fit(std::index_sequence<At...>) {
  return arguments_fit(std::type_identity<Signature>(), std::type_identity<void(std::tuple_element_t<At, Given>...)>());
}

/// As begin_async_call().
template <class R, class... P, class... A>
auto begin_typed_async_call(const std::shared_ptr<Dispatcher>& dispatcher, CallOptions options,
                            const drover::Routine<R(P...)>& routine, A&&... arguments_and_token) {
  static_assert(sizeof...(A) != 0, "the last argument of async_call() is a completion token");
  if constexpr (sizeof...(A) != 0 && can_be_awaited<R>()) {
    if constexpr (first_arguments_fit<R(P...), std::tuple<A&&...>>(std::make_index_sequence<sizeof...(A) - 1>()))
      return initiate_call<R>(AsyncCall<R, DeclaredArguments<R, P...>>(dispatcher, std::move(options), routine.name()),
                              std::forward<A>(arguments_and_token)...);
  }
}

}}}  // namespace drover::v1::detail
