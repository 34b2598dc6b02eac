#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>

#include <drover/detail/brace_safe.hpp>
#include <drover/detail/resource_pool/impl.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {

/// Values that are made on demand, one live value per key, shared by all who lease it, and kept for a while when nobody
/// does: connections, sessions, caches, workers.
///
///     drover::ResourcePool<std::string, Connection> pool(
///         executor, [](const std::string& host) -> asio::awaitable<Connection> { co_return co_await connect(host); },
///         {.ttl = 30s, .finalizer = [](Connection& c) -> asio::awaitable<void> { co_await c.shut_down(); }});
///
///     auto lease = co_await pool.acquire("example.org");  // makes it, or shares it, or revives an idle one
///     co_await lease->send(request);
///     co_await lease.release();                           // or let the lease go out of scope
///
/// **A value that is no good** (a connection that broke, a worker that crashed): lease.discard(). The next acquire of
/// its key makes a new one, and does not wait for those that still hold the old one. expire() and clear() are about
/// keys: expire() stops keeping a value that nobody leases, clear() finalizes whatever value the key has by now.
///
/// **Keys** are independent of each other: a slow factory or finalizer of one delays no other, and factories and
/// finalizers may themselves acquire other keys (one that acquires its own key waits for itself). For one key, a
/// factory runs only after the finalizer of the value before has ended and that value has been destroyed. There are
/// two exceptions: the object of a cleared value stays as long as its leases do, and a discarded value lives beside the
/// one made after it until its last lease is released and its finalizer has ended. So the finalizers of discarded
/// values may run at the same time as the factory and the finalizer of their key.
///
/// **Executor.** Factories, finalizers and handlers run on the pool's executor; on one that runs on several threads,
/// those of different keys run at the same time. Whoever awaits is resumed on its own executor, which may belong to
/// another context. Any thread may call any member, with the usual exception of moving and destroying the pool.
///
/// **Begin when called.** acquire(), Lease::release(), Lease::discard(), expire() and clear() take effect when they are
/// called; the awaitable only waits, and cancelling it ends the waiting only. So they work in a coroutine that has been
/// cancelled.
///
/// **Lifetime.** Pool, leases and context may go in any order. A pool that is destroyed calls no finalizer and begins
/// no factory any more; idle values are just destroyed (`co_await pool.clear()` before, where finalizers matter).
/// Leases stay good; what they hold is destroyed with the last of them. Factories and finalizers that run go on. A
/// context that is destroyed drops what the pool had running in it silently, finalizers included; those that wait in
/// other contexts are resumed, acquire() with asio::error::operation_aborted. Values may thus be destroyed after the
/// context: one that holds I/O objects of that context must not outlive it, so destroy such a pool and its leases
/// first.
///
/// **Values that hold leases**, of this pool or of others, may form chains of any length: they are destroyed one after
/// the other, without recursion. A lease that the destructor of a value releases destroys nothing before that
/// destructor has returned. What it ends without a finalizer is destroyed on the same thread, before the release(),
/// expire() or clear() that began it completes. So such a destructor must not block its thread until another value is
/// gone. It may destroy a pool, which takes the idle values of that pool along at once, and it may run a context of its
/// own that awaits a release().
///
/// **The timer.** Idle values expire in order, driven by one steady timer per pool. It is not work: an idle pool does
/// not keep run() of an asio::io_context or join() of an asio::thread_pool from returning, on strands and other
/// executors of theirs neither; asio::system_context and contexts of your own likewise (Asio runs the timers of the
/// latter on a thread of its own). Idle values expire only while their context runs.
///
/// Equal runs under the pool's lock, and so does Key's copy constructor in pending_cleanup(): they must not use the
/// pool.
///
/// @tparam Key copyable. Look-ups also take what stands for a key: any string view for std::string keys, or whatever
/// Hash
///   and Equal accept if both are transparent ([unord.req]).
/// @tparam Value any object type. One that can't be moved is returned by value from a plain factory, or as a
///   std::unique_ptr<Value>.
template <class Key, class Value, class Hash = std::hash<Key>, class Equal = std::equal_to<Key>>
class ResourcePool {
  using Impl = detail::resource_pool::Impl<Key, Value, Hash, Equal>;

