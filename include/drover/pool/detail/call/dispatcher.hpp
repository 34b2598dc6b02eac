#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/query.hpp>
#include <asio/steady_timer.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/error.hpp>
#include <drover/os/detail/reaper_thread.hpp>
#include <drover/pool/balancer.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/call_queue.hpp>
#include <drover/pool/detail/worker/data_link.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Hands calls out to workers: the queue of those that wait, the deadlines of all, and the rule that each call ends
/// exactly once. A LocalWorker has one with one link, a pool one with a lane for each worker. One mutex guards it, its
/// links and the workers behind them; user code never runs under it.
class Dispatcher final : public ContextBound, public std::enable_shared_from_this<Dispatcher> {
 public:
  static std::shared_ptr<Dispatcher> create(const asio::any_io_executor& executor, const WorkerOptions& worker,
                                            std::optional<std::size_t> max_queued) {
    std::shared_ptr<Dispatcher> made(new Dispatcher(executor, worker, max_queued));
    const auto held = made->registry_->lock();
    if (!made->registry_->closed()) {
      made->io_.emplace(executor);
      made->registry_->add(made);
    }
    return made;
  }

  /// A forked copy of the program has one thread, and may have been made while another one held the mutex.
  std::unique_lock<std::mutex> lock() {
    return foreign() ? std::unique_lock(mutex_, std::defer_lock) : std::unique_lock(mutex_);
  }
  /// In a forked copy of the program: nothing is sent to workers that are not its own.
  bool foreign() const noexcept { return epoch_ != ReaperThread::epoch(); }
  const std::shared_ptr<ContextRegistry>& registry() const noexcept { return registry_; }

  // ---- the caller's side; without the mutex ----

  /// A fresh call, mostly one that has been used before.
  std::shared_ptr<Call> take_call() {
    {
      const auto held = lock();
      if (!spare_.empty()) {
        auto call = std::move(spare_.back());
        spare_.pop_back();
        return call;
      }
    }
    auto call = std::make_shared<Call>();
    call->dispatcher = weak_from_this();
    call->spare_memory = spare_memory(max_message_size_);
    return call;
  }

  /// The call is over and nobody refers to it any more.
  void recycle(std::shared_ptr<Call> call) {
    if (call.use_count() != 1) return;
    const auto held = lock();
    if (call->state != CallState::ended || spare_.size() >= max_spare) return;
    call->reset(max_spare_bytes);
    spare_.push_back(std::move(call));
  }

  /// Takes the encoded call on: sends it, lets it wait, or ends it there and then.
  void submit(const std::shared_ptr<Call>& call, const CallOptions& options);

  /// Ends a call from this side. Its caller, if it waits, is resumed by a post with `failure`.
  void end(Call& call, CallEvent event, std::exception_ptr failure);

  /// The coroutine that awaits the call is there: puts its receiver in. False if its context is gone.
  bool attach(const std::shared_ptr<Call>& call, const asio::any_io_executor& executor, Emplacement& emplacement);

  /// The owner is gone.
  void close() noexcept {
    context_destroyed();
    std::shared_ptr<ContextBound> self;
    const auto held = registry_->lock();
    self = registry_->remove(*this);
  }

  // ---- the workers' side; with the mutex held, unless noted ----

  void add_link(DataLink& link) { links_.push_back(&link); }
  void remove_link(DataLink& link) noexcept { std::erase(links_, &link); }

  /// Hands waiting calls to free places.
  void pump();

  /// New calls fail with this from now on; nullptr takes them again. `keeps_queue`: those that wait are still sent.
  void refuse(Cause cause, bool keeps_queue = false) noexcept {
    refusal_ = std::move(cause);
    keeps_queue_ = keeps_queue;
  }
  const Cause& refusal() const noexcept { return refusal_; }
  /// Set when no caller waits for a call any more, neither for its turn nor for its answer; at once if none does.
  void notify_when_unawaited(std::shared_ptr<AsyncEvent> event) {
    when_unawaited_ = std::move(event);
    look_if_unawaited();
  }

  /// Takes all waiting calls out, to be ended with fail() once the mutex is free.
  CallQueue drop_queue() noexcept;

  /// While it is open, frames for a worker that has something to do are gathered; the mutex is held all the time.
  class Batch {
   public:
    explicit Batch(Dispatcher& dispatcher) noexcept : dispatcher_(dispatcher) { dispatcher_.batch_ = true; }
    ~Batch() {
      dispatcher_.batch_ = false;
      dispatcher_.flush_gathered();
    }
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;

