#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/call_queue.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Calls that have ended and whose completions are still to run. Completions of callers on the dispatcher's own
/// executor run there, one by one; all others are posted. A completion may run for long. While it does, another thread
/// must be able to run the next ones, so another run is scheduled first.
///
/// Guarded by the dispatcher's mutex, except run(). `Owner` is the Dispatcher.
class CompletionQueue {
 public:
  /// If nobody awaits the call yet, its outcome is kept for the one who will.
  void push(const std::shared_ptr<Call>& call) noexcept {
    if (call->completion() != nullptr) (call->same_executor ? own_ : others_).push(call);
  }

  /// The same, and a run is scheduled. Without memory for that, the next event runs it.
  template <class Owner>
  void push_and_run(const std::shared_ptr<Call>& call, Owner& owner) noexcept {
    push(call);
    if (own_.empty() && others_.empty()) return;
    try {
      schedule(owner);
    } catch (...) {
    }
  }

  /// Schedules a run, which flushes what is gathered. Throws std::bad_alloc.
  template <class Owner>
  void run_soon(Owner& owner) {
    schedule(owner);
  }

  /// True if this thread runs completions of this queue, and has more to run.
  bool more_run_here() const noexcept { return running == this && !own_.empty(); }

  /// Runs what is queued. `inside`: this thread runs the dispatcher's executor. Otherwise completions for that executor
  /// are scheduled. True if some are still to run. Takes the owner's mutex, unless it is already `held`.
  template <class Owner>
  bool run(Owner& owner, bool inside, std::unique_lock<std::mutex> held) {
    Turn turn;
    for (bool last = false; !last;) {
      std::shared_ptr<Call> call;
      if (!held.owns_lock()) held = owner.lock();
      if (owner.foreign()) return false;
      if (owner.has_dropped()) {  // they are free before their callers go on
        const auto dropped = owner.take_dropped();
        held.unlock();
      }
      if (!held.owns_lock()) held = owner.lock();
      if (!others_.empty()) {
        call = others_.pop();
        held.unlock();
        call->post_completion();
        continue;
      }
      if (own_.empty()) {
        owner.flush_gathered();
        return false;
      }
      if (!inside) {
        schedule(owner);
        return true;
      }
      if (own_.size() > 1 || owner.has_gathered()) schedule(owner);
      call = own_.pop();
      last = own_.empty() && !owner.has_gathered();  // usual: one call, one completion, and no second look
      call = owner.awaited().take(*call);            // null: its caller has been completed in another way
      held.unlock();
      if (last)
        turn.end();  // nobody flushes what a call of this completion would gather
      else
        turn.begin(*this);
      if (call) Call::complete_with_kept_outcome(std::move(call));
    }
    return false;
  }

  /// For the destruction of the context.
  CallQueue take_all() noexcept {
    CallQueue all;
    all.swap(own_);
    while (!others_.empty()) all.push(others_.pop());
    return all;
  }

 private:
  static constinit inline thread_local const CompletionQueue* running = nullptr;  // the one that this thread runs

  class Turn {
   public:
    Turn() = default;
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() { end(); }
    void begin(const CompletionQueue& queue) noexcept {
      if (!std::exchange(lasts_, true)) before_ = std::exchange(running, &queue);
    }
    void end() noexcept {
      if (std::exchange(lasts_, false)) running = before_;
    }

   private:
    const CompletionQueue* before_ = nullptr;
    bool lasts_ = false;
  };

  template <class Owner>
  void schedule(Owner& owner) {
    if (scheduled_) return;
    scheduled_ = owner.post([this, owner = owner.shared_from_this()] {
      auto held = owner->lock();
      scheduled_ = false;
      run(*owner, true, std::move(held));
    });
  }

  CallQueue own_, others_;
  bool scheduled_ = false;  // another run has been posted
};

}}}  // namespace drover::v1::detail
