#pragma once

#include <concepts>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include <asio/awaitable.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

template <class T>
inline constexpr bool is_awaitable = false;
template <class T>
inline constexpr bool is_awaitable<asio::awaitable<T>> = true;

template <class T>
struct Awaited {
  using type = T;
};
template <class T>
struct Awaited<asio::awaitable<T>> {
  using type = T;
};

/// The results that a factory may have: the value, or a value on the heap for types that cannot be moved.
template <class R, class Value>
concept FactoryResult = std::same_as<std::remove_cvref_t<R>, Value> || std::convertible_to<R, Value> ||
                        std::same_as<R, std::unique_ptr<Value>>;

template <class F, class Key, class Value>
concept FactoryOf = std::invocable<F&, const Key&> &&
                    FactoryResult<typename Awaited<std::invoke_result_t<F&, const Key&>>::type, Value>;

/// True if the function is empty, as function pointers and std::function can be. A lambda without captures would
/// convert to a pointer as well.
template <class F>
bool is_null(const F& function) {
  if constexpr (std::is_pointer_v<F> || std::is_member_pointer_v<F>)
    return function == nullptr;
  else if constexpr (requires { +function; })
    return false;
  else if constexpr (requires { function == nullptr; })
    return function == nullptr;
  else
    return false;
}

/// The factory of a pool with its type erased.
template <class Key, class Value>
class Factory {
 public:
  virtual ~Factory() = default;

  /// Whether create() has to be called instead of create_now().
  virtual bool is_coroutine() const noexcept = 0;
  virtual std::unique_ptr<Value> create_now(const Key& key) = 0;
  virtual asio::awaitable<std::unique_ptr<Value>> create(const Key& key) = 0;
};

template <class Key, class Value, class F>
class TypedFactory final : public Factory<Key, Value> {
  using Result = std::invoke_result_t<F&, const Key&>;
  using Created = typename Awaited<Result>::type;
  static constexpr bool on_heap = std::same_as<Created, std::unique_ptr<Value>> && !std::same_as<Created, Value>;

 public:
  explicit TypedFactory(F factory) : factory_(std::move(factory)) {}

  bool is_coroutine() const noexcept override { return is_awaitable<Result>; }

  std::unique_ptr<Value> create_now(const Key& key) override {
    if constexpr (is_awaitable<Result>)
      throw std::logic_error("drover::ResourcePool: the factory is a coroutine");
    else if constexpr (on_heap)
      return checked(std::invoke(factory_, key));
    else
      return std::unique_ptr<Value>(new Value(std::invoke(factory_, key)));  // in place, whether movable or not
  }

  asio::awaitable<std::unique_ptr<Value>> create(const Key& key) override {
    if constexpr (!is_awaitable<Result>) {
      co_return create_now(key);
    } else if constexpr (on_heap) {
      std::unique_ptr<Value> value = co_await std::invoke(factory_, key);
      co_return checked(std::move(value));
    } else {
      Created value = co_await std::invoke(factory_, key);
      co_return std::make_unique<Value>(std::move(value));
    }
  }

 private:
  static std::unique_ptr<Value> checked(std::unique_ptr<Value> value) {
    if (!value) throw std::logic_error("drover::ResourcePool: the factory returned a null pointer");
    return value;
  }

  F factory_;
};

/// Wraps a plain function in a coroutine. A coroutine function is returned unchanged.
template <class Value, class F>
std::function<asio::awaitable<void>(Value&)> as_finalizer(F function) {
  if (is_null(function)) return {};
  if constexpr (is_awaitable<std::invoke_result_t<F&, Value&>>)
    return function;
  else
    // The coroutine refers to the closure, which lives in Callbacks. The running finalizer keeps these alive.
    return [function = std::move(function)](Value& value) mutable -> asio::awaitable<void> {
      std::invoke(function, value);
      co_return;
    };
}

}}}}  // namespace drover::v1::detail::resource_pool
