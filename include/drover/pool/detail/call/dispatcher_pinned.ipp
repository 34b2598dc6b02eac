#pragma once

#include <memory>
#include <string>
#include <utility>

#include <drover/pool/detail/call/dispatcher.hpp>

/// Calls with a key, and those of a broadcast: which worker they go to.
namespace drover { inline namespace v1 { namespace detail {

/// The worker that has to run it, if there is one now.
inline DataLink* Dispatcher::home_of(const Call& call) const noexcept {
  if (call.only != 0) return pinned_.find(call.only);
  return call.key != nullptr ? pinned_.find(call.key->link) : nullptr;
}

inline std::exception_ptr Dispatcher::home_is_gone(const Call& call) noexcept {
  return failure_of([&] {
    return std::make_exception_ptr(
        Error(Errc::worker_exited, "the worker for the broadcast of '" + call.routine() + "' exited before it began"));
  });
}

/// Ends a call that no worker will get. Not everybody that sends waiting calls runs completions.
inline void Dispatcher::end_unsent(const std::shared_ptr<Call>& call, std::exception_ptr failure) noexcept {
  call->keep({std::move(failure), {}, {}});
  ledger_.advance(*call, CallEvent::refused);
  times_.left_queue(*call);
  completions_.push_and_run(call, *this);
}

/// No call waits for it then, see PinnedCalls.
inline bool Dispatcher::has_room(const DataLink& link) noexcept {
  const auto load = link.load();
  return load.ready && load.in_flight < load.capacity;
}

/// Sends a call that has left the queue to the worker that was chosen for it, unless it belongs to another one.
inline void Dispatcher::send_or_pin(std::shared_ptr<Call> call, DataLink& chosen) noexcept {
  if (KeyedCalls::poisoned(*call)) return end_unsent(call, keyed_.failure(*call));
  DataLink* const home = home_of(*call);
  if (home != nullptr && home != &chosen && !has_room(*home)) return pinned_.push(*home, std::move(call));
  if (home == nullptr && call->only != 0) return end_unsent(call, home_is_gone(*call));
  times_.begins(*call);
  try {
    send(call, home != nullptr ? *home : chosen);
  } catch (...) {  // out of memory
    call->keep({std::current_exception(), {}, {}});
    ledger_.send_failed(*call);
    completions_.push_and_run(call, *this);
  }
}

/// The link may have room for the calls that wait for it. They take turns with those that any worker may run.
inline void Dispatcher::send_pinned(DataLink& link) noexcept {
  if (foreign()) return;
  while (!link.pinned.empty() && has_room(link)) send_or_pin(pinned_.pop_next(link, waiting_), link);
}

/// A link has room: first for the calls that wait for it, then for others. Null: it is gone.
inline void Dispatcher::offer_room(DataLink* freed) {
  if (pinned_.size() != 0 && freed != nullptr) send_pinned(*freed);
  send_queued();
}

/// The link's worker takes no more calls. Those of keys go to others; those of broadcasts end.
inline void Dispatcher::unpin(CallQueue calls) noexcept {
  while (!calls.empty()) {
    const auto call = calls.pop();
    if (call->only != 0) {
      end_unsent(call, home_is_gone(*call));
    } else {
      waiting_.push(call);
      notify_watcher();
    }
  }
}

inline void Dispatcher::close_link(DataLink& link) noexcept {
  link.take_calls(false);
  if (link.pinned.empty()) return;
  CallQueue keyed;
  CallQueue all = pinned_.take(link);
  while (!all.empty()) {
    auto call = all.pop();
    if (call->only != 0)
      pinned_.push(link, std::move(call));  // until the worker has exited
    else
      keyed.push(std::move(call));
  }
  unpin(std::move(keyed));
  send_queued();
}

}}}  // namespace drover::v1::detail
