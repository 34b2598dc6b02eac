#pragma once

#include <exception>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/call/expired_calls.hpp>
#include <drover/wire/cancel_reason.hpp>
#include <drover/wire/channel.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline void Dispatcher::submit(const std::shared_ptr<Call>& call, const CallOptions& options) {
  const auto now = records_.times.enabled() ? Clock::now() : Clock::time_point();
  const auto held = lock();
  call->order = ++calls_;
  call->run_for = options.run_for;
  call->kill_after = options.kill_after;
  call->retry = options.retry;
  call->priority = static_cast<std::uint8_t>(options.priority);
  try {
    submit_or_throw(call, options, now);
  } catch (...) {  // out of memory
    records_.ledger.send_failed(*call);
    throw;
  }
}

inline void Dispatcher::submit_or_throw(const std::shared_ptr<Call>& call, const CallOptions& options,
                                        Clock::time_point now) {
  CallScheduler::Route route{.refusal = foreign() ? forked_copy() : admission_.reason_to_refuse(*call, options)};
  if (!route.refusal) {
    if (call->only == 0) records_.keyed.begin(*call, options.key.value());
    route = scheduler_.route(*call);
  }
  if (!route.refusal && route.link == nullptr && options.when_full == WhenFull::refuse)
    route.refusal = admission_.reason_not_to_queue(queued());
  if (route.refusal) {
    records_.ledger.advance(*call, CallEvent::refused);
    call->keep({std::move(route.refusal), {}, {}});
    return;
  }
  if (route.link == nullptr && route.home == nullptr) route.link = scheduler_.route_ahead(*call);
  records_.times.submitted(*call, now);
  if (call->due) records_.timer.start(*call, *call->due);
  route.link != nullptr ? sender_.send(call, *route.link) : scheduler_.push(call, route.home);
}

inline void Dispatcher::send_queued() {
  if (foreign()) return;
  if (scheduler_.waiting() != 0) sender_.send_waiting();
  notify_if_unawaited();
}

inline void Dispatcher::offer_room(DataLink& link) {
  if (scheduler_.pinned() != 0) sender_.send_pinned(link);
  send_queued();
}

inline CallQueue Dispatcher::take_queued_calls() noexcept {
  CallQueue dropped;
  while (auto call = scheduler_.take_any()) {
    records_.ledger.advance(*call, CallEvent::refused);
    records_.times.left_queue(*call);
    dropped.push(std::move(call));
  }
  notify_if_unawaited();
  return dropped;
}

inline bool Dispatcher::end_in_flight(Call& call, CallEvent event) {
  return end_in_flight(call, event, step(call.state, event));
}

inline bool Dispatcher::end_in_flight(Call& call, CallEvent event, CallStep todo) {
  records_.ledger.apply(call, event, todo);
  if (todo.next == CallState::ended) call.request.clear();
  if (todo.releases_slot) {
    records_.times.ended(call);
    DataLink& link = *call.link;
    sender_.release_slot(call);
    offer_room(link);
  }
  notify_if_unawaited();
  return todo.answers_caller;
}

inline void Dispatcher::record_result(const std::shared_ptr<Call>& call, Outcome outcome, FrameReader& reader) {
  const CallStep todo = step(call->state, CallEvent::answered);
  // First, because it may throw std::bad_alloc; the call is then unchanged.
  if (todo.answers_caller) call->keep(std::move(outcome), &reader);
  if (end_in_flight(*call, CallEvent::answered, todo)) completions_.push(call);
}

inline void Dispatcher::cancel(Call& call, CallEvent event, std::exception_ptr failure) {
  if (foreign()) return;
  std::shared_ptr<Call> keep_alive = call.shared_from_this();
  std::vector<SharedDescriptors> dropped;  // without the mutex
  {
    const auto held = lock();
    const bool answers_caller = end_for_caller(call, event);
    dropped = take_dropped();
    if (!answers_caller) return;
  }
  Call::complete_with_error(std::move(keep_alive), std::move(failure));
}

