#pragma once

#include <algorithm>

#include <asio/error.hpp>
#include <asio/post.hpp>

#include <drover/pool/detail/call/dispatcher.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// A worker without room gets the call ahead: its slot is behind the call that runs there. The worker would otherwise
/// sleep after each short call until the next one arrives.
inline void Dispatcher::send(std::shared_ptr<Call> call, DataLink& link) {
  chooser_.reserve(link);
  call->recalled = false;
  const bool ahead = link.in_flight() == link.slots().capacity();
  if (call->run_for) ahead ? timer_.reserve_for_later(*call) : time_run(*call);
  if (call->key != nullptr) call->key->link = link.number;
  advance(*call, ahead ? CallEvent::sent_ahead : CallEvent::sent);
  if (ahead) {
    sent_ahead_.add(call);
    watch_calls_ahead();
  }
  const bool gathered_before = link.has_gathered();
  if (link.send(std::move(call), times_.in_batch() || completions_.more_run_here()) && !gathered_before)
    gathered_.push_back(&link);  // there is room for each link
  chooser_.changed(link);
  if (spin_.enabled() && spin_.expect(Clock::now())) poll_for_results();
}

/// Keeps one thread of the executor from sleeping, see Spin.
inline void Dispatcher::poll_for_results() noexcept {
  try {
    const bool posted = post([self = shared_from_this()] {
      const auto held = self->lock();
      if (self->spin_.goes_on(Clock::now(), self->in_flight() != 0)) self->poll_for_results();
    });
    if (!posted) spin_.stop();
  } catch (...) {  // no memory: the thread sleeps
    spin_.stop();
  }
}

/// The caller gets back what it lent.
inline void return_borrowed(Call& call) noexcept {
  try {
    call.request.return_borrowed();
  } catch (...) {  // no memory to complete the message
    if (call.link != nullptr) call.link->drop_unsent();
    call.request.drop_borrowed();
  }
}

/// Every change of a call's state after it was submitted.
inline CallStep Dispatcher::advance(Call& call, CallEvent event) noexcept {
  const CallStep todo = step(call.state, event);
  counts_.changed(call.state, todo.next);
  if (call.state == CallState::ahead && todo.next != CallState::ahead && !call.recalled) sent_ahead_.remove(call);
  call.state = todo.next;
  if (todo.next == CallState::ended) {
    if (call.key != nullptr) leave_key(call, event);
    if (call.request.has_descriptors()) call.request.drop_descriptors();
  }
  // The caller gets back what it lent. A worker that has exited reads nothing more, and its channel is being closed.
  if (todo.answers_caller && call.request.has_borrowed() && event != CallEvent::worker_ended) return_borrowed(call);
  return todo;
}

/// There was no memory to send it.
inline void Dispatcher::send_failed(Call& call) noexcept {
  counts_.changed(call.state, CallState::ended);
  if (call.state == CallState::ahead) sent_ahead_.remove(call);
  call.state = CallState::ended;
  if (call.key != nullptr) leave_key(call, CallEvent::refused);
  timer_.remove(call);
}

inline void Dispatcher::release_slot(Call& call) noexcept {
  DataLink& link = *call.link;
  Call* const next = link.release_slot(call);
  if (next != nullptr) {
    advance(*next, CallEvent::turn_came);
    times_.begins(*next);
  }
  chooser_.changed(link);
  if (next == nullptr) return;
  try {
    if (next->state == CallState::abandoned)
      start_kill_after(*next);
    else if (next->run_for)
      time_run(*next);
  } catch (...) {  // no memory for the timer; its place among the deadlines is reserved
  }
}

/// Its worker has not begun it. If new calls are refused, it ends with that failure.
inline void Dispatcher::return_to_queue(const std::shared_ptr<Call>& call, CallEvent event) {
  const CallStep todo = advance(*call, event);
  if (todo.releases_slot) release_slot(*call);
  if (!todo.enters_queue) {
    times_.left_queue(*call);
    timer_.remove(*call);
  } else {
    queue_again(call);
  }
}

/// It waits for a worker again, unless new calls are refused.
inline void Dispatcher::queue_again(const std::shared_ptr<Call>& call) {
  if (refusal_ && !keeps_queue_) {
    end_unsent(call, failure_of(refusal_));
  } else {
    // Until it begins, only its deadline counts. Its place among the times needs no memory.
    if (call->due)
      timer_.add(*call, *call->due);
    else
      timer_.remove(*call);
    DataLink* const home = home_of(*call);
    if (home != nullptr) {
      pinned_.push_front(*home, call);
      return send_pinned(*home);  // it may be idle
    }
    if (call->only != 0) return end_unsent(call, home_is_gone(*call));
    waiting_.push_front(call);
    notify_watcher();
  }
}

