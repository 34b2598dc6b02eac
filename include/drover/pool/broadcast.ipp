#pragma once

#include <algorithm>
#include <exception>
#include <memory>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/cancellation_type.hpp>
#include <asio/this_coro.hpp>

#include <drover/error.hpp>
#include <drover/pool/broadcast.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>

namespace drover { inline namespace v1 { namespace detail {

DROVER_INLINE std::vector<BroadcastPlace> broadcast_places(const std::shared_ptr<Dispatcher>& dispatcher) {
  if (!dispatcher) std::rethrow_exception(empty_handle());
  std::vector<BroadcastPlace> places;
  {
    const auto held = dispatcher->lock();
    if (dispatcher->foreign()) std::rethrow_exception(forked_copy());
    if (dispatcher->refusal()) std::rethrow_exception(failure_of(dispatcher->refusal()));
    places = dispatcher->broadcast_places();
  }
  if (places.empty()) throw Error(Errc::no_such_worker, "no worker of the pool takes calls at this moment");
  std::sort(places.begin(), places.end(),
            [](const BroadcastPlace& a, const BroadcastPlace& b) { return a.slot < b.slot; });
  return places;
}

DROVER_INLINE std::vector<BroadcastCall> send_to_all(const std::shared_ptr<Dispatcher>& dispatcher,
                                                     const CallOptions& options, RoutineName routine,
                                                     ArgumentWriter writer, CallKind kind) {
  std::vector<BroadcastCall> calls;
  for (const BroadcastPlace& place : broadcast_places(dispatcher)) {
    kind.only = place.link;
    calls.push_back({place.slot, send_call(dispatcher, options, routine, writer, kind)});
  }
  return calls;
}

DROVER_INLINE asio::awaitable<bool> is_cancelled() {
  const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
  co_return state.cancelled() != asio::cancellation_type::none;
}

}}}  // namespace drover::v1::detail
