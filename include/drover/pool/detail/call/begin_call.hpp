#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/cancellation_signal.hpp>

#include <drover/detail/config.hpp>
#include <drover/error.hpp>
#include <drover/os/detail/descriptor_disposal.hpp>
#include <drover/os/detail/descriptor_list.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/options.hpp>
#include <drover/wire/borrow.hpp>
#include <drover/wire/codec.hpp>

namespace drover { inline namespace v1 { namespace detail {

class CallStream;
class Dispatcher;

// The functions that are not templates are defined in begin_call.ipp.

/// The executor of the worker or pool, for handlers that have none. A system_executor once its context is destroyed.
asio::any_io_executor executor_of(const std::shared_ptr<Dispatcher>& dispatcher);
/// The failure of each operation on an empty handle.
std::exception_ptr empty_handle();
/// See borrow().
void put_borrowed(Encoder& out, FrameBody& body, Borrowed borrowed);
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

/// The stack of coroutines that awaits a call, and one of them. They are internal to Asio, but asio::use_awaitable is
/// built on them in all versions. With asio::async_initiate() each type of result would take 5 KB of code.
using CoroutineThread = asio::detail::awaitable_thread<asio::any_io_executor>;
using CoroutineFrame = asio::detail::awaitable_frame_base<asio::any_io_executor>;

/// The end of an error's text, if the error concerns the types of a typed call. `declaration`: see Call.
std::string declared_text(const char* declaration);
/// The failure of a call. Arguments that do not fit a typed routine are described with its declaration.
std::exception_ptr take_failure(const Call& call, Outcome& outcome) noexcept;

/// Properties of a call that is typed, one of a broadcast, or one whose result may have descriptors.
struct CallKind {
  const char* declaration = nullptr;  // see Call
  std::uint64_t only = 0;             // see Call
  CallStream* stream = nullptr;       // see Call
  bool takes_descriptors = false;     // see Call
};

/// A call in the coroutine that awaits its end. Destroying it before it is awaited cancels the call. What does not
/// depend on the types of arguments and result is compiled once.
class PendingCall {
 public:
  PendingCall(std::shared_ptr<Dispatcher> dispatcher, std::shared_ptr<Call> call) noexcept
      : dispatcher_(std::move(dispatcher)), call_(std::move(call)) {}
  /// The call could not begin.
  explicit PendingCall(std::exception_ptr failure) noexcept : failure_(std::move(failure)) {}
  /// The call has ended. For a Completion, in resume().
  PendingCall(std::shared_ptr<Call> ended, Outcome& outcome) noexcept : ended_(std::move(ended)), outcome_(&outcome) {}
  PendingCall(PendingCall&& other) noexcept;
  PendingCall& operator=(PendingCall&&) = delete;
  ~PendingCall();

  /// The coroutine awaits this object, and is resumed inside Completion::resume().
  struct End {
    PendingCall* call;
    CoroutineThread* operator()(CoroutineFrame* frame) const;
  };
  /// Throws why the call could not begin.
  End end();

  // ---- once it has ended, before anything else is awaited -----------------------------------------------------------

  /// Where to decode the result. Null: it has failed.
  const Outcome* outcome() const noexcept;
  /// A result may take so many bytes of memory beyond what its size allows, see Decoder.
  std::size_t spare_memory() const noexcept;
  /// Shared memory of a result may have so many bytes.
  std::size_t most_shared() const noexcept;
  /// Those that came with the result.
  DescriptorList& descriptors() noexcept;
  /// The exception that is being handled was thrown while the result was decoded.
  void decoding_failed() noexcept;
  /// Returns the call for reuse. Throws why it has failed.
  void finish();

  // ---- for completion handlers --------------------------------------------------------------------------------------

  /// Why the call could not begin. Null: it has begun.
  const std::exception_ptr& failure() const noexcept { return failure_; }
  /// The call, to cancel it.
  const std::shared_ptr<Call>& call() const noexcept { return call_; }
  /// Has the completion run when the call has ended, never before this returns. The Call owns it.
  void await(Completion* completion, asio::cancellation_slot slot, const asio::any_io_executor& executor);
  /// Memory for such a completion.
  template <class T, class... A>
  Completion* construct_completion(A&&... arguments) {
    return call_->construct_completion<T>(std::forward<A>(arguments)...);
  }

