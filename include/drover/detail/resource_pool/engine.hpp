#pragma once

#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/error.hpp>
#include <asio/execution_context.hpp>
#include <asio/query.hpp>
#include <asio/system_error.hpp>

#include <drover/detail/resource_pool/disposal.hpp>
#include <drover/detail/resource_pool/entry.hpp>
#include <drover/detail/resource_pool/event_chain.hpp>
#include <drover/detail/resource_pool/idle_timer.hpp>
#include <drover/detail/resource_pool/runner.hpp>
#include <drover/detail/resource_pool/spin_mutex.hpp>
#include <drover/detail/resource_pool/state_machine.hpp>
#include <drover/detail/resource_pool/wait.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The state machine of a ResourcePool, its lock, and what carries out its decisions. It lives until the pool and all
/// entries are destroyed.
///
/// Each operation takes the lock, makes a transition of the state machine, and calls carry_out(). What may throw comes
/// before the transition: the destructor of a Reference takes the lock, and a transition must be carried out.
template <class Key, class Value, class Lookup, class Time>
class Engine : public std::enable_shared_from_this<Engine<Key, Value, Lookup, Time>>,
               public TimerTarget,
               public RunnerOwner<Entry<Key, Value, Engine<Key, Value, Lookup, Time>>>,
               private Disposer {
 public:
  using Entry = resource_pool::Entry<Key, Value, Engine>;
  using Reference = resource_pool::Reference<Entry>;
  using Callbacks = resource_pool::Callbacks<Key, Value>;

  Engine(const asio::any_io_executor& executor, Rules rules, Callbacks callbacks)
      : machine_(rules),
        runner_(executor, std::move(callbacks)),
        timer_(asio::query(executor, asio::execution::context), runner_.registry()) {}

  /// The pool is destroyed. Running factories and finalizers continue, nothing new begins, leases stay valid.
  void close() {
    {
      std::unique_lock lock(mutex_);
      machine_.close();
      if (machine_.entries() > 0) self_ = this->shared_from_this();
      timer_.cancel();
      carry_out(lock);
    }
    // A pool that is part of a value is destroyed before the rest of that value, together with its own values.
    Disposal::run_queued_work();
  }

  // References ----------------------------------------------------------------------------------

  void release(Entry& entry) noexcept {
    if (entry.release_shared()) return;
    const auto now = time_for_ttl();
    std::unique_lock lock(mutex_);
    machine_.release(entry, now);
    carry_out(lock);
  }

  asio::awaitable<void> release_and_wait(Entry& entry) {
    if (entry.release_shared()) return done();
    std::shared_ptr<ChainedEvent> ended;
    const auto now = time_for_ttl();
    {
      std::unique_lock lock(mutex_);
      machine_.release(entry, now);
      try {
        if (entry.state == State::finalizing && !entry.cleared) ended = machine_.end_event(entry);
      } catch (...) {  // the release cannot fail, only the waiting
        carry_out(lock);
        throw;
      }
      carry_out(lock);
    }
    return done_after(std::move(ended));
  }

  void discard(Entry& entry) {
    std::unique_lock lock(mutex_);
    machine_.discard(entry);
    carry_out(lock);
  }

 protected:
  virtual ~Engine() = default;  // virtual only because GCC warns of a class with friends otherwise

  /// To be called after each transition. Unlocks if there are actions to perform. What there is not enough memory for
  /// is tried again after the next transition.
  void carry_out(std::unique_lock<SpinMutex>& lock) noexcept {
    if (!armed_) arm_timer();
    if (machine_.has_actions()) perform_actions(lock);
  }

  mutable SpinMutex mutex_;  // guards all other members but runner_
  StateMachine<Entry, Lookup> machine_;

 private:
  friend Entry;  // converts its Disposer to an Engine

  // Carrying out the decisions of the state machine ---------------------------------------------

  void perform_actions(std::unique_lock<SpinMutex>& lock) noexcept {
    const std::shared_ptr<Engine> self = this->shared_from_this();
    auto actions = machine_.take_actions();
    lock.unlock();
    const Disposal disposal;
    if (actions.to_delete != nullptr) Disposal::destroy_later(*actions.to_delete);
    if (actions.deliver_events && !runner_.deliver_events(self)) retry_delivery();
    run_tasks(self, actions.to_run);
    Disposal::set_later(std::move(actions.to_set));
  }

  /// The factories and finalizers of a clear() that are left for a later handler. If the context is destroyed first,
  /// they run at once, which ends those that need it.
  struct Rest {
    Rest(std::shared_ptr<Engine> e, Disposable* t) noexcept : engine(std::move(e)), tasks(t) {}
    Rest(const Rest&) = delete;
    Rest& operator=(const Rest&) = delete;
    ~Rest() {
      const Disposal disposal;
      while (tasks != nullptr) engine->run_piece(engine, tasks);
    }

    const std::shared_ptr<Engine> engine;
    Disposable* tasks;
  };

  /// Other handlers run between the pieces, unless there is no memory for that.
  void run_tasks(const std::shared_ptr<Engine>& self, Disposable* tasks) noexcept {
    run_piece(self, tasks);
    if (tasks == nullptr) return;
    std::shared_ptr<Rest> rest;
    try {
      rest = std::make_shared<Rest>(self, tasks);
    } catch (...) {
      while (tasks != nullptr) run_piece(self, tasks);
      return;
    }
    (void)runner_.try_post([rest] {
      const Disposal disposal;
      rest->engine->run_tasks(rest->engine, std::exchange(rest->tasks, nullptr));
    });  // if this fails, the destructor of the rest runs them
  }

  /// Removes what it has run from `tasks`. Call it while there is a Disposal.
  void run_piece(const std::shared_ptr<Engine>& self, Disposable*& tasks) noexcept {
    for (std::size_t i = 0; i < piece && tasks != nullptr; ++i) {
      auto& entry = static_cast<Entry&>(*std::exchange(tasks, tasks->next_task));
      if (entry.state != State::finalizing)
        runner_.run_factory(self, entry);
      else if (runner_.has_finalizer())
        runner_.run_finalizer(self, entry);
      else
        Disposal::destroy_later(entry);
    }
  }

  /// An entry that is being finalized without a finalizer, or else a chain of entries in State::removed.
  void destroy(Disposable& disposable) noexcept override {
    auto* entry = static_cast<Entry*>(&disposable);
    if (entry->state == State::finalizing) {
      destroy_value(*entry);
      return Disposal::report_end_later(*entry);
    }
    std::size_t deleted = 0;
    for (; entry != nullptr; ++deleted) delete std::exchange(entry, entry->chain);
    std::shared_ptr<Engine> self;
    const std::lock_guard lock(mutex_);
    machine_.deleted(deleted);
    if (machine_.entries() == 0) self = std::move(self_);  // released after the lock
  }

  void report_end(Disposable& disposable) noexcept override {
    auto& entry = static_cast<Entry&>(disposable);
    std::exception_ptr error;
    if (entry.finalizer_failed_to_begin) error = std::make_exception_ptr(std::bad_alloc());
    end_finalizing(entry, std::move(error));
  }

  /// Without the lock.
  void end_finalizing(Entry& entry, std::exception_ptr error) {
    std::unique_lock lock(mutex_);
    if (error && !machine_.closed()) {
      lock.unlock();
      runner_.report_error(error);
      lock.lock();
    }
    machine_.finalizer_ended(entry, std::move(error));
    carry_out(lock);
  }

  void retry_delivery() noexcept {
    const std::lock_guard lock(mutex_);
    machine_.retry_delivery();
  }

  static void destroy_value(Entry& entry) noexcept {
    // A lease that outlived clear() may still use it.
    if (entry.references.load(std::memory_order_acquire) == 0) entry.value.reset();
  }

  // Reports of the runner -----------------------------------------------------------------------

  /// A destroyed pool calls no factory and no finalizer.
  bool may_run() override {
    const std::lock_guard lock(mutex_);
    return !machine_.closed();
  }

  void factory_ended(Entry& entry, std::unique_ptr<Value> value, std::exception_ptr error) override {
    const auto now = time_for_ttl();
    std::unique_lock lock(mutex_);
    if (!error) {
      machine_.factory_succeeded(entry, std::move(value), now);
      return carry_out(lock);
    }
    const bool unseen = machine_.factory_failed(entry, error) && !machine_.closed();
    carry_out(lock);
    if (lock.owns_lock()) lock.unlock();
    if (unseen) runner_.report_error(error);
  }

  void finalizer_ended(Entry& entry, std::exception_ptr error) override {
    // The value is destroyed before any waiting coroutine sees its end.
    {
      const Disposal disposal;
      destroy_value(entry);
      Disposal::run_queued_work();
    }
    end_finalizing(entry, std::move(error));
  }

  void abandoned(Entry& entry, std::exception_ptr error) noexcept override {
    if (error) {
      if (entry.state == State::creating) return factory_ended(entry, nullptr, std::move(error));
      entry.finalizer_failed_to_begin = true;
      const Disposal disposal;
      return Disposal::destroy_later(entry);
    }
    std::unique_lock lock(mutex_);
    if (entry.state == State::creating)
      machine_.factory_failed(entry, aborted());
    else
      machine_.finalizer_ended(entry, nullptr);
    carry_out(lock);
  }

  /// The exception of a factory that will not end.
  static std::exception_ptr aborted() noexcept {
    try {
      return std::make_exception_ptr(asio::system_error(asio::error::operation_aborted));
    } catch (...) {  // its text takes memory
      return std::current_exception();
    }
  }

  PendingEvents<Entry> next_events(const PendingEvents<Entry>& delivered) override {
    std::unique_lock lock(mutex_);
    auto events = machine_.next_events(delivered);
    if (events.empty()) carry_out(lock);
    return events;
  }

  void drop_events(const PendingEvents<Entry>& delivered) noexcept override {
    std::unique_lock lock(mutex_);
    machine_.drop_events(delivered);
    carry_out(lock);
  }

  // Expiry --------------------------------------------------------------------------------------

  /// The time from which a ttl counts. Does not read the clock if there is no ttl.
  Clock::time_point time_for_ttl() const noexcept {
    return machine_.ttl() == Duration::zero() ? Clock::time_point{} : Time::now();
  }

  void arm_timer() noexcept {
    if (const Deadline due = machine_.next_due()) arm_timer(*due);
  }

  void arm_timer(Clock::time_point at) noexcept {
    try {
      timer_.arm(at, this->weak_from_this());
      armed_ = true;
    } catch (...) {  // not enough memory
    }
  }

  void timer_fired() noexcept override {
    std::unique_lock lock(mutex_);
    armed_ = false;
    const Deadline due = machine_.next_due();
    if (!due || *due > Time::now()) return carry_out(lock);
    armed_ = true;  // until the due entries have been processed
    lock.unlock();
    post_expiry();
  }

  void timer_failed() noexcept override {
    const std::lock_guard lock(mutex_);
    armed_ = false;
    arm_timer(Time::now() + retry_after);
  }

  void post_expiry() noexcept {
    const auto self = this->shared_from_this();
    if (!runner_.try_post([self] { self->expire_due(); })) timer_failed();
  }

  /// Many values may be due at once. Other handlers run between the pieces.
  void expire_due() noexcept {
    std::unique_lock lock(mutex_);
    const bool more = machine_.expire_due(Time::now(), piece);
    armed_ = more;
    carry_out(lock);
    if (lock.owns_lock()) lock.unlock();
    if (more) post_expiry();
  }

  /// When expiry is tried again that failed for want of memory.
  static constexpr Duration retry_after = std::chrono::milliseconds(10);

  bool armed_ = false;            // a wait of the timer is pending, or its due entries are being processed
  std::shared_ptr<Engine> self_;  // set while the pool is destroyed and entries remain
  Runner<Entry> runner_;
  typename Time::Timer timer_;
};

}}}}  // namespace drover::v1::detail::resource_pool
