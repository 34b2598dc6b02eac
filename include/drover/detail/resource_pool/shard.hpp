#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include <asio/awaitable.hpp>
#include <asio/error.hpp>
#include <asio/system_error.hpp>

#include <drover/detail/resource_pool/actions.hpp>
#include <drover/detail/resource_pool/disposal.hpp>
#include <drover/detail/resource_pool/entry.hpp>
#include <drover/detail/resource_pool/event_chain.hpp>
#include <drover/detail/resource_pool/runner.hpp>
#include <drover/detail/resource_pool/spin_mutex.hpp>
#include <drover/detail/resource_pool/state_machine.hpp>
#include <drover/detail/resource_pool/wait.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

template <class Key, class Value, class Lookup, class Time>
class Engine;

/// Some of the keys of a pool, chosen by their hash: their state machine and its lock. Threads that use different keys
/// rarely meet. The shards of a pool share its Engine, which keeps them alive.
///
/// Each operation takes the lock, makes a transition of the state machine, and calls carry_out(). What may throw comes
/// before the transition: the destructor of a Reference takes the lock, and a transition must be carried out.
template <class Key, class Value, class Lookup, class Time>
class alignas(64) Shard final : public RunnerOwner<Entry<Key, Value, Shard<Key, Value, Lookup, Time>>>,
                                private Disposer {
 public:
  using Engine = resource_pool::Engine<Key, Value, Lookup, Time>;
  using Entry = resource_pool::Entry<Key, Value, Shard>;
  using Reference = resource_pool::Reference<Entry>;
  using Machine = StateMachine<Entry, Lookup>;
  using Lock = std::unique_lock<SpinMutex>;

  Shard(Engine& engine, const Rules& rules) noexcept : engine_(engine), machine_(rules) {}
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;
  virtual ~Shard() = default;  // virtual only because GCC warns of a class with friends otherwise

  Engine& engine() const noexcept { return engine_; }

  [[nodiscard]] Lock lock() const { return Lock(mutex_); }
  /// Releases a lock that was taken with lock().
  void unlock() const noexcept { mutex_.unlock(); }
  /// For a caller that holds the lock.
  Machine& machine() noexcept { return machine_; }
  const Machine& machine() const noexcept { return machine_; }

  /// To be called after each transition. Unlocks if there is anything to do. What there is not enough memory for is
  /// tried again after the next transition.
  void carry_out(Lock& lock) noexcept {
    const bool needs_timer = !engine_.timer_armed() && machine_.next_due();
    if (needs_timer || machine_.has_actions()) carry_out(lock, needs_timer);
  }

  /// The pool is destroyed. Running factories and finalizers continue, nothing new begins, leases stay valid.
  void close() {
    auto held = lock();
    machine_.close();
    if (machine_.entries() > 0) keeps_engine_ = engine_.shared_from_this();
    carry_out(held);
  }

  /// Begins to end entries that were cleared, see StateMachine::clear_some().
  bool clear_some(std::size_t& limit) noexcept {
    auto held = lock();
    const bool more = machine_.clear_some(limit);
    carry_out(held);
    return more;
  }

  // References ----------------------------------------------------------------------------------

  void release(Entry& entry) noexcept {
    if (entry.release_shared()) return;
    const auto now = time_for_ttl();
    auto held = lock();
    machine_.release(entry, now);
    carry_out(held);
  }

  asio::awaitable<void> release_and_wait(Entry& entry) {
    if (entry.release_shared()) return done();
    std::shared_ptr<ChainedEvent> ended;
    const auto now = time_for_ttl();
    {
      auto held = lock();
      machine_.release(entry, now);
      try {
        if (entry.state == State::finalizing && !entry.cleared) ended = entry.end_event();
      } catch (...) {  // the release cannot fail, only the waiting
        carry_out(held);
        throw;
      }
      carry_out(held);
    }
    return done_after(std::move(ended));
  }

  void discard(Entry& entry) {
    auto held = lock();
    machine_.discard(entry);
    carry_out(held);
  }

  // Carrying out the decisions of the state machine, without the lock -----------------------------

  /// Begins a delivery of events. If there is no memory for it, the next actions contain it again.
  void deliver_events(const std::shared_ptr<Engine>& engine) noexcept {
    if (engine_.runner().deliver_events(owner(engine))) return;
    const auto held = lock();
    machine_.retry_delivery();
  }

  /// Begins what the state of the entry asks for. Call it while there is a Disposal.
  void run(const std::shared_ptr<Engine>& engine, Entry& entry) noexcept {
    auto& runner = engine_.runner();
    if (entry.state != State::finalizing)
      runner.run_factory(owner(engine), entry);
    else if (runner.has_finalizer() && !engine_.closed())
      runner.run_finalizer(owner(engine), entry);
    else
      Disposal::destroy_later(entry);
  }

 private:
  friend Entry;  // converts its Disposer to a Shard

  [[gnu::noinline]] void carry_out(Lock& lock, bool needs_timer) noexcept {
    const std::shared_ptr<Engine> engine = engine_.shared_from_this();
    auto actions = machine_.take_actions();
    lock.unlock();
    if (needs_timer) engine->arm_timer();
    engine->perform(engine, std::move(actions));
  }

  /// For what runs: it keeps the engine alive, and thereby this shard.
  std::shared_ptr<RunnerOwner<Entry>> owner(const std::shared_ptr<Engine>& engine) noexcept {
    return std::shared_ptr<RunnerOwner<Entry>>(engine, this);
  }

  /// An entry that is being finalized without a finalizer, or else a chain of entries in State::removed.
  void destroy(Disposable& disposable) noexcept override {
    auto* entry = static_cast<Entry*>(&disposable);
    if (entry->state == State::finalizing) {
      destroy_value(*entry);
      return Disposal::report_end_later(*entry);
    }
    for (Entry* e = entry; e != nullptr; e = e->chain) e->value.reset();
    std::shared_ptr<Engine> kept;  // released after the lock
    {
      const auto held = lock();
      entry = machine_.emptied(entry);
      if (machine_.entries() == 0) kept = std::move(keeps_engine_);
    }
    while (entry != nullptr) delete std::exchange(entry, entry->chain);
  }

  void report_end(Disposable& disposable) noexcept override {
    auto& entry = static_cast<Entry&>(disposable);
    std::exception_ptr error;
    if (entry.finalizer_failed_to_begin) error = std::make_exception_ptr(std::bad_alloc());
    end_finalizing(entry, std::move(error));
  }

  /// Without the lock.
  void end_finalizing(Entry& entry, std::exception_ptr error) {
    auto held = lock();
    if (error && !machine_.closed()) {
      held.unlock();
      engine_.runner().report_error(error);
      held.lock();
    }
    machine_.finalizer_ended(entry, error);  // which is destroyed after the lock: it may hold a lease
    carry_out(held);
  }

  static void destroy_value(Entry& entry) noexcept {
    // A lease that outlived clear() may still use it.
    if (entry.references.load(std::memory_order_acquire) == 0) entry.value.reset();
  }

  // Reports of the runner -----------------------------------------------------------------------

  /// A destroyed pool calls no factory and no finalizer.
  bool may_run() override {
    const auto held = lock();
    return !machine_.closed();
  }

  void factory_ended(Entry& entry, std::unique_ptr<Value> value, std::exception_ptr error) override {
    const auto now = time_for_ttl();
    auto held = lock();
    if (!error) {
      machine_.factory_succeeded(entry, std::move(value), now);
      return carry_out(held);
    }
    const bool unseen = machine_.factory_failed(entry, error) && !machine_.closed();
    carry_out(held);
    if (held.owns_lock()) held.unlock();
    if (unseen) engine_.runner().report_error(error);
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
    auto held = lock();
    if (entry.state == State::creating)
      machine_.factory_failed(entry, aborted());
    else
      machine_.finalizer_ended(entry, nullptr);
    carry_out(held);
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
    auto held = lock();
    auto events = machine_.next_events(delivered);
    carry_out(held);  // entries whose last event is delivered are deleted
    return events;
  }

  void drop_events(const PendingEvents<Entry>& delivered) noexcept override {
    auto held = lock();
    machine_.drop_events(delivered);
    carry_out(held);
  }

  /// The time from which a ttl counts. Does not read the clock if there is no ttl.
  Clock::time_point time_for_ttl() const noexcept {
    return machine_.ttl() == Duration::zero() ? Clock::time_point{} : Time::now();
  }

  mutable SpinMutex mutex_;  // guards the state machine, and keeps_engine_
  Engine& engine_;
  Machine machine_;
  std::shared_ptr<Engine> keeps_engine_;  // set while the pool is destroyed and entries remain
};

}}}}  // namespace drover::v1::detail::resource_pool
