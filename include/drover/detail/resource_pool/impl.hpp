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

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// What a pool does when it is called.
template <class Key, class Value, class Hash, class Equal, class Time = SteadyTime>
class Core final : public Engine<Key, Value, Lookup<Key, Hash, Equal>, Time> {
  using Engine = resource_pool::Engine<Key, Value, Lookup<Key, Hash, Equal>, Time>;
  using Engine::done;
  using Engine::done_after;
  using Engine::machine_;
  using Engine::mutex_;
  using Engine::settle;

 public:
  using Engine::Engine;
  using typename Engine::Hold;
  using typename Engine::Node;

  /// A hit; null otherwise.
  template <class K>
  Hold try_acquire(const K& key) {
    const std::size_t hash = lookup_.hash(key);
    std::unique_lock lock(mutex_);
    Node* const node = machine_.find(lookup_, hash, key);
    if (node == nullptr || (node->state != State::live && node->state != State::idle)) return {};
    machine_.acquire(*node);
    settle(lock);
    return Hold(*node);
  }

  template <class Lease, class K>
  asio::awaitable<Lease> acquire(K&& key) {
    std::shared_ptr<AsyncEvent> ready;
    Hold hold = obtain(std::forward<K>(key), ready);
    if (!ready) return granted<Lease>(Lease(std::move(hold)));
    return wait_for<Lease>(std::move(hold), std::move(ready));
  }

  template <class K>
  asio::awaitable<void> expire(const K& key) {
    const std::size_t hash = lookup_.hash(key);
    std::shared_ptr<AsyncEvent> gone;
    {
      std::unique_lock lock(mutex_);
      Node* const node = machine_.find(lookup_, hash, key);
      if (node != nullptr && machine_.expire(*node)) gone = machine_.gone_event(*node);
      settle(lock);
    }
    return done_after(std::move(gone));
  }

  template <class K>
  asio::awaitable<void> clear(const K& key) {
    const std::size_t hash = lookup_.hash(key);
    std::shared_ptr<AsyncEvent> gone;
    {
      std::unique_lock lock(mutex_);
      Node* const node = machine_.find(lookup_, hash, key);
      if (node == nullptr) throw std::out_of_range("drover::ResourcePool::clear: there is no such key");
      gone = machine_.gone_event(*node);
      machine_.clear(*node);
      settle(lock);
    }
    return done_after(std::move(gone));
  }

  asio::awaitable<void> clear() {
    std::shared_ptr<AsyncEvent> gone;
    {
      std::unique_lock lock(mutex_);
      machine_.clear();
      gone = machine_.all_gone_event();
      settle(lock);
    }
    return done_after(std::move(gone));
  }

  Counts counts() const {
    const std::lock_guard lock(mutex_);
    return machine_.counts();
  }

  std::vector<Key> pending() const {
    std::vector<Key> keys;
    const std::lock_guard lock(mutex_);
    keys.reserve(machine_.counts().pending);
    machine_.for_each_pending([&](const Node& node) { keys.push_back(node.key); });
    return keys;
  }

 private:
  /// A reference, and what to wait for before it is good; null for a hit.
  template <class K>
  Hold obtain(K&& key, std::shared_ptr<AsyncEvent>& ready) {
    const std::size_t hash = lookup_.hash(key);
    {
      std::unique_lock lock(mutex_);
      Node* const node = machine_.find(lookup_, hash, key);
      if (node != nullptr) {
        if (Hold hold = grant(*node, ready); hold.get() != nullptr) {
          settle(lock);
          return hold;
        }
      }
    }
    auto fresh = std::make_unique<Node>(Key(std::forward<K>(key)), hash, *this);
    fresh->transit = std::make_unique<Transit<Node>>();
    fresh->transit->ready = std::make_shared<AsyncEvent>();
    std::unique_lock lock(mutex_);
    if (machine_.closed()) throw asio::system_error(asio::error::operation_aborted);
    Node* const node = machine_.find(lookup_, hash, fresh->key);  // someone else may have been here meanwhile
    if (node != nullptr) {
      if (Hold hold = grant(*node, ready); hold.get() != nullptr) {
        settle(lock);
        return hold;
      }
      machine_.queue(*node, *fresh);
    } else {
      machine_.insert(*fresh);
    }
    ready = fresh->transit->ready;
    Hold hold(*fresh.release());
    settle(lock);
    return hold;
  }

  /// Null if the key is being finalized and nobody has asked for the value after it yet.
  Hold grant(Node& node, std::shared_ptr<AsyncEvent>& ready) {
    switch (machine_.acquire(node)) {
      case Grant::held:
      case Grant::revived: return Hold(node);
      case Grant::wait: ready = node.transit->ready; return Hold(node);
      case Grant::leaving: break;
    }
    Node* const successor = node.transit ? node.transit->successor : nullptr;
    if (successor == nullptr) return {};
    machine_.acquire(*successor);  // is queued
    ready = successor->transit->ready;
    return Hold(*successor);
  }

  template <class Lease>
  static asio::awaitable<Lease> granted(Lease lease) {
    co_return std::move(lease);
  }

  template <class Lease>
  static asio::awaitable<Lease> wait_for(Hold hold, std::shared_ptr<AsyncEvent> ready) {
    // The reference that it holds keeps the core alive.
    for (;;) {
      co_await Engine::wait(ready);
      auto& core = static_cast<Core&>(hold.get()->owner());
      if (core.collect(*hold.get())) break;
      // Cleared before this coroutine could see it.
      const Key key = hold.get()->key;
      ready.reset();
      hold = core.obtain(key, ready);
      if (!ready) break;
    }
    Lease lease(std::move(hold));
    co_return std::move(lease);
  }

  /// For one that waited: false if it has to ask again.
  bool collect(Node& node) {
    std::exception_ptr error;
    {
      const std::lock_guard lock(mutex_);
      if (node.state == State::live) return true;
      if (node.transit) error = node.transit->error;
    }
    if (error) std::rethrow_exception(error);
    return false;
  }

  [[no_unique_address]] Lookup<Key, Hash, Equal> lookup_;
};

}}}}  // namespace drover::v1::detail::resource_pool
