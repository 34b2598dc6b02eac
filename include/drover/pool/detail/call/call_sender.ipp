#pragma once

#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include <drover/pool/detail/call/call_queue.hpp>
#include <drover/pool/detail/call/call_sender.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>
#include <drover/pool/detail/call/keyed_calls.hpp>
#include <drover/pool/detail/call/state.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline void CallSender::add_link(DataLink& link) {
  gathered_.reserve(scheduler_.workers() + 1);
  scheduler_.add(link);
  watch_calls_ahead();
}

inline void CallSender::remove_link(DataLink& link) noexcept {
  std::erase(gathered_, &link);
  CallQueue homeless = scheduler_.remove(link);
  while (!homeless.empty()) {
    const auto call = homeless.pop();
    end_unsent(call, CallScheduler::home_is_gone(*call));
  }
}

/// A worker without room gets the call ahead: its slot is behind the call that runs there. The worker would otherwise
/// sleep after each short call until the next one arrives.
inline void CallSender::send(std::shared_ptr<Call> call, DataLink& link) {
  scheduler_.reserve(link);
  call->recalled = false;
  const bool ahead = link.in_flight() == link.slots().capacity();
  if (call->run_for)
    ahead || link.begins_unseen(*call) ? records_.timer.reserve_for_later(*call) : records_.timer.start_run(*call);
  KeyedCalls::sent(*call, link);
  records_.ledger.sent(call, ahead);
  if (ahead) watch_calls_ahead();
  const bool gathered_before = link.has_gathered();
  if (link.send(std::move(call), records_.times.in_batch() || completions_.more_run_here()) && !gathered_before)
    gathered_.push_back(&link);  // there is room for each link
  scheduler_.changed(link);
  if (spin_.enabled() && spin_.expect(Clock::now())) poll_for_results();
}

/// Keeps one thread of the executor from sleeping, see Spin.
inline void CallSender::poll_for_results() noexcept {
  try {
    const bool posted = dispatcher_.post([this, owner = dispatcher_.shared_from_this()] {
      const auto held = owner->lock();
      if (spin_.goes_on(Clock::now(), scheduler_.in_flight() != 0)) poll_for_results();
    });
    if (!posted) spin_.stop();
  } catch (...) {  // no memory: the thread sleeps
    spin_.stop();
  }
}

inline void CallSender::send_waiting() noexcept {
  while (scheduler_.waiting() != 0) {
    CallScheduler::Turn turn = scheduler_.next();
    if (!turn.call) return;
    carry_out(std::move(turn));
  }
}

inline void CallSender::send_pinned(DataLink& link) noexcept {
  if (dispatcher_.foreign()) return;
  for (;;) {
    CallScheduler::Turn turn = scheduler_.next_for(link);
    if (!turn.call) return;
    carry_out(std::move(turn));
  }
}

inline void CallSender::carry_out(CallScheduler::Turn turn) noexcept {
  if (turn.failure) return end_unsent(turn.call, std::move(turn.failure));
  records_.times.begins(*turn.call);
  try {
    send(turn.call, *turn.link);
  } catch (...) {  // out of memory
    turn.call->keep({std::current_exception(), {}, {}});
    records_.ledger.send_failed(*turn.call);
    completions_.push_and_run(turn.call, dispatcher_);
  }
}

inline void CallSender::queue_again(const std::shared_ptr<Call>& call) {
  // Until it begins, only its deadline counts. Its place among the times needs no memory.
  if (call->due)
    records_.timer.add(*call, *call->due);
  else
    records_.timer.remove(*call);
  DataLink* const home = scheduler_.home_of(*call);
  if (home == nullptr && call->only != 0) return end_unsent(call, CallScheduler::home_is_gone(*call));
  scheduler_.push_front(call, home);
  if (home != nullptr) send_pinned(*home);  // it may be idle
}

/// Not everybody that sends waiting calls runs completions.
inline void CallSender::end_unsent(const std::shared_ptr<Call>& call, std::exception_ptr failure) noexcept {
  call->keep({std::move(failure), {}, {}});
  records_.ledger.advance(*call, CallEvent::refused);
  records_.times.left_queue(*call);
  completions_.push_and_run(call, dispatcher_);
}

inline void CallSender::release_slot(Call& call) noexcept {
  DataLink& link = *call.link;
  Call* const next = link.release_slot(call);
  if (next != nullptr) {
    records_.ledger.advance(*next, CallEvent::turn_came);
    records_.times.begins(*next);
  }
  scheduler_.changed(link);
  if (next == nullptr) return;
  if (next->state != CallState::abandoned) return start_run(*next);
  try {
    records_.timer.start_kill_after(*next);
  } catch (...) {  // no memory for the timer; its place among the deadlines is reserved
  }
}

inline void CallSender::began(Call& call) noexcept {
  records_.times.begins(call);
  if (call.state == CallState::running) start_run(call);  // otherwise nobody waits for it any more
}

inline void CallSender::start_run(Call& call) noexcept {
  try {
    if (call.run_for) records_.timer.start_run(call);
  } catch (...) {  // no memory for the timer; its place among the deadlines is reserved
  }
}

inline void CallSender::flush_gathered() {
  if (dispatcher_.foreign()) return;
  while (!gathered_.empty()) {
    DataLink& link = *gathered_.back();
    gathered_.pop_back();
    link.flush_gathered();
  }
}

inline void CallSender::flush_soon(DataLink& link) noexcept {
  if (link.gather()) gathered_.push_back(&link);  // there is room for each link
  if (records_.times.in_batch()) return;
  try {
    completions_.run_soon(dispatcher_);
  } catch (...) {  // no memory
    flush_gathered();
  }
}

}}}  // namespace drover::v1::detail
