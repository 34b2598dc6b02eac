#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/error.hpp>
#include <asio/execution_context.hpp>
#include <asio/query.hpp>
#include <asio/system_error.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/context/executor_ref.hpp>
#include <drover/detail/resource_pool/disposal.hpp>
#include <drover/detail/resource_pool/entry.hpp>
#include <drover/detail/resource_pool/factory.hpp>
#include <drover/detail/resource_pool/idle_timer.hpp>
#include <drover/detail/resource_pool/key_table.hpp>
#include <drover/detail/resource_pool/state_machine.hpp>
#include <drover/detail/resource_pool/wait.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

struct SteadyTime {
  using Timer = IdleTimer;
  static Clock::time_point now() noexcept { return Clock::now(); }
};

/// The state machine, its lock, and the execution of its decisions: runs factories and finalizers, delivers events,
/// expires idle values. A runner lives as long as the pool and its entries.
template <class Key, class Value, class Lookup, class Time>
class Runner : public std::enable_shared_from_this<Runner<Key, Value, Lookup, Time>>,
               public TimerTarget,
               private Disposer {
  friend resource_pool::Entry<Key, Value, Runner>;

 public:
  using Entry = resource_pool::Entry<Key, Value, Runner>;
  using Reference = resource_pool::Reference<Entry>;

  struct Callbacks {
    std::unique_ptr<Factory<Key, Value>> factory;
    std::function<asio::awaitable<void>(Value&)> finalizer;
    std::function<void(std::exception_ptr)> on_error;
    std::function<void(EventKind, const Key&, const std::exception_ptr&)> on_event;
  };

  Runner(const asio::any_io_executor& executor, Rules rules, Callbacks callbacks)
      : machine_(rules),
        callbacks_(std::move(callbacks)),
        executor_(executor),
        timer_(asio::query(executor, asio::execution::context), executor_.registry()) {}

  /// The pool is destroyed. Running factories and finalizers continue, nothing new begins, leases stay valid.
  void close() {
    {
      std::unique_lock lock(mutex_);
      machine_.close();
      if (machine_.entries() > 0) self_ = this->shared_from_this();
      timer_.cancel();
      settle(lock);
    }
    // A pool that is part of a value is destroyed before the rest of that value, together with its own values.
    Disposal::run_queued_work();
  }

  void release(Entry& entry) noexcept {
    if (released_shared(entry)) return;
    const auto now = clock();
    std::unique_lock lock(mutex_);
    machine_.release(entry, now);
    settle(lock);
  }

  asio::awaitable<void> release_and_wait(Entry& entry) {
    if (released_shared(entry)) return done();
    std::shared_ptr<AsyncEvent> ended;
    const auto now = clock();
    {
      std::unique_lock lock(mutex_);
      machine_.release(entry, now);
      if (entry.state == State::finalizing && !entry.cleared) ended = machine_.end_event(entry);
      settle(lock);
    }
    return done_after(std::move(ended));
  }

  void discard(Entry& entry) {
    std::unique_lock lock(mutex_);
    machine_.discard(entry);
    settle(lock);
  }

 protected:
  Clock::time_point clock() const noexcept {
    return machine_.ttl() == Duration::zero() ? Clock::time_point{} : Time::now();
  }

  /// Releases a reference without the lock, unless it is the last one. Returns whether it did.
  static bool released_shared(Entry& entry) noexcept {
    auto references = entry.references.load(std::memory_order_relaxed);
    while (references > 1)
      if (entry.references.compare_exchange_weak(references, references - 1, std::memory_order_release,
                                                 std::memory_order_relaxed))
        return true;
    return false;
  }

  /// Ends every step: carries out its consequences without the lock.
  void settle(std::unique_lock<std::mutex>& lock) {
    if (!armed_) arm();
    if (machine_.has_work()) carry_out(lock);
  }

  using StateMachine = resource_pool::StateMachine<Entry, Lookup>;

  virtual ~Runner() = default;

  mutable std::mutex mutex_;
  StateMachine machine_;

 private:
  /// A factory or finalizer that is to run, or runs. If the context is destroyed first, the job is destroyed before it
  /// has ended.
  class Job {
   public:
    Job(std::shared_ptr<Runner> c, Entry& n) : runner(std::move(c)), entry(&n) {}
    Job(const Job&) = delete;
    Job& operator=(const Job&) = delete;
    ~Job() {
      if (entry != nullptr) runner->abandon(*entry);
    }

    const std::shared_ptr<Runner> runner;
    Entry* entry;
  };

  /// If the context is destroyed first, the delivery is destroyed before it has begun.
  struct EventDelivery {
    explicit EventDelivery(std::shared_ptr<Runner> c) : runner(std::move(c)) {}
    EventDelivery(const EventDelivery&) = delete;
    EventDelivery& operator=(const EventDelivery&) = delete;
    ~EventDelivery() {
      if (!begun) runner->drop_events();
    }

    const std::shared_ptr<Runner> runner;
    bool begun = false;
  };

  void arm() {
    if (const Deadline due = machine_.next_due()) {
      armed_ = true;
      timer_.arm(*due, this->weak_from_this());
    }
  }

  void carry_out(std::unique_lock<std::mutex>& lock) {
    const std::shared_ptr<Runner> self = this->shared_from_this();
    auto work = machine_.take_work();
    lock.unlock();
    const Disposal disposal;
    if (work.to_delete != nullptr) Disposal::destroy_later(*work.to_delete);
    if (work.deliver_events) post_delivery(self);
    while (work.to_run != nullptr) {
      auto& entry = static_cast<Entry&>(*std::exchange(work.to_run, work.to_run->next_task));
      start(entry);
    }
    Disposal::set_later(std::move(work.to_set));
  }

  /// An entry that is being finalized and has no finalizer, or else a chain of entries in State::removed.
  void destroy(Disposable& disposable) noexcept override {
    auto* entry = static_cast<Entry*>(&disposable);
    if (entry->state == State::finalizing) {
      destroy_value(*entry);
      return Disposal::report_end_later(*entry);
    }
    std::size_t deleted = 0;
    for (; entry != nullptr; ++deleted) delete std::exchange(entry, entry->chain);
    std::shared_ptr<Runner> last;
    const std::lock_guard lock(mutex_);
    machine_.deleted(deleted);
    if (machine_.entries() == 0) last = std::move(self_);
  }

  void report_end(Disposable& disposable) noexcept override {
    std::unique_lock lock(mutex_);
    machine_.finalizer_ended(static_cast<Entry&>(disposable), nullptr);
    settle(lock);
  }

  static void destroy_value(Entry& entry) noexcept {
    // A lease that outlived clear() may still use it.
    if (entry.references.load(std::memory_order_acquire) == 0) entry.value.reset();
  }

  void start(Entry& entry) {
    if (entry.state == State::finalizing && !callbacks_.finalizer) return Disposal::destroy_later(entry);
    const auto job = std::make_shared<Job>(this->shared_from_this(), entry);
    executor_.post([job] { job->runner->run(job); });
  }

  /// On the pool's executor.
  void run(std::shared_ptr<Job> job) {
    {
      const std::lock_guard lock(mutex_);
      if (machine_.closed()) return;  // no factory or finalizer is called any more
    }
    Entry& entry = *job->entry;
    if (entry.state == State::finalizing) return spawn(run_finalizer(std::move(job)));
    if (callbacks_.factory->is_coroutine()) return spawn(run_maker(std::move(job)));
    std::unique_ptr<Value> value;
    std::exception_ptr error;
    try {
      value = callbacks_.factory->make_now(entry.key);
    } catch (...) {
      error = std::current_exception();
    }
    job->entry = nullptr;
    made(entry, std::move(value), std::move(error));
  }

  void spawn(asio::awaitable<void> coroutine) {
    asio::co_spawn(executor_.executor(), std::move(coroutine), asio::detached);
  }

  static asio::awaitable<void> run_maker(std::shared_ptr<Job> job) {
    std::unique_ptr<Value> value;
    std::exception_ptr error;
    try {
      value = co_await job->runner->callbacks_.factory->make(job->entry->key);
    } catch (...) {
      error = std::current_exception();
    }
    Entry& entry = *std::exchange(job->entry, nullptr);
    job->runner->made(entry, std::move(value), std::move(error));
  }

  static asio::awaitable<void> run_finalizer(std::shared_ptr<Job> job) {
    std::exception_ptr error;
    try {
      co_await job->runner->callbacks_.finalizer(*job->entry->value);
    } catch (...) {
      error = std::current_exception();
    }
    Entry& entry = *std::exchange(job->entry, nullptr);
    job->runner->finished(entry, std::move(error));
  }

  void made(Entry& entry, std::unique_ptr<Value> value, std::exception_ptr error) {
    const auto now = clock();
    std::unique_lock lock(mutex_);
    if (!error) {
      machine_.factory_succeeded(entry, std::move(value), now);
      return settle(lock);
    }
    const bool unseen = machine_.factory_failed(entry, error) && !machine_.closed();
    settle(lock);
    if (lock.owns_lock()) lock.unlock();
    if (unseen) report(error);
  }

  void finished(Entry& entry, std::exception_ptr error) {
    // Before the end is reported to any waiter.
    {
      const Disposal disposal;
      destroy_value(entry);
      Disposal::run_queued_work();
    }
    std::unique_lock lock(mutex_);
    if (error && !machine_.closed()) {
      lock.unlock();
      report(error);
      lock.lock();
    }
    machine_.finalizer_ended(entry, std::move(error));
    settle(lock);
  }

  /// The context or the pool is destroyed, so the job will never end.
  void abandon(Entry& entry) {
    std::unique_lock lock(mutex_);
    if (entry.state == State::creating)
      machine_.factory_failed(entry, std::make_exception_ptr(asio::system_error(asio::error::operation_aborted)));
    else
      machine_.finalizer_ended(entry, nullptr);
    settle(lock);
  }

  void report(const std::exception_ptr& error) noexcept {
    if (!callbacks_.on_error) return;
    try {
      callbacks_.on_error(error);
    } catch (...) {  // there is nowhere else to report it
    }
  }

  // Events --------------------------------------------------------------------------------------

  /// On the pool's executor, one delivery at a time, so that events arrive in order on any number of threads.
  void deliver_events() {
    std::unique_lock lock(mutex_);
    PendingEvents<Entry> events;
    for (;;) {
      events = machine_.next_events(events);
      if (events.empty()) break;
      lock.unlock();
      for (const auto& event : events) {
        try {
          callbacks_.on_event(event.kind, event.entry->key, event.error);
        } catch (...) {
        }
      }
      lock.lock();
    }
    settle(lock);
  }

  void post_delivery(const std::shared_ptr<Runner>& self) {
    const auto telling = std::make_shared<EventDelivery>(self);
    executor_.post([telling] {
      telling->begun = true;
      telling->runner->deliver_events();
    });
  }

  void drop_events() {
    std::unique_lock lock(mutex_);
    machine_.drop_events();
    settle(lock);
  }

  // Expiry --------------------------------------------------------------------------------------

  void timer_fired() override {
    std::unique_lock lock(mutex_);
    armed_ = false;
    const Deadline due = machine_.next_due();
    if (!due || *due > Time::now()) return settle(lock);
    armed_ = true;  // until the due entries have been processed
    lock.unlock();
    const auto self = this->shared_from_this();
    executor_.post([self] { self->expire_due(); });
  }

  void expire_due() {
    const auto now = Time::now();
    for (bool more = true; more;) {
      std::unique_lock lock(mutex_);
      more = machine_.expire_due(now, 64);
      armed_ = more;
      settle(lock);
    }
  }

  bool armed_ = false;  // a wait is pending, or its due entries are being processed
  Callbacks callbacks_;
  std::shared_ptr<Runner> self_;  // set while the pool is destroyed and entries remain
  ContextExecutorRef executor_;
  typename Time::Timer timer_;
};

}}}}  // namespace drover::v1::detail::resource_pool