   private:
    Dispatcher& dispatcher_;
  };

  /// The worker has gone. Gives the place back, hands it to the next call in line and tells whether the caller is to be
  /// told: with finish(), once the mutex is free.
  bool settle(Call& call, CallEvent event);

  /// The lane's worker ends by itself, and has begun no call after this one: those wait for another worker again,
  /// before all others. If new calls are refused they end with that. Dispatcher::deliver() has to follow.
  void take_back(DataLink& link, std::uint64_t last_begun);
  /// The call's RESULT is there, and has just been given out by this reader. Its caller is told by deliver().
  void answer(const std::shared_ptr<Call>& call, Outcome outcome, FrameReader& reader);

  /// Without the mutex: tells the callers of what has been answered. `inside`, which is on the dispatcher's executor,
  /// they are resumed there and then, one after the other; but none has to wait for another one that takes its time if
  /// the executor has more threads than this. Otherwise by a post. True if some are still to be resumed.
  bool deliver(bool inside);

  std::size_t queued() const noexcept { return queue_.size(); }
  std::size_t in_flight() const noexcept {
    std::size_t count = 0;
    for (const DataLink* link : links_) count += link->slots().in_flight();
    return count;
  }
  std::uint64_t calls() const noexcept { return calls_; }
  std::uint64_t served() const noexcept { return served_; }

  /// Without the mutex: tells the caller of a call that has ended, by a post.
  static void finish(std::shared_ptr<Call> call, std::exception_ptr failure);
  /// The same for calls that have failed here.
  static void fail(CallQueue calls, const Cause& cause) {
    while (!calls.empty()) finish(calls.pop(), failure_of(cause));
  }

  /// Nothing is left to be timed: lets the timer go, so that it does not keep the context busy.
  void disarm() noexcept {
    if (io_ && deadlines_.empty()) {
      armed_at_.reset();
      io_->timer.cancel();
    }
  }

 private:
  static constexpr std::size_t max_spare = 256;
  static constexpr std::size_t max_spare_bytes = 64 * 1024;

  Dispatcher(const asio::any_io_executor& executor, const WorkerOptions& worker, std::optional<std::size_t> max_queued)
      : registry_(ContextRegistry::of(asio::query(executor, asio::execution::context))),
        tags_(worker.tags.value()),
        max_message_size_(worker.max_message_size),
        max_queued_(max_queued) {}

  static constinit inline thread_local const Dispatcher* delivering = nullptr;  // this thread, for which one

  struct Io {  // refers to the context
    explicit Io(const asio::any_io_executor& ex) : executor(ex), timer(ex) {}
    asio::any_io_executor executor;
    asio::steady_timer timer;
  };

  void look_if_unawaited() {
    if (when_unawaited_ && queue_.empty() && !has_running()) std::exchange(when_unawaited_, nullptr)->set();
  }
  bool has_running() const noexcept;
  void send(std::shared_ptr<Call> call, DataLink& link);
  void resume_later(const std::shared_ptr<Call>& call);
  bool step_to_end(Call& call, CallEvent event);
  void flush_gathered();
  void stand_by();
  std::optional<std::exception_ptr> refusal_of(const Call& call, const CallOptions& options) const;
  DataLink* choose();
  void time(Call& call, Clock::time_point at);
  void arm();
  void on_timer();
  void context_destroyed() noexcept override;

  const unsigned epoch_ = ReaperThread::epoch();
  const std::shared_ptr<ContextRegistry> registry_;
  const std::set<std::string> tags_;
  const std::size_t max_message_size_;
  const std::optional<std::size_t> max_queued_;

  std::mutex mutex_;
  std::optional<Io> io_;  // empty once the context is gone
  Cause refusal_;
  bool keeps_queue_ = false;
  std::shared_ptr<AsyncEvent> when_unawaited_;  // null: nobody waits for that
  CallQueue queue_;
  CallQueue ready_, elsewhere_;  // answered, and to be resumed on this executor or on another one
  bool standing_by_ = false;     // a further deliver() has been posted
  bool batch_ = false;
  bool gathered_ = false;  // some lane is dirty
  Deadlines<Call> deadlines_;
  Deadline armed_at_;
  std::vector<DataLink*> links_;
  std::vector<Load> loads_;  // kept for its memory
  std::size_t turn_ = 0;
  std::vector<std::shared_ptr<Call>> spare_;
  std::uint64_t calls_ = 0;
  std::uint64_t served_ = 0;
};

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/detail/call/call.ipp>
#endif
#include <drover/pool/detail/call/dispatcher.ipp>
