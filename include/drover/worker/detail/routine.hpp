#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <asio/awaitable.hpp>

#include <drover/detail/type_name.hpp>
#include <drover/detail/what_of.hpp>
#include <drover/routine.hpp>
#include <drover/wire/body.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/detail/passing.hpp>
#include <drover/wire/frame.hpp>
#include <drover/worker/detail/bad_arguments.hpp>

namespace drover { inline namespace v1 { namespace detail {

class StreamPort;

/// What a routine gets beside its arguments.
struct CallInputs {
  CallInputs(std::stop_token token = {}, std::shared_ptr<StreamPort> port = nullptr) noexcept
      : stop(std::move(token)), stream(std::move(port)) {}

  std::stop_token stop;
  std::shared_ptr<StreamPort> stream;  // null: it has no Sink and no Source
};

/// A routine with its types erased.
class Routine {
 public:
  explicit Routine(std::uint8_t flags = 0) noexcept : stream_flags(flags) {}
  Routine(const Routine&) = delete;
  Routine& operator=(const Routine&) = delete;
  virtual ~Routine() = default;

  /// How many of the last runs in a row were so quick that a finished result may wait for the next one. 0 for a routine
  /// that never ran.
  unsigned quick_runs = 0;
  /// What the status of its CALLs has to say: items_out_flag for a Sink, items_in_flag for a Source.
  const std::uint8_t stream_flags;

  virtual bool is_coroutine() const noexcept = 0;
  virtual bool takes_stop_token() const noexcept = 0;
  virtual bool takes_descriptors() const noexcept = 0;

  /// The parameter types as text for people: "(int, std::string)".
  virtual std::string parameters() const = 0;

  /// Decodes the arguments, runs a plain routine and appends its result. Throws BadArguments before the routine has
  /// begun, and the exceptions of the routine.
  virtual void run(Decoder& arguments, const CallInputs& inputs, FrameBody& result) = 0;

  /// The same for a coroutine. The bytes that the decoder reads, the buffer of the result and the routine must live
  /// until the coroutine ends.
  virtual asio::awaitable<void> start(Decoder arguments, CallInputs inputs, FrameBody& result) = 0;
};

// Kinds of callables ------------------------------------------------------------------------------

/// What is encoded for the result of a routine.
template <class Result>
struct EncodedResult : std::decay<Result> {};
template <class T>
struct EncodedResult<asio::awaitable<T>> : std::type_identity<T> {};

/// A Sink or a Source.
template <class T>
inline constexpr std::uint8_t stream_flag_of = 0;
template <class T>
inline constexpr std::uint8_t stream_flag_of<Sink<T>> = items_out_flag;
template <class T>
inline constexpr std::uint8_t stream_flag_of<Source<T>> = items_in_flag;

/// Parameters are values, or references to const; a Sink or a Source may be a reference.
template <class Parameter>
inline constexpr bool is_value_or_const =
    !std::is_lvalue_reference_v<Parameter> || std::is_const_v<std::remove_reference_t<Parameter>> ||
    stream_flag_of<std::decay_t<Parameter>> != 0;

template <std::uint8_t Flag, class... V>
inline constexpr std::size_t streams_among = (std::size_t{0} + ... + (stream_flag_of<V> == Flag ? 1 : 0));

template <class... V>
std::string describe_parameters(std::type_identity<std::tuple<V...>>) {
  std::string text = "(";
  ((text += text.size() == 1 ? "" : ", ", text += readable(type_name<V>())), ...);
  return text + ")";
}

template <class Result, class... Parameters>
struct Signature {
  using ResultType = Result;
  using Encoded = typename EncodedResult<Result>::type;
  using Values = std::tuple<std::decay_t<Parameters>...>;
  static constexpr bool values_or_const = (... && is_value_or_const<Parameters>);
  static constexpr bool takes_stop_token = false;
  static constexpr auto stream_flags = static_cast<std::uint8_t>((0u | ... | stream_flag_of<std::decay_t<Parameters>>));
  static_assert(streams_among<items_out_flag, std::decay_t<Parameters>...> <= 1 &&
                    streams_among<items_in_flag, std::decay_t<Parameters>...> <= 1,
                "a routine has at most one drover::Sink and one drover::Source");

  static std::string parameters() { return describe_parameters(std::type_identity<Values>()); }

  /// Calls f(values...), each value as the type of its parameter: moved unless that is a const reference.
  template <class F>
  static Result call(F& f, const std::stop_token&, Values& values) {
    return [&]<std::size_t... I>(std::index_sequence<I...>) -> Result {
      return f(static_cast<Parameters&&>(std::get<I>(values))...);
    }(std::index_sequence_for<Parameters...>{});
  }
};

template <class Result, class... Parameters>
struct StoppableSignature : Signature<Result, Parameters...> {
  using typename Signature<Result, Parameters...>::Values;
  static constexpr bool takes_stop_token = true;