 public:
  static_assert(std::is_copy_constructible_v<Key>, "keys are copied for pending_cleanup() and events");

  /// What to do with a value before it is destroyed: a coroutine, or a plain function that returns nothing.
  class Finalizer : public std::function<asio::awaitable<void>(Value&)> {
   public:
    Finalizer() = default;
    Finalizer(std::nullptr_t) {}

    template <class F>
      requires(!std::is_base_of_v<Finalizer, F> && std::is_invocable_v<F&, Value&>)
    Finalizer(F f)
        : std::function<asio::awaitable<void>(Value&)>(detail::resource_pool::as_finalizer<Value>(std::move(f))) {}
    template <class F>
      requires(!std::is_base_of_v<Finalizer, F> && std::is_invocable_v<F&, Value&>)
    Finalizer& operator=(F f) {
      return *this = Finalizer(std::move(f));
    }
  };

  struct Event {
    enum class Kind : std::uint8_t {
      made,       // by the factory
      revived,    // an idle value was leased again
      expired,    // its ttl is over, or expire() was called; its finalizer is next
      evicted,    // it was one too many for max_idle; its finalizer is next
      discarded,  // by Lease::discard(); its finalizer is next once its last lease is released
      finalized,  // it is gone
      failed,     // factory or finalizer threw `error`; the entry is gone
    };
    Kind kind{};
    Key key{};
    std::exception_ptr error{};
  };

  struct Options {
    /// How long a value is kept that nobody leases; 0: not at all.
    Duration ttl{};
    /// None: the value is just destroyed, on the thread that let it go.
    detail::BraceSafe<Finalizer> finalizer{};
    /// A finalizer threw, or a factory for which nobody waits any more.
    detail::BraceSafe<std::function<void(std::exception_ptr)>> on_error{};
    /// More idle values than that: the least recently used one goes.
    std::optional<std::size_t> max_idle{};
    /// In order, one at a time; what it throws is dropped.
    detail::BraceSafe<std::function<void(const Event&)>> on_event{};
  };

  /// Exact at the moment of the call. An entry is what a key has, and it is in one of three states: its value is being
  /// made, it is referenced, or its clean-up is pending (it is idle, or being finalized). A discarded value stays an
  /// entry of its own, beside the new one of its key, until it has been finalized: no entries means that nothing is
  /// left to clean up.
  struct Stats {
    std::size_t total_entries{};       // in any state
    std::size_t referenced_entries{};  // whose value is leased
    std::size_t pending_cleanup{};     // whose value is idle or being finalized
  };

  class Lease;

  /// @param factory called as factory(const Key&) when a key is missing; a coroutine (asio::awaitable<T>) or a plain
  ///   function, where T is Value or std::unique_ptr<Value>. The key stays where it is while the factory runs.
  /// @throws std::invalid_argument if the ttl is negative, or the factory is a null function.
  template <class Factory>
    requires detail::resource_pool::FactoryOf<Factory, Key, Value>
  ResourcePool(asio::any_io_executor executor, Factory factory)
      : ResourcePool(std::move(executor), std::move(factory), Options{}) {}

  template <class Factory>
    requires detail::resource_pool::FactoryOf<Factory, Key, Value>
  ResourcePool(asio::any_io_executor executor, Factory factory, Options given) {
    Options options(std::move(given));  // see BraceSafe
    detail::require_not_negative(options.ttl, "ResourcePool::Options::ttl");
    if (detail::resource_pool::is_null(factory))
      throw std::invalid_argument("drover::ResourcePool: the factory is a null function");
    core_ = make_core(executor,
                      std::make_unique<detail::resource_pool::TypedFactory<Key, Value, Factory>>(std::move(factory)),
                      std::move(options));
  }

