#pragma once

#include <cstdio>
#include <exception>
#include <string>
#include <utility>

#include <asio/awaitable.hpp>
#include <asio/io_context.hpp>

#include <drover/detail/context/spawn.hpp>
#include <drover/detail/what_of.hpp>
#include <drover/wire/worker_info.hpp>
#include <drover/worker/detail/hook.hpp>
#include <drover/worker/detail/type_name.hpp>

/// Runs the functions of Routines::on_start() and Routines::on_stop().
namespace drover { inline namespace v1 { namespace detail {

/// Throws what the first of them throws, and runs none after it.
inline asio::awaitable<void> run_start_hooks(const Hooks& hooks, const WorkerInfo& worker) {
  for (const auto& hook : hooks) co_await hook->run(worker);
}

/// Runs the context until the coroutine has ended. Throws what it throws, and the exceptions of other user handlers.
inline void run_to_end(asio::io_context& context, asio::awaitable<void> hooks) {
  std::exception_ptr failure;
  bool ended = false;
  spawn(context.get_executor(), std::move(hooks), [&](std::exception_ptr thrown) {
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
