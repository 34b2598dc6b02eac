#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/context/bound_executor.hpp>
#include <drover/detail/context/registry.hpp>
#include <drover/os/detail/fork_epoch.hpp>
#include <drover/pool/detail/call/awaited_calls.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/call_admission.hpp>
#include <drover/pool/detail/call/call_pool.hpp>
#include <drover/pool/detail/call/call_queue.hpp>
#include <drover/pool/detail/call/call_records.hpp>
#include <drover/pool/detail/call/call_recovery.hpp>
#include <drover/pool/detail/call/call_scheduler.hpp>
#include <drover/pool/detail/call/call_sender.hpp>
#include <drover/pool/detail/call/call_times.hpp>
#include <drover/pool/detail/call/completion_queue.hpp>
#include <drover/pool/detail/call/queue_watcher.hpp>
#include <drover/pool/detail/worker/data_link.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Gives calls to workers, and ends each call exactly once. A LocalWorker has a dispatcher with one data link, a pool
/// has one with a link for each worker. One mutex guards the dispatcher, its parts, its links and the sessions behind
/// them. User code never runs under it.
///
/// Its parts have one job each: CallAdmission refuses calls, CallScheduler decides which call is next and which worker
/// gets it, CallSender sends it, CallRecovery deals with workers that exit or give calls back, CallRecords has what is
/// known of each call, CompletionQueue completes callers. This class decides in which order they do it.
class Dispatcher final : public ContextBound, public std::enable_shared_from_this<Dispatcher> {
 public:
  static std::shared_ptr<Dispatcher> create(const asio::any_io_executor& executor, const WorkerOptions& worker,
                                            std::optional<std::size_t> max_queued, PoisonPolicy poison = {}) {
    std::shared_ptr<Dispatcher> made(new Dispatcher(executor, worker, max_queued, poison));
    const auto held = made->registry()->lock();
    if (!made->registry()->closed()) {
      made->executor_.open(executor);
      made->records_.timer.open(executor);
      made->registry()->add(made);
    }
    return made;
  }

  /// Not locked in a forked copy of the program: it has one thread, and another thread may have held the mutex when it
  /// was forked.
  std::unique_lock<std::mutex> lock() {
    return foreign() ? std::unique_lock(mutex_, std::defer_lock) : std::unique_lock(mutex_);
  }
  /// True in a forked copy of the program. Nothing is sent to workers of the original.
  bool foreign() const noexcept { return epoch_.foreign(); }
  bool context_lives() const noexcept { return executor_.context_lives(); }
  const std::shared_ptr<ContextRegistry>& registry() const noexcept { return executor_.registry(); }
  /// Empty once the context is destroyed. Its sessions and its pool have no executor of their own. With the mutex held,
  /// and to be used under the registry's lock.
  const std::optional<asio::any_io_executor>& executor() const noexcept { return executor_.get(); }

  // ---- the caller's side, without the mutex ----

  /// A call for new arguments, usually one that was used before.
  std::shared_ptr<Call> allocate_call() {
    if (auto call = pool_.take_last()) return call;
    {
      const auto held = lock();
      if (auto call = pool_.take()) return call;
    }
    auto call = std::make_shared<Call>();
    call->dispatcher = weak_from_this();
    call->spare_memory = spare_memory(admission_.max_message_size());
    call->most_shared = admission_.max_message_size();
    return call;
  }

  /// Takes back a call that has ended and that nobody else refers to.
  void recycle(std::shared_ptr<Call> call) {
    if (!CallPool::prepare(call) || pool_.keep_last(call)) return;
    const auto held = lock();
    pool_.give_back(std::move(call));
  }

  /// Sends the encoded call, queues it, or ends it at once.
  void submit(const std::shared_ptr<Call>& call, const CallOptions& options);

  /// Ends a call from the parent's side. If the caller waits, its completion is posted with `failure`.
  void cancel(Call& call, CallEvent event, std::exception_ptr failure);

  /// The owner is destroyed.
  void close() noexcept;
  /// With the mutex held.
  AwaitedCalls& awaited() noexcept { return awaited_; }