  /// Moving disturbs nothing that is pending. A pool that was moved from can only be destroyed or assigned to; its
  /// other members throw std::logic_error.
  ResourcePool(ResourcePool&&) noexcept = default;
  ResourcePool& operator=(ResourcePool&& other) noexcept {
    ResourcePool old(std::move(*this));
    core_ = std::move(other.core_);
    return *this;
  }
  ~ResourcePool() {
    if (core_) core_->close();
  }

  /// Leases the value of a key. A hit (leased or idle) does not suspend; the value of an idle key is revived, and its
  /// next release starts a full ttl. A missing key is made, once for all that ask for it; a key that is being finalized
  /// is made again after that. A value that is cleared or discarded before the caller could have it is made again, too.
  ///
  /// Throws what the factory throws, and then leaves no entry; whatever Hash and Equal throw is thrown by the call
  /// itself, and leaves the pool as it was. Throws operation_aborted if the pool's context is gone or the pool is
  /// destroyed before the factory was begun.
  ///
  /// Cancellation: this caller leaves alone. A factory that runs is not disturbed; its value is kept idle for its ttl,
  /// even if nobody waits any more.
  [[nodiscard]] asio::awaitable<Lease> acquire(Key key) { return core().template acquire<Lease>(std::move(key)); }

  template <class K>
    requires detail::resource_pool::StandsFor<K, Key, Hash, Equal>
  [[nodiscard]] asio::awaitable<Lease> acquire(const K& key) {
    return core().template acquire<Lease>(key);
  }

  /// A hit only: the value if it is leased or idle, else nullopt. Never suspends.
  [[nodiscard]] std::optional<Lease> try_acquire(const Key& key) { return lease(core().try_acquire(key)); }

  template <class K>
    requires detail::resource_pool::StandsFor<K, Key, Hash, Equal>
  [[nodiscard]] std::optional<Lease> try_acquire(const K& key) {
    return lease(core().try_acquire(key));
  }

  /// Lets a value go early that is still good. Idle: it is finalized now, and the awaitable waits for that. Being
  /// finalized: waits for that. Leased or being made: it is finalized at the last release, unless it is acquired again
  /// first; nothing to wait for. Missing: nothing. A value that is no good would thus be handed out again: for that
  /// there is Lease::discard().
  [[nodiscard]] asio::awaitable<void> expire(Key key) { return core().expire(key); }

  template <class K>
    requires detail::resource_pool::StandsFor<K, Key, Hash, Equal>
  [[nodiscard]] asio::awaitable<void> expire(const K& key) {
    return core().expire(key);
  }

  /// Finalizes the value of a key now, even if it is leased, and waits for that. Leases of it keep the object
  /// (finalized, but not destroyed) until they are released, which does nothing else. Being made: it is finalized once
  /// made, and made again for those that wait. Whatever value the key has is meant, also one that was made since the
  /// caller last looked, but not one that was discarded: a holder that wants to be rid of its own value calls
  /// Lease::discard().
  /// @throws std::out_of_range from the call itself if there is no such key.
  [[nodiscard]] asio::awaitable<void> clear(Key key) { return core().clear(key); }

  template <class K>
    requires detail::resource_pool::StandsFor<K, Key, Hash, Equal>
  [[nodiscard]] asio::awaitable<void> clear(const K& key) {
    return core().clear(key);
  }

  /// Clears all keys at the same time and waits until all of them have gone, those included that were being finalized
  /// already. Discarded values that are still leased are finalized now, too. Finalizers that throw are reported to
  /// on_error and stop nothing.
  [[nodiscard]] asio::awaitable<void> clear() { return core().clear(); }

  Stats stats() const {
    const auto counts = core().counts();
    return {counts.total, counts.referenced, counts.pending};
  }

  /// The keys that Stats::pending_cleanup counts: those being finalized, then the idle ones, next to expire first. A
  /// key of which values were discarded may be there more than once.
  std::vector<Key> pending_cleanup() const { return core().pending(); }

