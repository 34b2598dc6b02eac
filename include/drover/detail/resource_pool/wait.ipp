#pragma once

#include <memory>
#include <utility>

#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/detail/context/async_event.hpp>
#include <drover/detail/resource_pool/disposal.hpp>
#include <drover/detail/resource_pool/wait.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

inline asio::awaitable<void> wait(std::shared_ptr<AsyncEvent> event) {
  // A destructor may run a context of its own and wait there for work that is queued for a Disposal further down this
  // stack, which cannot continue before that destructor has returned.
  if (!event->is_set()) Disposal::run_queued_work();
  co_await AsyncEvent::wait(std::move(event));
}

DROVER_INLINE asio::awaitable<void> done() { co_return; }

DROVER_INLINE asio::awaitable<void> done_after(std::shared_ptr<AsyncEvent> event) {
  if (!event) return done();
  return wait(std::move(event));
}

}}}}  // namespace drover::v1::detail::resource_pool