inline void Dispatcher::flush_gathered() {
  if (foreign()) return;
  while (!gathered_.empty()) {
    DataLink& link = *gathered_.back();
    gathered_.pop_back();
    link.flush_gathered();
  }
}

inline void Dispatcher::submit(const std::shared_ptr<Call>& call, const CallOptions& options) {
  const auto now = times_.enabled() ? Clock::now() : Clock::time_point();
  const auto held = lock();
  call->order = ++calls_;
  call->run_for = options.run_for;
  call->kill_after = options.kill_after;
  call->retry = options.retry;
  call->priority = static_cast<std::uint8_t>(options.priority);
  try {
    submit_or_throw(call, options, now);
  } catch (...) {  // out of memory
    send_failed(*call);
    throw;
  }
}

inline void Dispatcher::submit_or_throw(const std::shared_ptr<Call>& call, const CallOptions& options,
                                        Clock::time_point now) {
  std::optional<std::exception_ptr> refusal;
  if (foreign() || refusal_)
    refusal = foreign() ? forked_copy() : refusal_();
  else
    refusal = admission_.reason_to_refuse(*call, options);
  if (!refusal && call->only == 0 && !options.key.value().empty()) call->key = &keys_.begin_call(options.key.value());
  if (!refusal && call->key != nullptr && CallKeys::poisoned(*call->key, Clock::now())) refusal = poisoned(*call);
  DataLink* home = refusal ? nullptr : home_of(*call);
  if (!refusal && home == nullptr && call->key != nullptr) home = pinned_.next_home();
  if (!refusal && call->only != 0 && home == nullptr) refusal = home_is_gone(*call);
  DataLink* link = nullptr;
  if (home != nullptr)
    link = has_room(*home) ? home : nullptr;
  else if (!refusal && waiting_.empty())
    link = chooser_.choose();
  if (!refusal && link == nullptr && options.when_full == WhenFull::refuse)
    refusal = admission_.reason_not_to_queue(queued());
  if (!refusal && link == nullptr && home == nullptr && waiting_.empty() && may_go_ahead(*call))
    link = chooser_.choose_ahead();
  if (refusal) {
    advance(*call, CallEvent::refused);
    call->keep({std::move(*refusal), {}, {}});
    return;
  }
  times_.submitted(*call, now);
  if (call->due) time(*call, *call->due);
  if (link != nullptr) {
    send(call, *link);
  } else if (home != nullptr) {
    pinned_.push(*home, call);
  } else {
    waiting_.push(call);
    notify_watcher();
  }
}

inline void Dispatcher::send_queued() {
  if (foreign()) return;
  while (!waiting_.empty()) {
    DataLink* link = chooser_.choose();
    if (link == nullptr && may_go_ahead(waiting_.front())) link = chooser_.choose_ahead();
    if (link == nullptr) return;
    send_or_pin(waiting_.pop(), *link);
  }
  notify_if_unawaited();
}

inline CallQueue Dispatcher::take_queued_calls() noexcept {
  CallQueue dropped;
  for (;;) {
    auto call = waiting_.take_any();
    if (!call) call = pinned_.take_any();
    if (!call) break;
    advance(*call, CallEvent::refused);
    times_.left_queue(*call);
    timer_.remove(*call);
    dropped.push(std::move(call));
  }
  notify_if_unawaited();
  return dropped;
}

inline bool Dispatcher::end_in_flight(Call& call, CallEvent event) {
  const CallStep todo = advance(call, event);
  timer_.remove(call);
  if (todo.next == CallState::ended) call.request.clear();
  if (todo.releases_slot) {
    times_.ended(call);
    DataLink* const link = call.link;
    release_slot(call);
    offer_room(link);
  }
  notify_if_unawaited();
  return todo.answers_caller;
}

/// Its next attempt would still be in time. Not once the context is destroyed: its worker may live on.
inline bool Dispatcher::may_retry(const Call& call) const noexcept {
  if (call.state != CallState::running || call.attempt + 1 >= call.retry.attempts) return false;
  if (foreign() || !context_lives() || (refusal_ && !keeps_queue_) || call.only != 0) return false;
  if (call.key != nullptr && keys_.death_poisons(*call.key, call.link->number, Clock::now())) return false;
  if (!call.due) return true;
  const auto next = deadline_after(Clock::now(), call.retry.backoff);
  return next && *next < *call.due;
}

