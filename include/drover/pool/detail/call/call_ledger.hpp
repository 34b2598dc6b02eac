#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/call_timer.hpp>
#include <drover/pool/detail/call/calls_ahead.hpp>
#include <drover/pool/detail/call/keyed_calls.hpp>
#include <drover/pool/detail/call/state.hpp>
#include <drover/pool/detail/worker/data_link.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The caller gets back what it lent.
inline void return_borrowed(Call& call) noexcept {
  try {
    call.request.return_borrowed();
  } catch (...) {  // no memory to complete the message
    if (call.link != nullptr) call.link->drop_unsent();
    call.request.drop_borrowed();
  }
}

/// Makes every change of a call's state, and keeps up to date what depends on the states: how many calls are in a
/// worker, which of them were sent ahead, which keys have calls, which calls have a time. Guarded by the dispatcher's
/// mutex.
class CallLedger {
 public:
  CallLedger(KeyedCalls& keyed, CallsAhead& sent_ahead, CallTimer& timer) noexcept
      : keyed_(keyed), sent_ahead_(sent_ahead), timer_(timer) {}
  CallLedger(const CallLedger&) = delete;
  CallLedger& operator=(const CallLedger&) = delete;

  /// Applies step(). What else the step says is for the caller of this function.
  CallStep advance(Call& call, CallEvent event) noexcept {
    const CallStep todo = step(call.state, event);
    apply(call, event, todo);
    return todo;
  }
  /// The same of what step() has answered for this event.
  void apply(Call& call, CallEvent event, CallStep todo) noexcept {
    const bool may_still_be_read = event == CallEvent::worker_ended || event == CallEvent::retried;
    if (may_still_be_read && call.request.has_descriptors() && call.link != nullptr && !call.link->process_has_ended())
      call.request.descriptors()->retire_lent();
    change(call, todo.next);
    if (todo.next == CallState::ended) {
      keyed_.ended(call, event);
      if (call.request.has_descriptors()) drop_descriptors(call);
    }
    if (todo.next == CallState::ended || todo.cancels_in_worker) timer_.remove(call);
    // A worker that has exited reads nothing more, and its channel is being closed.
    if (todo.answers_caller && call.request.has_borrowed() && event != CallEvent::worker_ended) return_borrowed(call);
  }
  /// The call is sent to a worker. `ahead`: behind the one that runs there.
  void sent(const std::shared_ptr<Call>& call, bool ahead) noexcept {
    advance(*call, ahead ? CallEvent::sent_ahead : CallEvent::sent);
    if (ahead) sent_ahead_.add(call);
  }
  /// There was no memory to send it.
  void send_failed(Call& call) noexcept {
    change(call, CallState::ended);
    keyed_.ended(call, CallEvent::refused);
    timer_.remove(call);
  }

  /// The descriptors of calls that have ended. To be destroyed without the mutex: to unmap memory may take long.
  std::vector<SharedDescriptors> take_dropped() noexcept { return std::exchange(dropped_, {}); }
  bool has_dropped() const noexcept { return !dropped_.empty(); }

  /// Calls in a worker whose callers wait; those that were sent ahead included.
  std::size_t awaited() const noexcept { return counts_.awaited; }
  std::size_t ahead() const noexcept { return counts_.ahead; }

 private:
  void drop_descriptors(Call& call) noexcept {
    SharedDescriptors descriptors = call.request.take_descriptors();
    if (!descriptors->has_lent()) return;  // DescriptorDisposal closes them
    try {
      dropped_.push_back(std::move(descriptors));
    } catch (const std::bad_alloc&) {  // then it takes long
    }
  }
  void change(Call& call, CallState next) noexcept {
    counts_.changed(call.state, next);
    if (call.state == CallState::ahead && next != CallState::ahead && !call.recalled) sent_ahead_.remove(call);
    call.state = next;
  }

  CallCounts counts_;
  std::vector<SharedDescriptors> dropped_;
  KeyedCalls& keyed_;
  CallsAhead& sent_ahead_;
  CallTimer& timer_;
};

}}}  // namespace drover::v1::detail
