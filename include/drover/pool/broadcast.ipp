#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/cancellation_type.hpp>
#include <asio/this_coro.hpp>

#include <drover/error.hpp>
#include <drover/pool/broadcast.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Where the calls of a broadcast go, in order, with link 0 for a slot that has no worker that takes calls.
inline std::vector<BroadcastPlace> broadcast_places(const BroadcastTargets& targets) {
  std::vector<BroadcastPlace> places;
  {
    const auto held = targets.dispatcher->lock();
    if (targets.dispatcher->foreign()) std::rethrow_exception(forked_copy());
    if (targets.dispatcher->refusal()) std::rethrow_exception(failure_of(targets.dispatcher->refusal()));
    places = targets.dispatcher->broadcast_places();
  }
  if (places.empty()) throw Error(Errc::no_such_worker, "no worker of the pool takes calls at this moment");
  const auto by_slot = [](const BroadcastPlace& a, const BroadcastPlace& b) { return a.slot < b.slot; };
  std::sort(places.begin(), places.end(), by_slot);
  const auto ready = static_cast<std::ptrdiff_t>(places.size());
  for (const std::size_t slot : targets.slots)
    if (!std::binary_search(places.begin(), places.begin() + ready, BroadcastPlace{slot, 0}, by_slot))
      places.push_back({slot, 0});
  std::sort(places.begin(), places.end(), by_slot);
  return places;
}

inline std::exception_ptr takes_no_calls(std::size_t slot) {
  return std::make_exception_ptr(
      Error(Errc::not_running, "slot " + std::to_string(slot) + " of the pool has no worker that takes calls"));
}

DROVER_INLINE std::vector<BroadcastCall> send_to_all(const BroadcastTargets& targets, const CallOptions& options,
                                                     RoutineName routine, ArgumentWriter writer, CallKind kind) {
  if (!targets.dispatcher) std::rethrow_exception(empty_handle());
  if (targets.failure) std::rethrow_exception(targets.failure);
  std::vector<BroadcastCall> calls;
  for (const BroadcastPlace& place : broadcast_places(targets)) {
    kind.only = place.link;
    calls.push_back({place.slot, place.link == 0 ? PendingCall(takes_no_calls(place.slot))
                                                 : send_call(targets.dispatcher, options, routine, writer, kind)});
  }
  return calls;
}

DROVER_INLINE asio::awaitable<bool> is_cancelled() {
  const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
  co_return state.cancelled() != asio::cancellation_type::none;
}

}}}  // namespace drover::v1::detail