  // ---- the workers' side, with the mutex held unless noted ----

  void add_link(DataLink& link) { sender_.add_link(link); }
  void remove_link(DataLink& link) noexcept { sender_.remove_link(link); }
  /// The link's worker gets no more calls.
  void close_link(DataLink& link) noexcept {
    if (scheduler_.close(link)) send_queued();
  }
  /// The links whose workers take calls, for a broadcast.
  std::vector<BroadcastPlace> broadcast_places() const { return scheduler_.broadcast_places(); }

  /// Sends waiting calls to workers that have a free slot.
  void send_queued();
  /// The link has a free slot: it is first for the calls that wait for this worker alone, then for others.
  void offer_room(DataLink& link);

  /// New calls fail with `cause` from now on; nullptr accepts them again. `keeps_queue`: waiting calls are still sent.
  void refuse(Cause cause, bool keeps_queue = false) noexcept { admission_.refuse(std::move(cause), keeps_queue); }
  /// The same for good, unless they fail already. Waiting calls are not sent any more.
  void refuse_for_good(const Cause& cause) { admission_.refuse_for_good(cause); }
  const Cause& refusal() const noexcept { return admission_.refusal(); }
  /// Sets the event when no caller waits for a call any more, queued or in flight; at once if none does.
  void notify_when_unawaited(std::shared_ptr<AsyncEvent> event) {
    unawaited_event_ = std::move(event);
    notify_if_unawaited();
  }

  /// Learns of each call that has to wait from now on. Null: nobody does. It outlives this setting.
  void watch_queue(QueueWatcher* watcher) noexcept { scheduler_.watch(watcher); }

  /// Removes all waiting calls. Complete them with complete_all_with_error() after unlocking.
  CallQueue take_queued_calls() noexcept;

  /// See ResultBatch.
  void begin_batch() noexcept { records_.times.begin_batch(); }
  void end_batch() {
    records_.times.end_batch();
    sender_.flush_gathered();
  }

  /// Ends an in-flight call: releases its slot to the next queued call. Returns true if the caller is still waiting;
  /// complete it after unlocking.
  bool end_in_flight(Call& call, CallEvent event);
  /// The same for a call whose worker has exited. It goes back to the queue if it is to be retried.
  bool end_with_worker(const std::shared_ptr<Call>& call) { return recovery_.end_with_worker(call); }
  /// The same for a call that was sent ahead to a worker that has exited. It goes back to the queue if it has certainly
  /// not begun: no result of the call before it can have been lost. run_completions() has to follow.
  bool end_ahead(Call& call, bool has_not_begun) { return recovery_.end_ahead(call, has_not_begun); }

  /// The link's worker drains by itself and has begun no call after `last_begun`. Those calls go back to the front of
  /// the queue. If new calls are refused, they end with that failure. run_completions() has to follow.
  void take_back(DataLink& link, std::uint64_t last_begun) { recovery_.take_back(link, last_begun); }
  /// The link's worker has given this call back, see RECALL. False if it was not asked to. run_completions() has to
  /// follow.
  bool take_back_recalled(DataLink& link, std::uint64_t id) { return recovery_.take_back_recalled(link, id); }
  /// The worker has begun a call that awaits_begun.
  void call_began(Call& call) noexcept { sender_.began(call); }
  /// The call's RESULT has arrived, and `reader` has just returned its frame. run_completions() completes the caller.
  void record_result(const std::shared_ptr<Call>& call, Outcome outcome, FrameReader& reader);

  /// Runs the completions of calls that have ended, see CompletionQueue::run(). `held`: the mutex, if the caller has it
  /// already.
  bool run_completions(bool inside, std::unique_lock<std::mutex> held = {}) {
    return completions_.run(*this, inside, std::move(held));
  }

  /// See CallLedger. run_completions() destroys them, too.
  std::vector<SharedDescriptors> take_dropped() noexcept { return records_.ledger.take_dropped(); }

