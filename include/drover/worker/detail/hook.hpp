#pragma once

#include <algorithm>
#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>

#include <drover/wire/worker_info.hpp>

/// The functions of Routines::on_start() and Routines::on_stop().
namespace drover { inline namespace v1 { namespace detail {

/// Such a function with its type erased.
class Hook {
 public:
  Hook() = default;
  Hook(const Hook&) = delete;
  Hook& operator=(const Hook&) = delete;
  virtual ~Hook() = default;

  virtual bool is_coroutine() const noexcept = 0;

  /// *Lifetime:* the hook and the information must live until the coroutine has ended.
  virtual asio::awaitable<void> run(const WorkerInfo& worker) = 0;
};

template <class Result>
concept HookResult = std::same_as<Result, void> || std::same_as<Result, asio::awaitable<void>>;

template <class F, class... Arguments>
concept HookFunction = std::invocable<F&, Arguments...> && HookResult<std::invoke_result_t<F&, Arguments...>>;

template <class F>
concept StopHook = HookFunction<F>;
template <class F>
concept StartHook = StopHook<F> || HookFunction<F, const WorkerInfo&>;

template <StartHook F>
class TypedHook final : public Hook {
 public:
  explicit TypedHook(F f) : f_(std::move(f)) {}

  bool is_coroutine() const noexcept override {
    if constexpr (StopHook<F>)
      return !std::is_void_v<std::invoke_result_t<F&>>;
    else
      return !std::is_void_v<std::invoke_result_t<F&, const WorkerInfo&>>;
  }

  asio::awaitable<void> run(const WorkerInfo& worker) override {
    if constexpr (StopHook<F>) {
      if constexpr (std::is_void_v<std::invoke_result_t<F&>>)
        f_();
      else
        co_await f_();
    } else {
      if constexpr (std::is_void_v<std::invoke_result_t<F&, const WorkerInfo&>>)
        f_(worker);
      else
        co_await f_(worker);
    }
    co_return;
  }

 private:
  F f_;
};

/// In the order in which they were added.
using Hooks = std::vector<std::unique_ptr<Hook>>;

inline bool any_is_coroutine(const Hooks& hooks) {
  return std::any_of(hooks.begin(), hooks.end(), [](const auto& hook) { return hook->is_coroutine(); });
}

struct WorkerHooks {
  Hooks start, stop;
};

}}}  // namespace drover::v1::detail
