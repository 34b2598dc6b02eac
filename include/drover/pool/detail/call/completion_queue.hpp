#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/call_queue.hpp>

namespace drover { inline namespace v1 { namespace detail {

class Dispatcher;

/// Calls that have ended and whose completions are still to run. Completions of callers on the dispatcher's own
/// executor run there, one by one; all others are posted. A completion may run for long. While it does, another thread
/// must be able to run the next ones, so another run is scheduled first.
///
/// Guarded by the dispatcher's mutex, except run().
class CompletionQueue {
 public:
  /// If nobody awaits the call yet, its outcome is kept for the one who will.
  void push(const std::shared_ptr<Call>& call) noexcept {
    if (call->completion() != nullptr) (call->same_executor ? own_ : others_).push(call);
  }
  /// The same, and a run is scheduled. Without memory for that, the next event runs it.
  void push_and_run(const std::shared_ptr<Call>& call, Dispatcher& dispatcher) noexcept;
  /// Schedules a run, which flushes what is gathered. Throws std::bad_alloc.
  void run_soon(Dispatcher& dispatcher);
  /// True if this thread runs completions of this queue, and has more to run.
  bool more_run_here() const noexcept { return running == this && !own_.empty(); }

  /// Runs what is queued. `inside`: this thread runs the dispatcher's executor. Otherwise completions for that executor
  /// are scheduled. True if some are still to run. Takes the mutex, unless it is already `held`.
  bool run(Dispatcher& dispatcher, bool inside, std::unique_lock<std::mutex> held);

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

  CallQueue own_, others_;
  bool scheduled_ = false;  // another run has been posted
};

}}}  // namespace drover::v1::detail
