#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>

#include <drover/detail/config.hpp>
#include <drover/detail/context/async_event.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// Completes at once, without suspending.
asio::awaitable<void> done();

/// Completes at once with this result.
template <class Result>
asio::awaitable<Result> done_with(Result result) {
  co_return std::move(result);
}

/// Completes when the event is set; at once if it is null.
asio::awaitable<void> done_after(std::shared_ptr<AsyncEvent> event);

/// Completes when all of the events are set.
template <class Event>
asio::awaitable<void> done_after_all(std::vector<std::shared_ptr<Event>> events) {
  for (auto& event : events) co_await done_after(std::move(event));
}

}}}}  // namespace drover::v1::detail::resource_pool

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/detail/resource_pool/wait.ipp>
#endif
