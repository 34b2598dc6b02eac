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

#include <drover/detail/resource_pool/engine.hpp>
#include <drover/detail/resource_pool/entry.hpp>
#include <drover/detail/resource_pool/event_chain.hpp>
#include <drover/detail/resource_pool/idle_timer.hpp>
#include <drover/detail/resource_pool/key_table.hpp>
#include <drover/detail/resource_pool/state_machine.hpp>
#include <drover/detail/resource_pool/wait.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The object behind a ResourcePool and its leases: the engine, and the operations on keys.
template <class Key, class Value, class Hash, class Equal, class Time = SteadyTime>
class Impl final : public Engine<Key, Value, Lookup<Key, Hash, Equal>, Time> {
  using Engine = resource_pool::Engine<Key, Value, Lookup<Key, Hash, Equal>, Time>;

 public:
  using typename Engine::Entry;
  using typename Engine::Reference;

  using Engine::Engine;

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
    std::shared_ptr<ChainedEvent> ready;
    Reference reference = begin_acquire(std::forward<K>(key), ready);
    if (!ready) return done_with(Lease(std::move(reference)));
    return acquire_after<Lease>(std::move(reference), std::move(ready));
  }

  template <class K>
  asio::awaitable<void> expire(const K& key) {
    const std::size_t hash = lookup_.hash(key);
    std::shared_ptr<ChainedEvent> ended;
    {
      std::unique_lock lock(mutex_);
      Entry* const entry = machine_.find(lookup_, hash, key);
      if (entry != nullptr) {
        if (machine_.ends_if_expired(*entry)) ended = machine_.end_event(*entry);
        machine_.expire(*entry);
      }
      carry_out(lock);
    }
    return done_after(std::move(ended));
  }

  template <class K>
  asio::awaitable<void> clear(const K& key) {
    const std::size_t hash = lookup_.hash(key);
    std::shared_ptr<ChainedEvent> ended;
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
    std::shared_ptr<ChainedEvent> ended;
    {
      std::unique_lock lock(mutex_);
      ended = machine_.clear();
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

 private:
  using Engine::carry_out;
  using Engine::machine_;
  using Engine::mutex_;

  // Acquire -------------------------------------------------------------------------------------

  /// Returns a reference. Sets `ready` to the event to wait for before its value can be used. Leaves it null if the
  /// value can be used now.
  template <class K>
  Reference begin_acquire(K&& key, std::shared_ptr<ChainedEvent>& ready) {
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
    fresh->waiters->ready = std::make_shared<ChainedEvent>();
    machine_.prepare(*fresh);
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
  static asio::awaitable<Lease> acquire_after(Reference reference, std::shared_ptr<ChainedEvent> ready) {
    for (;;) {
      co_await done_after(ready);
      auto& impl = static_cast<Impl&>(reference.get()->owner());
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

  [[no_unique_address]] Lookup<Key, Hash, Equal> lookup_;
};

}}}}  // namespace drover::v1::detail::resource_pool
