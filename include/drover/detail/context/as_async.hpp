#pragma once

#include <exception>
#include <type_traits>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/post.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The operation has begun already. Its handler must not be invoked by the function that was given the token, so the
/// wait for it begins with a post.
template <class T>
asio::awaitable<T> after_post(asio::awaitable<T> operation) {
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  co_await asio::post(executor, asio::use_awaitable);
  co_return co_await std::move(operation);
}

template <class T>
struct AwaitedSignature {
  using type = void(std::exception_ptr, T);
};
template <>
struct AwaitedSignature<void> {
  using type = void(std::exception_ptr);
};

/// Completes any token with what the awaitable ends with, on the executor of its handler, or on `fallback` if that has
/// none.
template <class T, class Token>
auto as_async(asio::awaitable<T> operation, const asio::any_io_executor& fallback, Token&& token) {
  return asio::async_initiate<Token, typename AwaitedSignature<T>::type>(
      [](auto handler, asio::awaitable<T> awaited, const asio::any_io_executor& otherwise) {
        const asio::any_io_executor executor(asio::get_associated_executor(handler, otherwise));
        asio::co_spawn(executor, after_post(std::move(awaited)), std::move(handler));
      },
      token, std::move(operation), fallback);
}

}}}  // namespace drover::v1::detail
