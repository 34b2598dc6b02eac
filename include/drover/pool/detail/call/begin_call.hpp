#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <system_error>
#include <type_traits>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/awaitable.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/error.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/options.hpp>
#include <drover/wire/borrow.hpp>
#include <drover/wire/codec.hpp>

namespace drover { inline namespace v1 { namespace detail {

class Dispatcher;

// The functions that are not templates are defined in begin_call.ipp.

/// The failure of each operation on an empty handle.
std::exception_ptr empty_handle();
/// A call whose request has the options that the routine gets to know. Throws if there is no dispatcher, or for options
/// out of range.
std::shared_ptr<Call> allocate_call(const std::shared_ptr<Dispatcher>& dispatcher, const CallOptions& options);
/// See borrow().
void put_borrowed(Encoder& out, FrameBody& body, Borrowed borrowed);
/// Sends the encoded call, queues it, or ends it at once.
void submit(Dispatcher& dispatcher, const std::shared_ptr<Call>& call, const CallOptions& options);

/// Publishes the completion of the coroutine that awaits the call. False if its context is destroyed.
bool publish(Dispatcher& dispatcher, const std::shared_ptr<Call>& call, Completion* completion,
             const asio::any_io_executor& executor);

template <class T>
asio::awaitable<T> failed(std::exception_ptr failure) {
  std::rethrow_exception(failure);
  co_return T();
}
template <>
inline asio::awaitable<void> failed<void>(std::exception_ptr failure) {
  std::rethrow_exception(failure);
  co_return;
}

/// Throws the failure of a call. Arguments that do not fit a typed routine are described with its declaration.
[[noreturn]] void throw_failure(const Call& call, const Outcome& outcome);
/// The error for a result of another type.
Error wrong_result(const Call& call, const DecodeError& error);

template <class R>
R open_outcome(const Call& call, const Outcome& outcome) {
  if (outcome.failure) throw_failure(call, outcome);
  try {
    if constexpr (!std::is_void_v<R>) {
      Decoder body(outcome.body, call.spare_memory);
      R result = body.get<R>();
      body.finish();
      return result;
    }
  } catch (const DecodeError& error) {
    throw wrong_result(call, error);
  }
}

template <class R>
struct CompletionSignature {
  using type = void(std::exception_ptr, R);
};
template <>
struct CompletionSignature<void> {
  using type = void(std::exception_ptr);
};

/// The result, or a default-constructed one and the failure.
template <class R>
R open_or_default(const Call& call, const Outcome& outcome, std::exception_ptr& failure) {
  try {
    return open_outcome<R>(call, outcome);
  } catch (...) {
    failure = std::current_exception();
  }
  return R();
}

/// The parts of a CallCompletion that do not depend on the result's type. They are compiled once.
class CallCompletionBase : public Completion {
 public:
  void post(std::shared_ptr<Call> call) override { Call::enqueue_completion(std::move(call), work_); }

 protected:
  CallCompletionBase(asio::cancellation_slot slot, const asio::any_io_executor& executor);

  /// Nobody cancels it any more. Returns what keeps the context running meanwhile.
  asio::any_io_executor close() noexcept;

 private:
  asio::cancellation_slot slot_;
  asio::any_io_executor work_;
};

template <class R, class Handler>
class CallCompletion final : public CallCompletionBase {
 public:
  CallCompletion(Handler handler, asio::cancellation_slot slot, const asio::any_io_executor& executor)
      : CallCompletionBase(slot, executor), handler_(std::move(handler)) {}

  void resume(std::shared_ptr<Call> call, const Outcome& outcome) override {
    const asio::any_io_executor work = close();
    std::exception_ptr failure;
    Handler handler(std::move(handler_));
    if constexpr (std::is_void_v<R>) {
      open_or_default<R>(*call, outcome, failure);
      Call::give_back(std::move(call));
      std::move(handler)(failure);
    } else {
      R result = open_or_default<R>(*call, outcome, failure);
      Call::give_back(std::move(call));
      std::move(handler)(failure, std::move(result));
    }
  }

 private:
  Handler handler_;
};

/// A call that has begun and is not awaited yet. Destroying it cancels the call.
class PendingCall {
 public:
  PendingCall(std::shared_ptr<Dispatcher> dispatcher, std::shared_ptr<Call> call) noexcept
      : dispatcher_(std::move(dispatcher)), call_(std::move(call)) {}
  PendingCall(PendingCall&&) noexcept = default;
  PendingCall& operator=(PendingCall&&) = delete;
  ~PendingCall() {
    if (call_) cancel_unawaited();
  }

  /// Completes `handler` when the call has ended.
  template <class R, class Handler>
  void await(Handler handler) {
    const asio::any_io_executor executor = asio::get_associated_executor(handler, asio::any_io_executor{});
    const asio::cancellation_slot slot = asio::get_associated_cancellation_slot(handler);
    await(call_->construct_completion<CallCompletion<R, Handler>>(std::move(handler), slot, executor), slot, executor);
  }

  static void cancel(std::shared_ptr<Call> call);

 private:
  void await(Completion* completion, asio::cancellation_slot slot, const asio::any_io_executor& executor);
  void cancel_unawaited();

  std::shared_ptr<Dispatcher> dispatcher_;
  std::shared_ptr<Call> call_;
};

/// Waits for the end of a call. Calls with the same type of result share the code.
template <class R>
asio::awaitable<R> await_result(PendingCall pending) {
  return asio::async_initiate<const asio::use_awaitable_t<>, typename CompletionSignature<R>::type>(
      [pending = std::move(pending)](auto handler) mutable { pending.template await<R>(std::move(handler)); },
      asio::use_awaitable);
}

/// Encodes one argument of a call.
template <class T>
void put_argument(Encoder& out, FrameBody& body, T&& value) {
  if constexpr (std::is_same_v<std::remove_cvref_t<T>, Borrowed>)
    put_borrowed(out, body, value);
  else
    put_or_move(out, body, std::forward<T>(value));
}

/// Encodes and sends (or queues) the call before it returns. The awaitable only waits for the end of the call.
template <class R, class... A>
asio::awaitable<R> begin_call(const std::shared_ptr<Dispatcher>& dispatcher, const CallOptions& options,
                              RoutineName routine, A&&... arguments) {
  static_assert(std::is_void_v<R> || std::is_default_constructible_v<R>,
                "the result of call<R>() has to be default-constructible: asio::awaitable needs it");
  static_assert(!(std::is_same_v<std::remove_cvref_t<A>, CallOptions> || ...),
                "CallOptions come before the routine's name: call(options, name, arguments...)");
  if constexpr (!std::is_void_v<R>)
    static_assert(
        !refers_to_message<R>,
        "the result of call<R>() can't be a view: what it views is gone when call() returns; use std::string or "
        "std::vector");
  try {
    auto call = allocate_call(dispatcher, options);
    Encoder encoder(call->request.buffer());
    encoder.put(routine.view());
    (detail::put_argument(encoder, call->request, std::forward<A>(arguments)), ...);
    submit(*dispatcher, call, options);
    return await_result<R>(PendingCall(dispatcher, std::move(call)));
  } catch (...) {
    return failed<R>(std::current_exception());
  }
}

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/detail/call/begin_call.ipp>
#endif