  /// Frames of a stream wait in the link. They leave when the reading of results ends, or in a run of completions.
  void flush_soon(DataLink& link) noexcept { sender_.flush_soon(link); }
  std::size_t max_message_size() const noexcept { return admission_.max_message_size(); }

  /// Calls that no worker has begun: those that were sent ahead count.
  std::size_t queued() const noexcept { return scheduler_.queued() + records_.ledger.ahead(); }
  /// Calls that no worker could take.
  std::size_t waiting() const noexcept { return scheduler_.waiting(); }
  /// As few workers as possible get calls, so that the others may go.
  void use_few(bool on) noexcept { scheduler_.use_few(on); }
  std::size_t in_flight() const noexcept { return scheduler_.in_flight(); }
  /// So many calls that no worker has to wait for the next one, and that an elastic pool sees some wait.
  std::size_t calls_to_keep_busy() const noexcept { return scheduler_.calls_to_keep_busy(); }
  std::uint64_t calls() const noexcept { return calls_; }
  const CallKeys& keys() const noexcept { return records_.keyed.keys(); }

  /// Records how long calls wait and run. Before the first call.
  void record_times() { records_.times.enable(); }
  CallTimes::Histograms times() const noexcept { return records_.times.histograms(); }

  /// Cancels the timer if no deadline is left, so that it does not keep the context running.
  void cancel_idle_timer() noexcept { records_.timer.cancel_if_idle(); }
  /// Posts to the executor. False if the context is destroyed. Throws std::bad_alloc.
  template <class F>
  bool post(F function) {
    return executor_.post(std::move(function));
  }
  /// For CallTimer.
  void on_timer();

 private:
  friend class CompletionQueue;

  Dispatcher(const asio::any_io_executor& executor, const WorkerOptions& worker, std::optional<std::size_t> max_queued,
             PoisonPolicy poison)
      : executor_(executor),
        admission_(worker, max_queued),
        records_(*this, executor_.registry(), poison),
        sender_(*this, records_, scheduler_, completions_, worker.spin) {}

  void notify_if_unawaited() {
    if (!unawaited_event_ || queued() != 0 || records_.ledger.awaited() != 0) return;
    std::exchange(unawaited_event_, nullptr)->set();
  }
  void submit_or_throw(const std::shared_ptr<Call>& call, const CallOptions& options, Clock::time_point now);
  /// `todo`: what step() has answered for this event.
  bool end_in_flight(Call& call, CallEvent event, CallStep todo);
  bool end_for_caller(Call& call, CallEvent event);
  void cancel_in_worker(Call& call, CancelReason reason) noexcept;
  inline void context_destroyed() noexcept override;

  const ForkEpoch epoch_;
  std::mutex mutex_;
  BoundExecutor executor_;  // closed once the context is destroyed
  CallAdmission admission_;
  std::shared_ptr<AsyncEvent> unawaited_event_;  // null: nobody waits for it
  std::uint64_t calls_ = 0;
  CallPool pool_;
  CallRecords records_;
  CallScheduler scheduler_{records_.keyed};
  AwaitedCalls awaited_;
  CompletionQueue completions_;
  CallSender sender_;
  CallRecovery recovery_{*this, records_, scheduler_, sender_, admission_};
};

/// While it exists, the results of a worker are read: frames for a busy worker are gathered until it is destroyed. The
/// mutex is held all the time.
class ResultBatch {
 public:
  explicit ResultBatch(Dispatcher& dispatcher) noexcept : dispatcher_(dispatcher) { dispatcher_.begin_batch(); }
  ~ResultBatch() { dispatcher_.end_batch(); }
  ResultBatch(const ResultBatch&) = delete;
  ResultBatch& operator=(const ResultBatch&) = delete;

 private:
  Dispatcher& dispatcher_;
};

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/detail/call/call.ipp>
#endif
#include <drover/pool/detail/call/call_recovery.ipp>
#include <drover/pool/detail/call/call_sender.ipp>
#include <drover/pool/detail/call/call_timer.ipp>
#include <drover/pool/detail/call/completion_queue.ipp>
#include <drover/pool/detail/call/dispatcher.ipp>
