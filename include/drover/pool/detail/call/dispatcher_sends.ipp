#pragma once

#include <memory>
#include <utility>

#include <drover/pool/detail/call/dispatcher.hpp>

/// The dispatcher carries out what its CallScheduler decides.
namespace drover { inline namespace v1 { namespace detail {

/// Ends a call that no worker will get. Not everybody that sends waiting calls runs completions.
inline void Dispatcher::end_unsent(const std::shared_ptr<Call>& call, std::exception_ptr failure) noexcept {
  call->keep({std::move(failure), {}, {}});
  ledger_.advance(*call, CallEvent::refused);
  times_.left_queue(*call);
  completions_.push_and_run(call, *this);
}

inline void Dispatcher::carry_out(CallScheduler::Turn turn) noexcept {
  if (turn.failure) return end_unsent(turn.call, std::move(turn.failure));
  times_.begins(*turn.call);
  try {
    send(turn.call, *turn.link);
  } catch (...) {  // out of memory
    turn.call->keep({std::current_exception(), {}, {}});
    ledger_.send_failed(*turn.call);
    completions_.push_and_run(turn.call, *this);
  }
}

/// The link may have room for the calls that wait for it.
inline void Dispatcher::send_pinned(DataLink& link) noexcept {
  if (foreign()) return;
  for (;;) {
    CallScheduler::Turn turn = scheduler_.next_for(link);
    if (!turn.call) return;
    carry_out(std::move(turn));
  }
}

/// A link has room: first for the calls that wait for it, then for others.
inline void Dispatcher::offer_room(DataLink& link) {
  if (scheduler_.pinned() != 0) send_pinned(link);
  send_queued();
}

inline void Dispatcher::remove_link(DataLink& link) noexcept {
  std::erase(gathered_, &link);
  CallQueue homeless = scheduler_.remove(link);
  while (!homeless.empty()) {
    const auto call = homeless.pop();
    end_unsent(call, CallScheduler::home_is_gone(*call));
  }
}

}}}  // namespace drover::v1::detail