 private:
  static std::optional<Lease> lease(typename Impl::Reference hold) {
    if (hold.get() == nullptr) return std::nullopt;
    return Lease(std::move(hold));
  }

  static std::shared_ptr<Impl> make_core(const asio::any_io_executor& executor,
                                         std::unique_ptr<detail::resource_pool::Factory<Key, Value>> factory,
                                         Options options) {
    // As what it derives from: another std::function would take it for a function to wrap, even if it is empty.
    std::function<asio::awaitable<void>(Value&)>& finalizer = options.finalizer;
    std::function<void(std::exception_ptr)>& on_error = options.on_error;
    std::function<void(const Event&)>& on_event_given = options.on_event;
    typename Impl::Callbacks callbacks{std::move(factory), std::move(finalizer), std::move(on_error), {}};
    if (on_event_given)
      callbacks.on_event = [on_event = std::move(on_event_given)](auto what, const Key& key, const auto& error) {
        on_event(Event{static_cast<typename Event::Kind>(what), key, error});  // the same enumerators
      };
    const detail::resource_pool::Rules rules{options.ttl, options.max_idle, callbacks.on_event != nullptr};
    return std::make_shared<Impl>(executor, rules, std::move(callbacks));
  }

  Impl& core() const {
    if (!core_) throw std::logic_error("drover::ResourcePool: this pool has been moved from");
    return *core_;
  }

  std::shared_ptr<Impl> core_;
};

/// One holder's share of a value. Move-only. Belongs to the one value that it was given: after clear() or discard() it
/// still holds that, and never touches the one made after it for the same key. Dropping a lease gives it back like
/// release(), without waiting. Leases of one value may be used and released on different threads at once, if the value
/// stands that; one lease is for one thread at a time.
template <class Key, class Value, class Hash, class Equal>
class ResourcePool<Key, Value, Hash, Equal>::Lease {
 public:
  /// Empty: converts to false; the other members throw std::logic_error.
  Lease() = default;

  explicit operator bool() const noexcept { return hold_.get() != nullptr; }

  Value& operator*() const { return *entry().value; }
  Value* operator->() const { return entry().value.get(); }
  const Key& key() const { return entry().key; }

  /// Gives the lease back, at once and for certain; the lease is empty afterwards. The awaitable waits for the
  /// finalizer, if this was the last lease and the value is not kept; cancelling it ends the waiting only. What a
  /// finalizer throws goes to on_error. The lease of a value that was cleared: nothing happens.
  /// @throws std::logic_error from the call itself if the lease is empty or was released before.
  [[nodiscard]] asio::awaitable<void> release() {
    auto& given_back = entry();
    hold_.take();
    return given_back.owner().release_and_wait(given_back);
  }

  /// This value is no good. From now on it is not handed out any more: the next acquire of its key makes a new one,
  /// which waits for no other holder of this one, nor for its finalizer. This lease and the others keep the value; it
  /// is finalized when the last of them is released, whatever the ttl is, and that release() waits for it.
  ///
  /// Takes effect when it is called and never suspends, so it works in a catch block, a destructor and a coroutine that
  /// has been cancelled. Concerns this value only: any holder may call it, any number of times. Of a value that has
  /// been discarded or cleared already: nothing, whatever its key has by now.
  /// @throws std::logic_error if the lease is empty or was released before.
  void discard() {
    auto& held = entry();
    held.owner().discard(held);
  }

 private:
  friend class ResourcePool;
  friend Impl;

  explicit Lease(typename Impl::Reference hold) noexcept : hold_(std::move(hold)) {}

  typename Impl::Entry& entry() const {
    if (hold_.get() == nullptr)
      throw std::logic_error("drover::ResourcePool::Lease: this lease is empty, moved from or released already");
    return *hold_.get();
  }

  typename Impl::Reference hold_;
};

}}  // namespace drover::v1
