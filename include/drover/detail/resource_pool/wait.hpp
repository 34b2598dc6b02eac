#pragma once

#include <memory>
#include <utility>

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

}}}}  // namespace drover::v1::detail::resource_pool

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/detail/resource_pool/wait.ipp>
#endif
