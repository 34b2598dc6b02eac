#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/error.hpp>
#include <asio/execution_context.hpp>
#include <asio/query.hpp>
#include <asio/system_error.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/resource_pool/disposal.hpp>
#include <drover/detail/resource_pool/entry.hpp>
#include <drover/detail/resource_pool/idle_timer.hpp>
#include <drover/detail/resource_pool/key_table.hpp>
#include <drover/detail/resource_pool/runner.hpp>
#include <drover/detail/resource_pool/state_machine.hpp>
#include <drover/detail/resource_pool/wait.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// What a ResourcePool and its leases refer to: the state machine, its lock, and what carries out its decisions. It
/// lives until the pool and all entries are destroyed.
///
/// Each operation takes the lock, makes a transition of the state machine, and calls carry_out().
template <class Key, class Value, class Hash, class Equal, class Time = SteadyTime>
class Impl final : public std::enable_shared_from_this<Impl<Key, Value, Hash, Equal, Time>>,
                   public TimerTarget,
                   public RunnerOwner<Entry<Key, Value, Impl<Key, Value, Hash, Equal, Time>>>,
                   private Disposer {
 public:
  using Entry = resource_pool::Entry<Key, Value, Impl>;
  using Reference = resource_pool::Reference<Entry>;
  using Callbacks = resource_pool::Callbacks<Key, Value>;

  Impl(const asio::any_io_executor& executor, Rules rules, Callbacks callbacks)
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

  // Keys ----------------------------------------------------------------------------------------

  /// A reference if the value is leased or idle; null otherwise.
  template <class K>
  Reference try_acquire(const K& key) {
    const std::size_t hash = lookup_.hash(key);
    std::unique_lock lock(mutex_);
    Entry* const entry = machine_.find(lookup_, hash, key);
    if (entry == nullptr || (entry->state != State::leased && entry->state != State::idle)) return {};
    machine_.acquire(*entry);
    carry_out(lock);
    return Reference(*entry);
  }

  template <class Lease, class K>
  asio::awaitable<Lease> acquire(K&& key) {
    std::shared_ptr<AsyncEvent> ready;
    Reference reference = begin_acquire(std::forward<K>(key), ready);
    if (!ready) return done_with(Lease(std::move(reference)));
    return acquire_after<Lease>(std::move(reference), std::move(ready));
  }

  template <class K>
  asio::awaitable<void> expire(const K& key) {
    const std::size_t hash = lookup_.hash(key);
    std::shared_ptr<AsyncEvent> ended;
    {
      std::unique_lock lock(mutex_);
      Entry* const entry = machine_.find(lookup_, hash, key);
      if (entry != nullptr && machine_.expire(*entry)) ended = machine_.end_event(*entry);
      carry_out(lock);
    }
    return done_after(std::move(ended));
  }

  template <class K>
  asio::awaitable<void> clear(const K& key) {
    const std::size_t hash = lookup_.hash(key);
    std::shared_ptr<AsyncEvent> ended;
    {
      std::unique_lock lock(mutex_);
      Entry* const entry = machine_.find(lookup_, hash, key);
      if (entry == nullptr) throw std::out_of_range("drover::ResourcePool::clear: there is no such key");
      ended = machine_.end_event(*entry);
      machine_.clear(*entry);
      carry_out(lock);
    }
    return done_after(std::move(ended));
  }

  asio::awaitable<void> clear() {
    std::shared_ptr<AsyncEvent> ended;
    {
      std::unique_lock lock(mutex_);
      machine_.clear();
      ended = machine_.all_ended_event();
      carry_out(lock);
    }
    return done_after(std::move(ended));
  }

  Counts counts() const {
    const std::lock_guard lock(mutex_);
    return machine_.counts();
  }

  std::vector<Key> pending() const {
    std::vector<Key> keys;
    const std::lock_guard lock(mutex_);
    keys.reserve(machine_.counts().pending);
    machine_.for_each_pending([&](const Entry& entry) { keys.push_back(entry.key); });
    return keys;
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
    std::shared_ptr<AsyncEvent> ended;
    const auto now = time_for_ttl();
    {
      std::unique_lock lock(mutex_);
      machine_.release(entry, now);
      if (entry.state == State::finalizing && !entry.cleared) ended = machine_.end_event(entry);
      carry_out(lock);
    }
    return done_after(std::move(ended));
  }

  void discard(Entry& entry) {
    std::unique_lock lock(mutex_);
    machine_.discard(entry);
    carry_out(lock);
  }

 private:
  friend Entry;  // converts its Disposer to an Impl

  // Acquire -------------------------------------------------------------------------------------

  /// Returns a reference. Sets `ready` to the event to wait for before its value can be used. Leaves it null if the
  /// value can be used now.
  template <class K>
  Reference begin_acquire(K&& key, std::shared_ptr<AsyncEvent>& ready) {
    const std::size_t hash = lookup_.hash(key);
    {
      std::unique_lock lock(mutex_);
      if (Entry* const found = machine_.find(lookup_, hash, key)) {
        if (Entry* const entry = machine_.acquire(*found)) {
          Reference reference(*entry);
          if (entry->state != State::leased) ready = entry->waiters->ready;
          carry_out(lock);
          return reference;
        }
      }
    }
    auto fresh = std::make_unique<Entry>(Key(std::forward<K>(key)), hash, *this);  // allocated without the lock
    fresh->waiters = std::make_unique<Waiters<Entry>>();
    fresh->waiters->ready = std::make_shared<AsyncEvent>();
    std::unique_lock lock(mutex_);
    if (machine_.closed()) throw asio::system_error(asio::error::operation_aborted);
    Entry* const found = machine_.find(lookup_, hash, fresh->key);  // another thread may have inserted it meanwhile
    Entry* entry = found != nullptr ? machine_.acquire(*found) : nullptr;
    if (entry == nullptr) {
      if (found != nullptr)
        machine_.queue_after(*found, *fresh);
      else
        machine_.insert(*fresh);
      entry = fresh.release();
    }
    Reference reference(*entry);
    if (entry->state != State::leased) ready = entry->waiters->ready;
    carry_out(lock);
    return reference;
  }

  /// Acquires a key whose value has to be waited for. The reference keeps this object alive.
  template <class Lease>
  static asio::awaitable<Lease> acquire_after(Reference reference, std::shared_ptr<AsyncEvent> ready) {
    for (;;) {
      co_await done_after(ready);
      Impl& impl = reference.get()->owner();
      if (impl.is_ready(*reference.get())) break;
      // The value was cleared or discarded before this coroutine was resumed.
      const Key key = reference.get()->key;
      ready.reset();
      reference = impl.begin_acquire(key, ready);
      if (!ready) break;
    }
    Lease lease(std::move(reference));
    co_return std::move(lease);
  }

  /// For a coroutine that has waited: true if it can use the value, false if it has to acquire the key again. Throws
  /// the exception of the factory.
  bool is_ready(const Entry& entry) const {
    std::exception_ptr error;
    {
      const std::lock_guard lock(mutex_);
      if (entry.state == State::leased) return true;
      if (entry.waiters) error = entry.waiters->error;
    }
    if (error) std::rethrow_exception(error);
    return false;
  }

  // What the state machine has decided ----------------------------------------------------------

  /// To be called after each transition. Unlocks if there are actions to perform.
  void carry_out(std::unique_lock<std::mutex>& lock) {
    if (!armed_) arm_timer();
    if (machine_.has_actions()) perform_actions(lock);
  }

  void perform_actions(std::unique_lock<std::mutex>& lock) {
    const std::shared_ptr<Impl> self = this->shared_from_this();
    auto actions = machine_.take_actions();
    lock.unlock();
    const Disposal disposal;
    if (actions.to_delete != nullptr) Disposal::destroy_later(*actions.to_delete);
    if (actions.deliver_events) runner_.deliver_events(self);
    while (actions.to_run != nullptr) {
      auto& entry = static_cast<Entry&>(*std::exchange(actions.to_run, actions.to_run->next_task));
      if (entry.state != State::finalizing)
        runner_.run_factory(self, entry);
      else if (runner_.has_finalizer())
        runner_.run_finalizer(self, entry);
      else
        Disposal::destroy_later(entry);
    }
    Disposal::set_later(std::move(actions.to_set));
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
    std::shared_ptr<Impl> self;
    const std::lock_guard lock(mutex_);
    machine_.deleted(deleted);
    if (machine_.entries() == 0) self = std::move(self_);  // released after the lock
  }

  void report_end(Disposable& disposable) noexcept override {
    std::unique_lock lock(mutex_);
    machine_.finalizer_ended(static_cast<Entry&>(disposable), nullptr);
    carry_out(lock);
  }

  static void destroy_value(Entry& entry) noexcept {
    // A lease that outlived clear() may still use it.
    if (entry.references.load(std::memory_order_acquire) == 0) entry.value.reset();
  }

  // What the runner reports ---------------------------------------------------------------------

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
    std::unique_lock lock(mutex_);
    if (error && !machine_.closed()) {
      lock.unlock();
      runner_.report_error(error);
      lock.lock();
    }
    machine_.finalizer_ended(entry, std::move(error));
    carry_out(lock);
  }

  void abandoned(Entry& entry) override {
    std::unique_lock lock(mutex_);
    if (entry.state == State::creating)
      machine_.factory_failed(entry, std::make_exception_ptr(asio::system_error(asio::error::operation_aborted)));
    else
      machine_.finalizer_ended(entry, nullptr);
    carry_out(lock);
  }

  PendingEvents<Entry> next_events(const PendingEvents<Entry>& delivered) override {
    std::unique_lock lock(mutex_);
    auto events = machine_.next_events(delivered);
    if (events.empty()) carry_out(lock);
    return events;
  }

  void drop_events() override {
    std::unique_lock lock(mutex_);
    machine_.drop_events();
    carry_out(lock);
  }

  // Expiry --------------------------------------------------------------------------------------

  /// The time from which a ttl counts. Does not read the clock if there is no ttl.
  Clock::time_point time_for_ttl() const noexcept {
    return machine_.ttl() == Duration::zero() ? Clock::time_point{} : Time::now();
  }

  void arm_timer() {
    if (const Deadline due = machine_.next_due()) {
      armed_ = true;
      timer_.arm(*due, this->weak_from_this());
    }
  }

  void timer_fired() override {
    std::unique_lock lock(mutex_);
    armed_ = false;
    const Deadline due = machine_.next_due();
    if (!due || *due > Time::now()) return carry_out(lock);
    armed_ = true;  // until the due entries have been processed
    lock.unlock();
    const auto self = this->shared_from_this();
    runner_.post([self] { self->expire_due(); });
  }

  void expire_due() {
    const auto now = Time::now();
    for (bool more = true; more;) {
      std::unique_lock lock(mutex_);
      more = machine_.expire_due(now, 64);
      armed_ = more;
      carry_out(lock);
    }
  }

  [[no_unique_address]] Lookup<Key, Hash, Equal> lookup_;
  mutable std::mutex mutex_;  // guards machine_, armed_, self_ and timer_
  StateMachine<Entry, Lookup<Key, Hash, Equal>> machine_;
  bool armed_ = false;          // a wait of the timer is pending, or its due entries are being processed
  std::shared_ptr<Impl> self_;  // set while the pool is destroyed and entries remain
  Runner<Entry> runner_;
  typename Time::Timer timer_;
};

}}}}  // namespace drover::v1::detail::resource_pool
