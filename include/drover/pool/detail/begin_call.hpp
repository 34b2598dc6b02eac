#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/awaitable.hpp>
#include <asio/error.hpp>
#include <asio/execution.hpp>
#include <asio/post.hpp>
#include <asio/prefer.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/dispatcher.hpp>
#include <drover/pool/detail/worker_handle.hpp>
#include <drover/pool/options.hpp>
#include <drover/wire/codec.hpp>

namespace drover::inline v1::detail {

/// Throws what a RESULT that is not ok stands for.
[[noreturn]] inline void throw_refusal(const Outcome& outcome) {
  Decoder body(outcome.body);
  switch (outcome.status) {
    case ResultStatus::remote_error: {
      auto type = body.get<std::string>();
      auto text = body.get<std::string>();
      throw RemoteError(std::move(type), std::move(text));
    }
    case ResultStatus::unknown_routine: throw Error(Errc::unknown_routine, body.get<std::string>());
    case ResultStatus::bad_arguments: throw Error(Errc::bad_arguments, body.get<std::string>());
    case ResultStatus::message_too_large: throw Error(Errc::message_too_large, body.get<std::string>());
    case ResultStatus::cancelled: throw Error(Errc::stopping, "the call was cancelled because its worker is stopping");
    case ResultStatus::ok: break;
  }
  throw Error(Errc::protocol_error, "a worker answered with a status that does not exist");
}

template <class R>
R open_outcome(const Outcome& outcome) {
  if (outcome.failure) std::rethrow_exception(outcome.failure);
  try {
    if (outcome.status != ResultStatus::ok) throw_refusal(outcome);
    if constexpr (!std::is_void_v<R>) {
      Decoder body(outcome.body);
      R result = body.get<R>();
      body.finish();
      return result;
    }
  } catch (const DecodeError& error) {
    throw Error(Errc::bad_arguments,
                std::string("the result is not of the type that call() asked for: ") + error.what());
  }
}

template <class R>
struct ReceiverSignature {
  using type = void(std::exception_ptr, R);
};
template <>
struct ReceiverSignature<void> {
  using type = void(std::exception_ptr);
};

template <class R, class Handler>
class HandlerReceiver final : public Receiver {
 public:
  HandlerReceiver(Handler handler, const asio::any_io_executor& executor)
      : slot_(asio::get_associated_cancellation_slot(handler)),
        work_(asio::prefer(executor, asio::execution::outstanding_work.tracked)),
        handler_(std::move(handler)) {}

  void resume(std::shared_ptr<Call> call, const Outcome& outcome) override {
    if (slot_.is_connected()) slot_.clear();
    std::exception_ptr failure;
    Handler handler(std::move(handler_));
    const asio::any_io_executor work(std::move(work_));
    if constexpr (std::is_void_v<R>) {
      try {
        open_outcome<R>(outcome);
      } catch (...) {
        failure = std::current_exception();
      }
      give_back(std::move(call));
      std::move(handler)(failure);
    } else {
      std::optional<R> result;
      try {
        result.emplace(open_outcome<R>(outcome));
      } catch (...) {
        failure = std::current_exception();
      }
      give_back(std::move(call));
      if (!result) result.emplace();
      std::move(handler)(failure, std::move(*result));
    }
  }

  void post(std::shared_ptr<Call> call) override { asio::post(work_, Resumption(std::move(call))); }

 private:
  static void give_back(std::shared_ptr<Call> call) {  // destroys the receiver
    call->destroy_receiver();
    if (const auto dispatcher = call->dispatcher.lock()) dispatcher->recycle(std::move(call));
  }

  asio::associated_cancellation_slot_t<Handler> slot_;
  asio::any_io_executor work_;
  Handler handler_;
};

/// A call that has begun and is not awaited yet; one that is never awaited is cancelled.
class BegunCall {
 public:
  BegunCall(std::shared_ptr<Dispatcher> dispatcher, std::shared_ptr<Call> call) noexcept
      : dispatcher_(std::move(dispatcher)), call_(std::move(call)) {}
  BegunCall(BegunCall&&) noexcept = default;
  BegunCall& operator=(BegunCall&&) = delete;
  ~BegunCall() {
    if (call_) dispatcher_->end(*call_, CallEvent::cancelled, nullptr);
  }

  template <class R, class Handler>
  void await(Handler handler) {
    const std::shared_ptr<Call> call = std::exchange(call_, nullptr);
    const asio::any_io_executor executor = asio::get_associated_executor(handler, asio::any_io_executor{});
    auto slot = asio::get_associated_cancellation_slot(handler);
    const bool attached = dispatcher_->attach(call, executor, [&](Call& c) {
      c.template emplace_receiver<HandlerReceiver<R, Handler>>(std::move(handler), executor);
      if (slot.is_connected())
        slot.assign([weak = std::weak_ptr<Call>(call)](asio::cancellation_type type) {
          if (type != asio::cancellation_type::none) cancel(weak.lock());
        });
    });
    if (!attached) dispatcher_->end(*call, CallEvent::cancelled, nullptr);
  }

 private:
  static void cancel(std::shared_ptr<Call> call) {
    if (!call) return;
    if (const auto dispatcher = call->dispatcher.lock()) dispatcher->end(*call, CallEvent::cancelled, aborted());
  }

  std::shared_ptr<Dispatcher> dispatcher_;
  std::shared_ptr<Call> call_;
};

template <class R>
struct AwaitCall {
  BegunCall call;

  template <class Handler>
  void operator()(Handler handler) {
    call.await<R>(std::move(handler));
  }
};

/// Encodes and sends (or queues) the call before it returns; the awaitable only waits for its end.
template <class R, class... A>
asio::awaitable<R> begin_call(const std::shared_ptr<Dispatcher>& dispatcher, const CallOptions& options,
                              RoutineName routine, const A&... arguments) {
  static_assert(std::is_void_v<R> || std::is_default_constructible_v<R>,
                "the result of call<R>() has to be default-constructible: asio::awaitable needs it");
  if constexpr (!std::is_void_v<R>)
    static_assert(
        !refers_to_message<R>,
        "the result of call<R>() can't be a view: what it views is gone when call() returns; use std::string or "
        "std::vector");
  try {
    if (!dispatcher) std::rethrow_exception(empty_handle());
    check(options);
    auto call = dispatcher->take_call();
    Encoder encoder(call->request);
    encoder.put(routine.view());
    (encoder.put(arguments), ...);
    dispatcher->submit(call, options);
    AwaitCall<R> await{BegunCall(dispatcher, std::move(call))};
    return asio::async_initiate<const asio::use_awaitable_t<>, typename ReceiverSignature<R>::type>(
        std::move(await), asio::use_awaitable);
  } catch (...) {
    return failed<R>(std::current_exception());
  }
}

}  // namespace drover::inline v1::detail