/// With the mutex held. True if the caller is to be completed.
inline bool Dispatcher::end_for_caller(Call& call, CallEvent event) {
  const bool rests = call.state == CallState::resting;
  const CallStep todo = records_.ledger.advance(call, event);
  if (todo.leaves_queue || (rests && todo.answers_caller)) {
    records_.times.left_queue(call);
    if (rests)
      scheduler_.end_rest(call);
    else
      scheduler_.remove(call);
  }
  if (todo.cancels_in_worker)
    cancel_in_worker(call, event == CallEvent::expired ? CancelReason::deadline : CancelReason::caller);
  notify_if_unawaited();
  return todo.answers_caller;
}

/// As far as there is memory: the caller is completed in any case.
inline void Dispatcher::cancel_in_worker(Call& call, CancelReason reason) noexcept {
  try {
    call.link->worker().send_cancel(call.id, reason);
    Call* const ahead = call.link->ahead();
    if (&call == ahead) {  // the worker must not die for a call that it has not begun
      if (call.kill_after) records_.timer.reserve(call);
      records_.sent_ahead.recall(call);
    } else {
      if (ahead != nullptr && call.kill_after) records_.sent_ahead.recall(*ahead);  // it must not die with this one
      records_.timer.start_kill_after(call);
    }
  } catch (...) {  // its slot is free when the routine or the worker ends
  }
}

inline void Dispatcher::on_timer() {
  ExpiredCalls expired;
  {
    const auto held = lock();
    records_.timer.fired();
    const auto now = Clock::now();
    if (admission_.refuses_queued())
      records_.sent_ahead.stop_looking();  // a stop: what was sent is still run
    else
      records_.sent_ahead.recall_late(now);
    while (Call* const due = records_.timer.due(now)) {
      Call& call = *due;
      if (call.link != nullptr && records_.timer.once_in_turn(*call.link)) {
        call.link->worker().read_results(16);  // the result may have arrived, if it was this process that slept
      } else if (call.state == CallState::resting && !(call.due && *call.due <= now)) {
        recovery_.end_rest(call);
      } else if (call.state == CallState::abandoned) {  // kill_after has passed
        records_.timer.remove(call);
        call.link->worker().kill_worker(call);
      } else if (!expired.prepare(call, now)) {
        records_.timer.add(call, now + Channel::memory_pause);  // the others do not wait for memory
      } else {
        records_.timer.remove(call);
        auto keep_alive = call.shared_from_this();
        if (end_for_caller(call, CallEvent::expired)) expired.add(std::move(keep_alive));
      }
    }
    send_queued();
    try {
      records_.timer.arm();
    } catch (const std::bad_alloc&) {  // the next call with a deadline tries again; these callers do not wait for that
    }
  }
  expired.complete();
  run_completions(true);
}

inline void Dispatcher::context_destroyed() noexcept {
  CallQueue completions;
  AwaitedCalls awaited;
  {
    const auto held = lock();
    executor_.close();
    records_.timer.close();
    completions.append(completions_.take_all());
    awaited.swap(awaited_);
  }
  while (!completions.empty()) completions.pop()->post_completion();  // not to a context that is being destroyed
  awaited.lose_callers();
}

inline void Dispatcher::close() noexcept {
  std::shared_ptr<ContextBound> self;
  CallQueue completions;
  bool context_lives = false;
  {
    const auto held = lock();
    records_.timer.close();
    const auto registry_lock = registry()->lock();
    context_lives = !registry()->closed();
    if (context_lives) {
      executor_.close();
      completions.append(completions_.take_all());
      awaited_.move_to(registry());
    }
    self = registry()->remove(*this);
  }
  if (!context_lives) context_destroyed();  // its registry may have come too late
  while (!completions.empty()) completions.pop()->post_completion();
}

}}}  // namespace drover::v1::detail
