#pragma once

#include <cstddef>
#include <exception>
#include <memory>
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
#include <drover/detail/resource_pool/lookup.hpp>
#include <drover/detail/resource_pool/pending_keys.hpp>
#include <drover/detail/resource_pool/shards.hpp>
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
  using typename Engine::Shard;

  using Engine::Engine;

  // Keys ----------------------------------------------------------------------------------------

  /// A reference if the value is leased or idle; null otherwise.
  template <class K>
  Reference try_acquire(const K& key) {
    const std::size_t hash = lookup_.hash(key);
    Shard& shard = shards_.of(hash);
    auto lock = shard.lock();
    Entry* const entry = shard.machine().find(lookup_, hash, key);
    const bool usable = entry != nullptr && (entry->state == State::leased || entry->state == State::idle);
    if (usable) shard.machine().acquire(*entry);
    Reference reference = usable ? Reference(*entry) : Reference();
    shard.carry_out(lock);
    return reference;
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
    Shard& shard = shards_.of(hash);
    std::shared_ptr<ChainedEvent> ended;
    {
      auto lock = shard.lock();
      Entry* const entry = shard.machine().find(lookup_, hash, key);
      if (entry != nullptr) {
        if (entry->ends_if_expired()) ended = entry->end_event();
        shard.machine().expire(*entry);
      }
      shard.carry_out(lock);
    }
    return done_after(std::move(ended));
  }

  template <class K>
  asio::awaitable<void> clear(const K& key) {
    const std::size_t hash = lookup_.hash(key);
    Shard& shard = shards_.of(hash);
    std::shared_ptr<ChainedEvent> ended;
    {
      auto lock = shard.lock();
      Entry* const entry = shard.machine().find(lookup_, hash, key);
      if (entry == nullptr) throw std::out_of_range("drover::ResourcePool::clear: there is no such key");
      ended = entry->end_event();
      shard.machine().clear(*entry);
      shard.carry_out(lock);
    }
    return done_after(std::move(ended));
  }

  asio::awaitable<void> clear() {
    std::vector<std::shared_ptr<ChainedEvent>> ended;
    {
      const AllLocked locked(shards_);
      // Everything that may throw comes before the first transition.
      for (Shard& shard : shards_)
        if (shard.machine().counts().total > 0) ended.push_back(shard.machine().prepare_clear());
      auto event = ended.begin();
      for (Shard& shard : shards_)
        if (shard.machine().counts().total > 0) shard.machine().clear(*event++);
    }
    this->clear_in_pieces(this->shared_from_this());
    return done_after_all(std::move(ended));
  }

  Counts counts() const {
    const AllLocked locked(shards_);
    Counts sum{};
    for (const Shard& shard : shards_) {
      const Counts counts = shard.machine().counts();
      sum.total += counts.total;
      sum.referenced += counts.referenced;
      sum.pending += counts.pending;
    }
    return sum;
  }

  std::vector<Key> pending() const { return PendingKeys<Shard>::list(shards_); }

 private:
  using Engine::shards_;

  // Acquire -------------------------------------------------------------------------------------

  /// Returns a reference. Sets `ready` to the event to wait for before its value can be used. Leaves it null if the
  /// value can be used now.
  template <class K>
  Reference begin_acquire(K&& key, std::shared_ptr<ChainedEvent>& ready) {
    const std::size_t hash = lookup_.hash(key);
    Shard& shard = shards_.of(hash);
    auto& machine = shard.machine();
    {
      auto lock = shard.lock();
      if (Entry* const found = machine.find(lookup_, hash, key)) {
        if (Entry* const entry = machine.acquire(*found)) {
          Reference reference(*entry);
          if (entry->state != State::leased) ready = entry->waiters->ready;
          shard.carry_out(lock);
          return reference;
        }
        shard.carry_out(lock);
      }
    }
    auto fresh = std::make_unique<Entry>(Key(std::forward<K>(key)), hash, shard);  // allocated without the lock
    fresh->waiters = std::make_unique<Waiters<Entry>>();
    fresh->waiters->ready = std::make_shared<ChainedEvent>();
    machine.prepare(*fresh);
    auto lock = shard.lock();
    if (machine.closed()) throw asio::system_error(asio::error::operation_aborted);
    Entry* const found = machine.find(lookup_, hash, fresh->key);  // another thread may have inserted it meanwhile
    Entry* entry = found != nullptr ? machine.acquire(*found) : nullptr;
    if (entry == nullptr) {
      if (found != nullptr)
        machine.queue_after(*found, *fresh);
      else
        machine.insert(*fresh);
      entry = fresh.release();
    }
    Reference reference(*entry);
    if (entry->state != State::leased) ready = entry->waiters->ready;
    shard.carry_out(lock);
    return reference;
  }

  /// Acquires a key whose value has to be waited for. The reference keeps this object alive.
  template <class Lease>
  static asio::awaitable<Lease> acquire_after(Reference reference, std::shared_ptr<ChainedEvent> ready) {
    for (;;) {
      co_await done_after(ready);
      if (is_ready(*reference.get())) break;
      // The value was cleared or discarded before this coroutine was resumed.
      const Key key = reference.get()->key;
      ready.reset();
      reference = static_cast<Impl&>(reference.get()->owner().engine()).begin_acquire(key, ready);
      if (!ready) break;
    }
    Lease lease(std::move(reference));
    co_return std::move(lease);
  }

  /// For a coroutine that has waited: true if it can use the value, false if it has to acquire the key again. Throws
  /// the exception of the factory.
  static bool is_ready(const Entry& entry) {
    std::exception_ptr error;
    {
      const auto lock = entry.owner().lock();
      if (entry.owner().machine().is_leased(entry)) return true;
      if (entry.waiters) error = entry.waiters->error;
    }
    if (error) std::rethrow_exception(error);
    return false;
  }

  [[no_unique_address]] Lookup<Key, Hash, Equal> lookup_;
};

}}}}  // namespace drover::v1::detail::resource_pool
