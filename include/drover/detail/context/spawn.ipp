#pragma once

#include <utility>

#include <asio/co_spawn.hpp>
#include <asio/post.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/detail/context/spawn.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The handler of every coroutine that drover spawns.
struct SpawnedEnd {
  using cancellation_slot_type = asio::cancellation_slot;
  cancellation_slot_type get_cancellation_slot() const noexcept { return slot; }

  void operator()(std::exception_ptr failure) {
    if (done) done(std::move(failure));
  }

  std::function<void(std::exception_ptr)> done;
  asio::cancellation_slot slot;
};

DROVER_INLINE void spawn(const asio::any_io_executor& executor, asio::awaitable<void> coroutine,
                         std::function<void(std::exception_ptr)> done, asio::cancellation_slot slot) {
  asio::co_spawn(executor, std::move(coroutine), SpawnedEnd{std::move(done), slot});
}

DROVER_INLINE asio::awaitable<void> after_post() {
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  co_await asio::post(executor, asio::use_awaitable);
}

}}}  // namespace drover::v1::detail
