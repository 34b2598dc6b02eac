#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include <drover/pool/detail/call/call_recovery.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/call/item_receiver.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Its next attempt would still be in time. Not once the context is destroyed: its worker may live on.
inline bool CallRecovery::may_retry(const Call& call) const noexcept {
  if (call.state != CallState::running || call.attempt + 1 >= call.retry.attempts) return false;
  if (call.stream && call.stream->has_begun()) return false;
  if (dispatcher_.foreign() || !dispatcher_.context_lives() || admission_.refuses_queued() || call.only != 0)
    return false;
  if (records_.keyed.death_poisons(call)) return false;
  if (!call.due) return true;
  const auto next = deadline_after(Clock::now(), call.retry.backoff);
  return next && *next < *call.due;
}

inline bool CallRecovery::end_with_worker(const std::shared_ptr<Call>& call) {
  if (!may_retry(*call)) return dispatcher_.end_in_flight(*call, CallEvent::worker_ended);
  ++call->attempt;
  records_.keyed.died(*call);
  if (records_.ledger.advance(*call, CallEvent::retried).releases_slot) sender_.release_slot(*call);
  scheduler_.rest(call);
  try {
    if (call->retry.backoff > Duration::zero()) {
      // Far in the future is never: it rests until it is cancelled.
      const auto next = deadline_after(Clock::now(), call->retry.backoff).value_or(Clock::time_point::max());
      records_.timer.start(*call, next);
      return false;
    }
  } catch (...) {  // no memory for the timer: it does not rest
  }
  end_rest(*call);
  dispatcher_.send_queued();
  return false;
}

inline void CallRecovery::end_rest(Call& call) {
  const auto owned = scheduler_.end_rest(call);
  if (records_.ledger.advance(call, CallEvent::rested).enters_queue) queue_again(owned);
}

inline bool CallRecovery::end_ahead(Call& call, bool has_not_begun) {
  if (!has_not_begun) {
    records_.ledger.advance(call, CallEvent::turn_came);
    records_.times.begins(call);
    return end_with_worker(call.shared_from_this());
  }
  return_to_queue(call.shared_from_this(), CallEvent::worker_ended);
  dispatcher_.send_queued();
  return false;
}

inline void CallRecovery::take_back(DataLink& link, std::uint64_t last_begun) {
  auto calls = link.slots().all();
  // Items of calls that have begun go on, in order.
  if (std::none_of(calls.begin(), calls.end(), [](const auto& call) { return call->stream; })) link.discard_unsent();
  std::erase_if(
      calls, [&](const auto& call) { return call->id <= last_begun || (call->stream && call->stream->has_begun()); });
  std::sort(calls.begin(), calls.end(), [](const auto& a, const auto& b) { return a->id > b->id; });
  for (const auto& call : calls) return_to_queue(call, CallEvent::returned);
  dispatcher_.send_queued();
}

inline bool CallRecovery::take_back_recalled(DataLink& link, std::uint64_t id) {
  if (id > link.slots().last_id()) return false;
  const std::shared_ptr<Call> call = link.find_recalled(id);
  if (!call) return true;  // it has come back in another way
  if (!call->recalled) return false;
  return_to_queue(call, CallEvent::returned);
  dispatcher_.offer_room(link);
  return true;
}

/// Its worker has not begun it. If new calls are refused, it ends with that failure.
inline void CallRecovery::return_to_queue(const std::shared_ptr<Call>& call, CallEvent event) {
  const CallStep todo = records_.ledger.advance(*call, event);
  if (todo.releases_slot) sender_.release_slot(*call);
  todo.enters_queue ? queue_again(call) : records_.times.left_queue(*call);
}

/// It waits for a worker again, unless new calls are refused.
inline void CallRecovery::queue_again(const std::shared_ptr<Call>& call) {
  admission_.refuses_queued() ? sender_.end_unsent(call, failure_of(admission_.refusal())) : sender_.queue_again(call);
}

}}}  // namespace drover::v1::detail
