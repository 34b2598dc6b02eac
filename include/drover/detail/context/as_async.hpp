#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/awaitable.hpp>
#include <asio/system_executor.hpp>

#include <drover/detail/config.hpp>
#include <drover/detail/context/completion_signature.hpp>
#include <drover/detail/context/spawn.hpp>

/// Operations that coroutines await, for any completion token.
namespace drover { inline namespace v1 { namespace detail {

/// A handler, and the value for it.
template <class T, class Handler>
struct AwaitedEnd {
  explicit AwaitedEnd(Handler to) : handler(std::move(to)) {}

  void complete(std::exception_ptr failure) {
    if constexpr (std::is_void_v<T>)
      std::move(handler)(std::move(failure));
    else
      std::move(handler)(std::move(failure), value ? std::move(*value) : T());
  }

  Handler handler;
  std::optional<std::conditional_t<std::is_void_v<T>, char, T>> value{};
};

/// The operation has begun. Its handler must not be invoked by the function that was given the token, so the wait for
/// it begins with a post.
template <class T, class Handler>
asio::awaitable<void> await_into(std::shared_ptr<AwaitedEnd<T, Handler>> end, asio::awaitable<T> operation) {
  co_await after_post();
  if constexpr (std::is_void_v<T>) {
    co_await std::move(operation);
  } else {
    T value = co_await std::move(operation);
    end->value.emplace(std::move(value));
  }
}

/// Completes any token with what the awaitable ends with, on the executor of its handler, or on `otherwise` if that has
/// none that fits. T is default-constructible.
template <class T, class Token>
auto as_async(asio::awaitable<T> operation, asio::any_io_executor otherwise, Token&& token) {
  const auto initiate = [](auto handler, asio::awaitable<T> awaited, asio::any_io_executor executor) {
    using Handler = decltype(handler);
    using Own = typename asio::associated_executor<Handler, asio::any_io_executor>::type;
    if constexpr (std::is_convertible_v<Own, asio::any_io_executor>)
      executor = asio::get_associated_executor(handler, executor);
    const asio::cancellation_slot slot = asio::get_associated_cancellation_slot(handler);
    const auto end = std::make_shared<AwaitedEnd<T, Handler>>(std::move(handler));
    detail::spawn(
        executor, detail::await_into(end, std::move(awaited)),
        [end](std::exception_ptr failure) { end->complete(std::move(failure)); }, slot);
  };
  return asio::async_initiate<Token, typename CompletionSignature<T>::type>(initiate, token, std::move(operation),
                                                                            std::move(otherwise));
}

}}}  // namespace drover::v1::detail
