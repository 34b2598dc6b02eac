#pragma once

#include <algorithm>
#include <concepts>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>

#include <drover/detail/what_of.hpp>
#include <drover/wire/worker_info.hpp>
#include <drover/worker/detail/type_name.hpp>

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

/// Throws what the first of them throws, and runs none after it.
inline asio::awaitable<void> run_start_hooks(const Hooks& hooks, const WorkerInfo& worker) {
  for (const auto& hook : hooks) co_await hook->run(worker);
}

/// Runs the context until the coroutine has ended. Throws what it throws, and the exceptions of other user handlers.
inline void run_to_end(asio::io_context& context, asio::awaitable<void> hooks) {
  std::exception_ptr failure;
  bool ended = false;
  asio::co_spawn(context, std::move(hooks), [&](std::exception_ptr thrown) {
    failure = std::move(thrown);
    ended = true;
    context.stop();
  });
  while (!ended) {
    context.restart();
    context.run();
  }
  if (failure) std::rethrow_exception(failure);
}

/// A line on stderr about the exception that is being handled.
inline void report_failed_stop(const WorkerInfo& worker) noexcept {
  try {
    std::string text = "drover: worker '" + worker.name + "': its on_stop() threw " + current_exception_type();
    try {
      throw;
    } catch (const std::exception& error) {
      (text += ": ") += what_of(error);
    } catch (...) {
    }
    std::fputs((text += '\n').c_str(), stderr);
    std::fflush(stderr);
  } catch (...) {  // no memory: the exit goes on without a word
  }
}

/// All of them, the last one first, whatever they throw.
inline asio::awaitable<void> run_stop_hooks(const Hooks& hooks, const WorkerInfo& worker) {
  for (auto hook = hooks.rbegin(); hook != hooks.rend(); ++hook) {
    try {
      co_await (*hook)->run(worker);
    } catch (...) {
      report_failed_stop(worker);
    }
  }
}

}}}  // namespace drover::v1::detail
