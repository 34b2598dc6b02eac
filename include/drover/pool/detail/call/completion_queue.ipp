#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include <drover/pool/detail/call/completion_queue.hpp>
#include <drover/pool/detail/call/dispatcher.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline void CompletionQueue::push_and_run(const std::shared_ptr<Call>& call, Dispatcher& dispatcher) noexcept {
  push(call);
  if (own_.empty() && others_.empty()) return;
  try {
    run_soon(dispatcher);
  } catch (...) {
  }
}

inline void CompletionQueue::run_soon(Dispatcher& dispatcher) {
  if (scheduled_) return;
  scheduled_ = dispatcher.post([this, owner = dispatcher.shared_from_this()] {
    auto held = owner->lock();
    scheduled_ = false;
    run(*owner, true, std::move(held));
  });
}

inline bool CompletionQueue::run(Dispatcher& dispatcher, bool inside, std::unique_lock<std::mutex> held) {
  CallLedger& ledger = dispatcher.records_.ledger;
  CallSender& sender = dispatcher.sender_;
  Turn turn;
  for (bool last = false; !last;) {
    std::shared_ptr<Call> call;
    if (!held.owns_lock()) held = dispatcher.lock();
    if (dispatcher.foreign()) return false;
    if (ledger.has_dropped()) {  // they are free before their callers go on
      const auto dropped = ledger.take_dropped();
      held.unlock();
    }
    if (!held.owns_lock()) held = dispatcher.lock();
    if (!others_.empty()) {
      call = others_.pop();
      held.unlock();
      call->post_completion();
      continue;
    }
    if (own_.empty()) {
      sender.flush_gathered();
      return false;
    }
    if (!inside) {
      run_soon(dispatcher);
      return true;
    }
    if (own_.size() > 1 || sender.has_gathered()) run_soon(dispatcher);
    call = own_.pop();
    last = own_.empty() && !sender.has_gathered();  // usual: one call, one completion, and no second look
    call = dispatcher.awaited_.take(*call);         // null: its caller has been completed in another way
    held.unlock();
    if (last)
      turn.end();  // nobody flushes what a call of this completion would gather
    else
      turn.begin(*this);
    if (call) Call::complete_with_kept_outcome(std::move(call));
  }
  return false;
}

}}}  // namespace drover::v1::detail