  template <class F>
  static Result call(F& f, const std::stop_token& stop, Values& values) {
    return [&]<std::size_t... I>(std::index_sequence<I...>) -> Result {
      return f(stop, static_cast<Parameters&&>(std::get<I>(values))...);
    }(std::index_sequence_for<Parameters...>{});
  }
};

template <class Result, class... Parameters>
struct SignatureFor {
  using type = Signature<Result, Parameters...>;
};
template <class Result, class First, class... Rest>
  requires std::is_same_v<std::decay_t<First>, std::stop_token>
struct SignatureFor<Result, First, Rest...> {
  static_assert(!std::is_lvalue_reference_v<First> || std::is_const_v<std::remove_reference_t<First>>,
                "take the std::stop_token by value");
  using type = StoppableSignature<Result, Rest...>;
};

template <class F>
struct SignatureOf {};
template <class F>
  requires requires { &F::operator(); }
struct SignatureOf<F> : SignatureOf<decltype(&F::operator())> {};
template <class R, class... P>
struct SignatureOf<R (*)(P...)> : SignatureFor<R, P...> {};
template <class R, class... P>
struct SignatureOf<R (*)(P...) noexcept> : SignatureFor<R, P...> {};
template <class R, class C, class... P>
struct SignatureOf<R (C::*)(P...)> : SignatureFor<R, P...> {};
template <class R, class C, class... P>
struct SignatureOf<R (C::*)(P...) const> : SignatureFor<R, P...> {};
template <class R, class C, class... P>
struct SignatureOf<R (C::*)(P...) noexcept> : SignatureFor<R, P...> {};
template <class R, class C, class... P>
struct SignatureOf<R (C::*)(P...) const noexcept> : SignatureFor<R, P...> {};

template <class F>
concept HasSignature = requires { typename SignatureOf<F>::type; };

template <class T>
inline constexpr bool is_awaitable = false;
template <class T>
inline constexpr bool is_awaitable<asio::awaitable<T>> = true;

// The steps of a call -----------------------------------------------------------------------------

template <class V>
V decode_argument(Decoder& arguments, const std::shared_ptr<StreamPort>& stream) {
  if constexpr (stream_flag_of<V> != 0)
    return V(stream);
  else
    return arguments.get<V>();
}

template <class Values>
Values decode_arguments(Decoder& arguments, const std::shared_ptr<StreamPort>& stream) {
  try {
    return [&]<class... V>(std::type_identity<std::tuple<V...>>) {
      // Braces evaluate their elements in order.
      std::tuple<V...> values{decode_argument<V>(arguments, stream)...};
      arguments.finish();
      return values;
    }(std::type_identity<Values>{});
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& e) {  // a user's codec may throw any exception
    throw BadArguments(what_of(e));
  }
}

template <class T, class Given>
void encode_result(FrameBody& result, Given&& value) {
  Encoder encoder(result);
  detail::put_as<T>(encoder, result, std::forward<Given>(value));
}

// The two kinds of routines -----------------------------------------------------------------------

template <class F, class S>
class TypedRoutine : public Routine {
 protected:
  using Sig = S;
  using Values = typename Sig::Values;

 public:
  explicit TypedRoutine(F f) : Routine(Sig::stream_flags), f_(std::move(f)) {}

  bool is_coroutine() const noexcept final { return is_awaitable<typename Sig::ResultType>; }
  bool takes_stop_token() const noexcept final { return Sig::takes_stop_token; }
  bool takes_descriptors() const noexcept final { return carries_descriptors<Values>(); }
  std::string parameters() const final { return Sig::parameters(); }

 protected:
  F f_;
};

template <class F, class S>
class PlainRoutine final : public TypedRoutine<F, S> {
 public:
  using TypedRoutine<F, S>::TypedRoutine;
  using typename TypedRoutine<F, S>::Sig;

  void run(Decoder& arguments, const CallInputs& inputs, FrameBody& result) override {
    auto values = decode_arguments<typename Sig::Values>(arguments, inputs.stream);
    if constexpr (std::is_void_v<typename Sig::ResultType>)
      Sig::call(this->f_, inputs.stop, values);
    else
      encode_result<typename Sig::Encoded>(result, Sig::call(this->f_, inputs.stop, values));
  }

  asio::awaitable<void> start(Decoder, CallInputs, FrameBody&) override {
    throw std::logic_error("internal error: start() on a plain routine");
  }
};

template <class F, class S>
class CoroutineRoutine final : public TypedRoutine<F, S> {
 public:
  using TypedRoutine<F, S>::TypedRoutine;
  using typename TypedRoutine<F, S>::Sig;

  void run(Decoder&, const CallInputs&, FrameBody&) override {
    throw std::logic_error("internal error: run() on a coroutine");
  }

  asio::awaitable<void> start(Decoder arguments, CallInputs inputs, FrameBody& result) override {
    using Result = typename Sig::ResultType::value_type;
    // The values live in this frame, so the routine may take them by reference.
    auto values = decode_arguments<typename Sig::Values>(arguments, inputs.stream);
    asio::awaitable<Result> work = Sig::call(this->f_, inputs.stop, values);
    if constexpr (std::is_void_v<Result>) {
      co_await std::move(work);
    } else {
      Result value = co_await std::move(work);
      encode_result<typename Sig::Encoded>(result, std::move(value));
    }
  }
};

template <class Sig, class F>
std::unique_ptr<Routine> make_routine_of(F f) {
  if constexpr (is_awaitable<typename Sig::ResultType>)
    return std::make_unique<CoroutineRoutine<F, Sig>>(std::move(f));
  else
    return std::make_unique<PlainRoutine<F, Sig>>(std::move(f));
}

template <class F>
std::unique_ptr<Routine> make_routine(F f) {
  static_assert(
      HasSignature<F>,
      "a routine is a function, a lambda or an object with one call operator; not a template or an overload set");
  if constexpr (HasSignature<F>) {
    using Sig = typename SignatureOf<F>::type;
    static_assert(Sig::values_or_const,
                  "a routine takes its arguments by value, const reference or rvalue reference, and a drover::Sink or "
                  "drover::Source by reference");
    return make_routine_of<Sig>(std::move(f));
  }
}

}}}  // namespace drover::v1::detail
