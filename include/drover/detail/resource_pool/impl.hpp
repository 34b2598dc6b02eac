#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/error.hpp>
#include <asio/system_error.hpp>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/resource_pool/entry.hpp>
#include <drover/detail/resource_pool/key_table.hpp>
#include <drover/detail/resource_pool/runner.hpp>
#include <drover/detail/resource_pool/state_machine.hpp>
#include <drover/detail/resource_pool/wait.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The operations of a pool.
template <class Key, class Value, class Hash, class Equal, class Time = SteadyTime>
class Impl final : public Runner<Key, Value, Lookup<Key, Hash, Equal>, Time> {
  using Runner = resource_pool::Runner<Key, Value, Lookup<Key, Hash, Equal>, Time>;
  using Runner::machine_;
  using Runner::mutex_;
  using Runner::settle;

 public:
  using Runner::Runner;
  using typename Runner::Entry;
  using typename Runner::Reference;

  /// A reference if the value is leased or idle; null otherwise.
  template <class K>
  Reference try_acquire(const K& key) {
    const std::size_t hash = lookup_.hash(key);
    std::unique_lock lock(mutex_);
    Entry* const entry = machine_.find(lookup_, hash, key);
    if (entry == nullptr || (entry->state != State::leased && entry->state != State::idle)) return {};
    machine_.acquire(*entry);
    settle(lock);
    return Reference(*entry);
  }

  template <class Lease, class K>
  asio::awaitable<Lease> acquire(K&& key) {
    std::shared_ptr<AsyncEvent> ready;
    Reference hold = obtain(std::forward<K>(key), ready);
    if (!ready) return granted<Lease>(Lease(std::move(hold)));
    return wait_for<Lease>(std::move(hold), std::move(ready));
  }

  template <class K>
  asio::awaitable<void> expire(const K& key) {
    const std::size_t hash = lookup_.hash(key);
    std::shared_ptr<AsyncEvent> ended;
    {
      std::unique_lock lock(mutex_);
      Entry* const entry = machine_.find(lookup_, hash, key);
      if (entry != nullptr && machine_.expire(*entry)) ended = machine_.end_event(*entry);
      settle(lock);
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
      settle(lock);
    }
    return done_after(std::move(ended));
  }

  asio::awaitable<void> clear() {
    std::shared_ptr<AsyncEvent> ended;
    {
      std::unique_lock lock(mutex_);
      machine_.clear();
      ended = machine_.all_ended_event();
      settle(lock);
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

 private:
  /// Returns a reference. `ready` is the event to wait for before it can be used; null for a hit.
  template <class K>
  Reference obtain(K&& key, std::shared_ptr<AsyncEvent>& ready) {
    const std::size_t hash = lookup_.hash(key);
    {
      std::unique_lock lock(mutex_);
      Entry* const entry = machine_.find(lookup_, hash, key);
      if (entry != nullptr) {
        if (Reference hold = grant(*entry, ready); hold.get() != nullptr) {
          settle(lock);
          return hold;
        }
      }
    }
    auto fresh = std::make_unique<Entry>(Key(std::forward<K>(key)), hash, *this);
    fresh->waiters = std::make_unique<Waiters<Entry>>();
    fresh->waiters->ready = std::make_shared<AsyncEvent>();
    std::unique_lock lock(mutex_);
    if (machine_.closed()) throw asio::system_error(asio::error::operation_aborted);
    Entry* const entry = machine_.find(lookup_, hash, fresh->key);  // another thread may have changed it meanwhile
    if (entry != nullptr) {
      if (Reference hold = grant(*entry, ready); hold.get() != nullptr) {
        settle(lock);
        return hold;
      }
      machine_.queue_after(*entry, *fresh);
    } else {
      machine_.insert(*fresh);
    }
    ready = fresh->waiters->ready;
    Reference hold(*fresh.release());
    settle(lock);
    return hold;
  }

  /// Null if the key is being finalized and its next value has not been requested yet.
  Reference grant(Entry& entry, std::shared_ptr<AsyncEvent>& ready) {
    switch (machine_.acquire(entry)) {
      case AcquireResult::leased: return Reference(entry);
      case AcquireResult::wait: ready = entry.waiters->ready; return Reference(entry);
      case AcquireResult::finalizing: break;
    }
    Entry* const successor = entry.waiters ? entry.waiters->successor : nullptr;
    if (successor == nullptr) return {};
    machine_.acquire(*successor);  // it is queued
    ready = successor->waiters->ready;
    return Reference(*successor);
  }

  template <class Lease>
  static asio::awaitable<Lease> granted(Lease lease) {
    co_return std::move(lease);
  }

  template <class Lease>
  static asio::awaitable<Lease> wait_for(Reference hold, std::shared_ptr<AsyncEvent> ready) {
    // `hold` keeps the core alive.
    for (;;) {
      co_await done_after(ready);
      auto& core = static_cast<Impl&>(hold.get()->owner());
      if (core.collect(*hold.get())) break;
      // The value was cleared before this coroutine resumed.
      const Key key = hold.get()->key;
      ready.reset();
      hold = core.obtain(key, ready);
      if (!ready) break;
    }
    Lease lease(std::move(hold));
    co_return std::move(lease);
  }

  /// For a coroutine that has waited: returns false if it has to ask again.
  bool collect(Entry& entry) {
    std::exception_ptr error;
    {
      const std::lock_guard lock(mutex_);
      if (entry.state == State::leased) return true;
      if (entry.waiters) error = entry.waiters->error;
    }
    if (error) std::rethrow_exception(error);
    return false;
  }

  [[no_unique_address]] Lookup<Key, Hash, Equal> lookup_;
};

}}}}  // namespace drover::v1::detail::resource_pool
