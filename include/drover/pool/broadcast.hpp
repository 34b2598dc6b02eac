#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/pool/detail/call/begin_call.hpp>
#include <drover/pool/detail/call/call_keys.hpp>
#include <drover/pool/detail/call/typed_call.hpp>
#include <drover/pool/options.hpp>
#include <drover/routine.hpp>
#include <drover/wire/codec.hpp>

namespace drover { inline namespace v1 {

/// The result of a broadcast in one worker: a value or an error.
template <class R = void>
class SlotResult {
 public:
  SlotResult(std::size_t number, std::exception_ptr failure) noexcept : slot(number), error(std::move(failure)) {}
  SlotResult(std::size_t number, R value) : slot(number), value_(std::move(value)) {}

  std::size_t slot;            ///< the number of the worker's place in the pool
  std::exception_ptr error{};  ///< null if the call succeeded

  bool ok() const noexcept { return error == nullptr; }
  /// *Errors:* the exception of this worker's call.
  R& value() {
    if (error) std::rethrow_exception(error);
    return *value_;
  }
  const R& value() const { return const_cast<SlotResult&>(*this).value(); }

 private:
  std::optional<R> value_;
};

template <>
class SlotResult<void> {
 public:
  SlotResult(std::size_t number, std::exception_ptr failure) noexcept : slot(number), error(std::move(failure)) {}

  std::size_t slot;
  std::exception_ptr error{};

  bool ok() const noexcept { return error == nullptr; }
  void value() const {
    if (error) std::rethrow_exception(error);
  }
};

namespace detail {

/// Where a broadcast goes.
struct BroadcastTargets {
  BroadcastTargets() = default;
  BroadcastTargets(std::shared_ptr<Dispatcher> all) noexcept : dispatcher(std::move(all)) {}

  std::shared_ptr<Dispatcher> dispatcher;  ///< null for an empty pool
  std::vector<std::size_t> slots{};        ///< those that are to have a worker, in order
  std::exception_ptr failure{};            ///< there was no memory for them
};

/// True if the coroutine has been cancelled.
asio::awaitable<bool> is_cancelled();

struct BroadcastCall {
  std::size_t slot;
  PendingCall pending;
};

template <class R>
asio::awaitable<std::vector<SlotResult<R>>> await_broadcast(std::vector<BroadcastCall> calls) {
  std::vector<SlotResult<R>> results;
  results.reserve(calls.size());
  for (BroadcastCall& call : calls) {
    std::exception_ptr failure;
    asio::awaitable<R> result = await_result<R>(std::move(call.pending));
    try {
      if constexpr (std::is_void_v<R>) {
        co_await std::move(result);
        results.emplace_back(call.slot, nullptr);
      } else {
        R value = co_await std::move(result);
        results.emplace_back(call.slot, std::move(value));
      }
      continue;
    } catch (...) {
      failure = std::current_exception();
    }
    if (co_await is_cancelled()) std::rethrow_exception(failure);
    results.emplace_back(call.slot, std::move(failure));
  }
  co_return results;
}

/// One call in each worker, by slot. That of a slot without a worker that takes calls has failed. Throws what new calls
/// fail with, or Errc::no_such_worker if no worker takes calls.
std::vector<BroadcastCall> send_to_all(const BroadcastTargets& targets, const CallOptions& options, RoutineName routine,
                                       ArgumentWriter writer, CallKind kind);

template <class R, class... A>
asio::awaitable<std::vector<SlotResult<R>>> begin_broadcast(const BroadcastTargets& targets, const CallOptions& options,
                                                            RoutineName routine, const A&... arguments) {
  static_assert(!(std::is_same_v<A, CallOptions> || ...),
                "CallOptions come before the routine's name: broadcast(options, name, arguments...)");
  if constexpr (!std::is_void_v<R>)
    static_assert(
        !refers_to_message<R>,
        "the result of broadcast<R>() can't be or contain a view: what it views is gone when broadcast() returns; use "
        "std::string");
  const auto write = [&](Encoder& out, FrameBody& body) { (detail::put_argument(out, body, arguments), ...); };
  try {
    return await_broadcast<R>(send_to_all(targets, options, routine, ArgumentWriter::of(write),
                                          {.takes_descriptors = carries_descriptors<R>()}));
  } catch (...) {
    return failed<std::vector<SlotResult<R>>>(std::current_exception());
  }
}

template <class R, class... P, class... A>
asio::awaitable<std::vector<SlotResult<R>>> begin_typed_broadcast(const BroadcastTargets& targets,
                                                                  const CallOptions& options,
                                                                  const drover::Routine<R(P...)>& routine,
                                                                  const A&... arguments) {
  if constexpr (can_be_awaited<R>() &&
                arguments_fit(std::type_identity<R(P...)>(), std::type_identity<void(const A&...)>())) {
    const auto write = [&](Encoder& out, FrameBody& body) {
      (detail::put_typed_argument<P>(out, body, arguments), ...);
    };
    try {
      return await_broadcast<R>(
          send_to_all(targets, options, routine.name(), ArgumentWriter::of(write),
                      {.declaration = declaration_of<R(P...)>(), .takes_descriptors = carries_descriptors<R>()}));
    } catch (...) {
      return failed<std::vector<SlotResult<R>>>(std::current_exception());
    }
  } else {
    return {};
  }
}

}  // namespace detail
}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/broadcast.ipp>
#endif