  static void cancel(std::shared_ptr<Call> call);

 private:
  friend class CallCompletion;

  void await(CoroutineFrame& frame);

  std::shared_ptr<Dispatcher> dispatcher_;
  std::shared_ptr<Call> call_;  // until it is awaited
  std::exception_ptr failure_;
  std::shared_ptr<Call> ended_;
  Outcome* outcome_ = nullptr;
};

template <class R>
R decode_whole(Decoder body) {
  R result = body.get<R>();
  body.finish();
  return result;
}

/// The result, or a default-constructed one if the call has failed.
template <class R>
R decode_result(PendingCall& call) {
  if (const Outcome* const outcome = call.outcome()) {
    try {
      if constexpr (carries_descriptors<R>()) {
        const CloseElsewhere closing;
        Decoder body(outcome->body, call.descriptors(), call.spare_memory());
        body.limit_shared(call.most_shared());
        return decode_whole<R>(body);
      } else {
        return decode_whole<R>(Decoder(outcome->body, call.spare_memory()));
      }
    } catch (...) {
      call.decoding_failed();
    }
  }
  return R();
}

/// Waits for the end of a call. Calls with the same type of result share the code.
template <class R>
asio::awaitable<R> await_result(PendingCall call) {
  co_await call.end();
  if constexpr (std::is_void_v<R>) {
    call.finish();
  } else {
    R result = decode_result<R>(call);
    call.finish();
    co_return std::move(result);
  }
}

/// Encodes one argument of a call.
template <class T>
void put_argument(Encoder& out, FrameBody& body, T&& value) {
  if constexpr (std::is_same_v<std::remove_cvref_t<T>, Borrowed>)
    put_borrowed(out, body, value);
  else if constexpr (std::is_lvalue_reference_v<T>)
    out.put(value);
  else
    put_or_move(out, body, std::forward<T>(value));
}

/// Appends the arguments of a call.
struct ArgumentWriter {
  template <class Write>
  static ArgumentWriter of(const Write& write) noexcept {
    return {call<Write>, &write};
  }
  template <class Write>
  static void call(const void* write, Encoder& out, FrameBody& body) {
    (*static_cast<const Write*>(write))(out, body);
  }

  void (*write)(const void* arguments, Encoder& out, FrameBody& body);
  const void* arguments;
};

/// The options of a call without options.
const CallOptions& usual_options() noexcept;

/// Encodes and sends (or queues) the call.
PendingCall send_call(const std::shared_ptr<Dispatcher>& dispatcher, const CallOptions& options, RoutineName routine,
                      ArgumentWriter writer, CallKind kind = {});

/// Encodes and sends (or queues) the call before it returns. The awaitable only waits for the end of the call.
template <class R, class... A>
asio::awaitable<R> begin_call(const std::shared_ptr<Dispatcher>& dispatcher, const CallOptions& options,
                              RoutineName routine, A&&... arguments) {
  static_assert(std::is_void_v<R> || std::is_default_constructible_v<R>,
                "the result of call<R>() has to be default-constructible: asio::awaitable needs it");
  static_assert(!(std::is_same_v<std::remove_cvref_t<A>, CallOptions> || ...),
                "CallOptions come before the routine's name: call(options, name, arguments...)");
  if constexpr (!std::is_void_v<R>)
    static_assert(!refers_to_message<R>,
                  "the result of call<R>() can't be or contain a view: what it views is gone when call() returns; use "
                  "std::string or std::vector");
  const auto write = [&](Encoder& out, FrameBody& body) {
    (detail::put_argument(out, body, std::forward<A>(arguments)), ...);
  };
  return await_result<R>(send_call(dispatcher, options, routine, ArgumentWriter::of(write),
                                   {.takes_descriptors = carries_descriptors<R>()}));
}

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/detail/call/begin_call.ipp>
#endif