inline bool Dispatcher::end_with_worker(const std::shared_ptr<Call>& call) {
  if (!may_retry(*call)) return end_in_flight(*call, CallEvent::worker_ended);
  ++call->attempt;
  if (call->key != nullptr) keys_.died(*call->key, call->link->number, Clock::now());
  if (advance(*call, CallEvent::retried).releases_slot) release_slot(*call);
  waiting_.rest(call);
  try {
    if (call->retry.backoff > Duration::zero()) {
      // Far in the future is never: it rests until it is cancelled.
      const auto next = deadline_after(Clock::now(), call->retry.backoff).value_or(Clock::time_point::max());
      time(*call, next);
      return false;
    }
  } catch (...) {  // no memory for the timer: it does not rest
  }
  end_rest(*call);
  send_queued();
  return false;
}

inline void Dispatcher::end_rest(Call& call) {
  const auto owned = waiting_.end_rest(call);
  if (advance(call, CallEvent::rested).enters_queue) queue_again(owned);
}

inline bool Dispatcher::end_ahead(Call& call, bool has_not_begun) {
  if (!has_not_begun) {
    advance(call, CallEvent::turn_came);
    times_.begins(call);
    return end_with_worker(call.shared_from_this());
  }
  return_to_queue(call.shared_from_this(), CallEvent::worker_ended);
  send_queued();
  return false;
}

inline void Dispatcher::record_result(const std::shared_ptr<Call>& call, Outcome outcome, FrameReader& reader) {
  // First, because it may throw std::bad_alloc; the call is then unchanged.
  if (step(call->state, CallEvent::answered).answers_caller) call->keep(std::move(outcome), &reader);
  if (end_in_flight(*call, CallEvent::answered)) completions_.push(call);
}

inline void Dispatcher::take_back(DataLink& link, std::uint64_t last_begun) {
  link.discard_unsent();
  auto calls = link.slots().all();
  std::erase_if(calls, [&](const auto& call) { return call->id <= last_begun; });
  std::sort(calls.begin(), calls.end(), [](const auto& a, const auto& b) { return a->id > b->id; });
  for (const auto& call : calls) return_to_queue(call, CallEvent::returned);
  send_queued();
}

inline bool Dispatcher::take_back_recalled(DataLink& link, std::uint64_t id) {
  if (id > link.slots().last_id()) return false;
  const std::shared_ptr<Call> call = link.find_recalled(id);
  if (!call) return true;  // it has come back in another way
  if (!call->recalled) return false;
  return_to_queue(call, CallEvent::returned);
  offer_room(&link);
  return true;
}

template <class F>
bool Dispatcher::post(F function) {
  const auto registry_lock = registry_->lock();
  if (!executor_ || registry_->closed()) return false;
  asio::post(*executor_, std::move(function));
  return true;
}

inline void Dispatcher::cancel(Call& call, CallEvent event, std::exception_ptr failure) {
  if (foreign()) return;
  std::shared_ptr<Call> keep_alive = call.shared_from_this();
  {
    const auto held = lock();
    if (!end_for_caller(call, event)) return;
  }
  Call::complete_with_error(std::move(keep_alive), std::move(failure));
}

/// With the mutex held. True if the caller is to be completed.
inline bool Dispatcher::end_for_caller(Call& call, CallEvent event) {
  const bool rests = call.state == CallState::resting;
  const CallStep todo = advance(call, event);
  if (todo.leaves_queue) {
    times_.left_queue(call);
    call.pinned_at != nullptr ? pinned_.remove(call) : waiting_.remove(call);
  }
  if (rests && todo.answers_caller) {
    times_.left_queue(call);
    waiting_.end_rest(call);
  }
  if (todo.next == CallState::ended || todo.cancels_in_worker) timer_.remove(call);
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
      if (call.kill_after) timer_.reserve(call);
      sent_ahead_.recall(call);
    } else {
      if (ahead != nullptr && call.kill_after) sent_ahead_.recall(*ahead);  // it must not die with this one
      start_kill_after(call);
    }
  } catch (...) {  // its slot is free when the routine or the worker ends
  }
}

inline void Dispatcher::start_kill_after(Call& call) {
  if (!call.kill_after) return;
  // RECALLED of a call that has not begun may be under way.
  const Duration least = call.recalled ? Duration(std::chrono::milliseconds(100)) : Duration::zero();
  if (const auto kill_at = deadline_after(Clock::now(), std::max(*call.kill_after, least))) time(call, *kill_at);
}

inline void Dispatcher::context_destroyed() noexcept {
  CallQueue completions;
  AwaitedCalls awaited;
  {
    const auto held = lock();
    executor_.reset();
    timer_.close();
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
    timer_.close();
    const auto registry_lock = registry_->lock();
    context_lives = !registry_->closed();
    if (context_lives) {
      executor_.reset();
      completions.append(completions_.take_all());
      awaited_.move_to(registry_);
    }
    self = registry_->remove(*this);
  }
  if (!context_lives) context_destroyed();  // its registry may have come too late
  while (!completions.empty()) completions.pop()->post_completion();
}

}}}  // namespace drover::v1::detail
