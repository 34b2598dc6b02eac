#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/dispatch.hpp>
#include <asio/execution.hpp>
#include <asio/post.hpp>
#include <asio/prefer.hpp>

#include <drover/detail/context/completion_signature.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/options.hpp>
#include <drover/wire/codec.hpp>

/// Calls that complete any completion handler. call() does not need this.
namespace drover { inline namespace v1 { namespace detail {

/// Invokes a handler with the outcome of its call.
template <class R, class Handler>
void deliver(Handler handler, PendingCall ended) {
  std::exception_ptr failure;
  const auto finish = [&] {
    try {
      ended.finish();
    } catch (...) {
      failure = std::current_exception();
    }
  };
  if constexpr (std::is_void_v<R>) {
    finish();
    std::move(handler)(std::move(failure));
  } else {
    R result = decode_result<R>(ended);
    finish();
    std::move(handler)(std::move(failure), std::move(result));
  }
}

template <class R, class Handler>
class HandlerCompletion final : public Completion {
 public:
  HandlerCompletion(Handler handler, asio::cancellation_slot slot, const asio::any_io_executor& executor)
      : handler_(std::move(handler)),
        slot_(slot),
        work_(asio::prefer(executor, asio::execution::outstanding_work.tracked)) {}

  void post(std::shared_ptr<Call> call) override { Call::enqueue_completion(std::move(call), work_); }

  void resume(std::shared_ptr<Call> call, Outcome& outcome) override {
    const asio::any_io_executor work = std::move(work_);
    if (slot_.is_connected()) slot_.clear();
    deliver<R>(Handler(std::move(handler_)), PendingCall(std::move(call), outcome));  // destroys this object
  }

 private:
  Handler handler_;
  asio::cancellation_slot slot_;
  asio::any_io_executor work_;
};

template <class R, class Handler>
void complete_here(PendingCall call, Handler handler, const asio::any_io_executor& fallback) {
  const asio::any_io_executor executor(asio::get_associated_executor(handler, fallback));
  if (call.failure()) {
    asio::post(executor, [handler = std::move(handler), failure = call.failure()]() mutable {
      if constexpr (std::is_void_v<R>)
        std::move(handler)(std::move(failure));
      else
        std::move(handler)(std::move(failure), R());
    });
    return;
  }
  const asio::cancellation_slot slot = asio::get_associated_cancellation_slot(handler);
  Completion* const completion =
      call.construct_completion<HandlerCompletion<R, Handler>>(std::move(handler), slot, executor);
  call.await(completion, slot, executor);
}

/// A handler whose executor is no asio::any_io_executor, as that of asio::use_future: it is dispatched there from the
/// pool's.
template <class Handler>
struct Redispatched {
  using cancellation_slot_type = asio::cancellation_slot;
  cancellation_slot_type get_cancellation_slot() const noexcept {
    return asio::get_associated_cancellation_slot(handler);
  }

  template <class... A>
  void operator()(A... results) {
    const auto executor = asio::get_associated_executor(handler);
    asio::dispatch(executor, [handler = std::move(handler), ... results = std::move(results)]() mutable {
      std::move(handler)(std::move(results)...);
    });
  }

  Handler handler;
};

/// Completes the handler when the call has ended, never before this returns.
template <class R, class Handler>
void complete_with(PendingCall call, Handler handler, const asio::any_io_executor& fallback) {
  using Executor = typename asio::associated_executor<Handler, asio::any_io_executor>::type;
  if constexpr (!std::is_convertible_v<Executor, asio::any_io_executor>)
    return complete_with<R>(std::move(call), Redispatched<Handler>{std::move(handler)}, fallback);
  else
    complete_here<R>(std::move(call), std::move(handler), fallback);
}

/// The arguments of a call whose routine is given by its name.
struct AnyArguments {
  static const char* declaration() noexcept { return nullptr; }
  template <class... A>
  static void put(Encoder& out, FrameBody& body, A&&... arguments) {
    (detail::put_argument(out, body, std::forward<A>(arguments)), ...);
  }
};

/// The initiation of async_call(). With a lazy token it runs later, and has copies of the arguments. `Arguments`
/// encodes them.
template <class R, class Arguments>
class AsyncCall {
 public:
  using executor_type = asio::any_io_executor;

  AsyncCall(std::shared_ptr<Dispatcher> dispatcher, CallOptions options, std::string_view routine)
      : dispatcher_(std::move(dispatcher)), options_(std::move(options)), routine_(routine) {}

  executor_type get_executor() const { return executor_of(dispatcher_); }

  template <class Handler, class... A>
  void operator()(Handler&& handler, A&&... arguments) const {
    const auto write = [&](Encoder& out, FrameBody& body) { Arguments::put(out, body, std::forward<A>(arguments)...); };
    complete_with<R>(
        send_call(dispatcher_, options_, routine_, ArgumentWriter::of(write),
                  {.declaration = Arguments::declaration(), .takes_descriptors = carries_descriptors<R>()}),
        std::decay_t<Handler>(std::forward<Handler>(handler)), get_executor());
  }

 private:
  std::shared_ptr<Dispatcher> dispatcher_;
  CallOptions options_;
  std::string routine_;
};

/// Some tokens take the arguments by value, and an array would become a pointer.
template <class Array>
inline constexpr bool outlives_decay =
    !std::is_array_v<Array> || std::is_same_v<std::remove_extent_t<Array>, const char>;

/// The last argument is the completion token. R: the result of the call.
template <class R, class Initiation, class... A>
auto initiate_call(Initiation initiation, A&&... arguments_and_token) {
  static_assert((outlives_decay<std::remove_reference_t<A>> && ...),
                "async_call() takes no array but a literal: pass std::array, std::vector or std::string");
  constexpr std::size_t token = sizeof...(A) - 1;
  auto all = std::forward_as_tuple(std::forward<A>(arguments_and_token)...);
  return [&]<std::size_t... At>(std::index_sequence<At...>) {
    using Token = std::tuple_element_t<token, std::tuple<A...>>;
    return asio::async_initiate<Token, typename CompletionSignature<R>::type>(
        std::move(initiation), std::get<token>(all), std::get<At>(std::move(all))...);
  }(std::make_index_sequence<token>());
}

/// The last argument is the completion token.
template <class R, class... A>
auto begin_async_call(const std::shared_ptr<Dispatcher>& dispatcher, CallOptions options, RoutineName routine,
                      A&&... arguments_and_token) {
  static_assert(sizeof...(A) != 0, "the last argument of async_call() is a completion token");
  static_assert(std::is_void_v<R> || std::is_default_constructible_v<R>,
                "the result of async_call<R>() has to be default-constructible: a handler gets one beside an error");
  if constexpr (!std::is_void_v<R>)
    static_assert(!refers_to_message<R>,
                  "the result of async_call<R>() can't be or contain a view: what it views is gone");
  return initiate_call<R>(AsyncCall<R, AnyArguments>(dispatcher, std::move(options), routine.view()),
                          std::forward<A>(arguments_and_token)...);
}

}}}  // namespace drover::v1::detail
