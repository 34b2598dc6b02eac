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
#include <drover/detail/context/as_async.hpp>
#include <drover/detail/resource_pool/impl.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {

/// Values that are created on demand, one live value per key. All holders of leases of a key share its value; a value
/// without a lease is kept for a while. Typical values are connections, sessions, caches and workers.
///
///     drover::ResourcePool<std::string, Connection> pool(
///         executor, [](const std::string& host) -> asio::awaitable<Connection> { co_return co_await connect(host); },
///         {.ttl = 30s, .finalizer = [](Connection& c) -> asio::awaitable<void> { co_await c.shut_down(); }});
///
///     auto lease = co_await pool.acquire("example.org");  // creates the value, shares it, or revives an idle one
///     co_await lease->send(request);
///     co_await lease.release();                           // or let the lease go out of scope
///
/// **Bad values** (a connection that broke, a worker that crashed): call lease.discard(). The next acquire of the key
/// then creates a new value, and does not wait for the holders of the old one. expire() and clear() act on keys:
/// expire() stops keeping a value that nobody leases, clear() finalizes the value that the key has at that time.
///
/// **Keys** are independent of each other: a slow factory or finalizer of one key delays no other key. Factories and
/// finalizers may acquire other keys; one that acquires its own key waits for itself. For one key, a factory runs only
/// after the finalizer of the previous value has ended and that value has been destroyed. There are two exceptions. The
/// object of a cleared value stays until its leases are released. A discarded value coexists with the next value of its
/// key until its last lease is released and its finalizer has ended. So the finalizers of discarded values may run at
/// the same time as the factory and the finalizer of their key.
///
/// **Executor.** Factories, finalizers and handlers run on the pool's executor. If several threads run that executor,
/// the functions of different keys run at the same time. An awaiting coroutine is resumed on its own executor, which
/// may belong to another context.
///
/// **Operations begin when called.** acquire(), Lease::release(), Lease::discard(), expire() and clear() take effect
/// when they are called. Their awaitables only wait, and cancelling one only ends the waiting. So these operations also
/// work in a coroutine that has been cancelled.
///
/// **Values that hold leases**, of this pool or of others, may form chains of any length: they are destroyed one after
/// the other, without recursion. A lease that the destructor of a value releases destroys nothing before that
/// destructor has returned. Values without a finalizer that end because of this are destroyed on the same thread,
/// before the release(), expire() or clear() that began it completes; only a clear() of more than 64 keys leaves the
/// rest to the executor. So such a destructor must not block its thread until another value is destroyed. It may
/// destroy a pool, which destroys the idle values of that pool at once, and it may run a context of its own that awaits
/// a release().
///
/// **The timer.** Idle values expire in order, driven by one steady timer per pool. The timer is not work: an idle pool
/// does not keep run() of an asio::io_context or join() of an asio::thread_pool from returning. The same holds for
/// strands and other executors of these contexts, for asio::system_context and for contexts of your own (Asio runs the
/// timers of the latter on a thread of its own). Idle values expire only while their context runs. Of values that are
/// due together, and of events, other handlers get a turn after every 64.
///
/// *Lifetime:* the pool, its leases and the context may be destroyed in any order. A destroyed pool calls no finalizer
/// and begins no factory any more; its idle values are destroyed without being finalized (`co_await pool.clear()` first
/// if finalizers matter). Its leases stay valid, and a value is destroyed with the last of them. Running factories and
/// finalizers continue. The destruction of the context silently drops everything that the pool runs in it, including
/// finalizers. Coroutines that wait in other contexts are resumed, acquire() with asio::error::operation_aborted. So
/// values may be destroyed after the context. A value that holds I/O objects of that context must not outlive it:
/// destroy such a pool and its leases first.
/// *Errors:* a shortage of memory makes an operation throw std::bad_alloc, or changes nothing but its time: what could
/// not be posted (an expiry, a delivery of events, the resumption of a coroutine) is done with a later operation. A
/// finalizer that cannot begin is skipped, and on_error receives std::bad_alloc on the thread that ended the value.
/// *Threads:* any thread may call any member, with the usual exception of moving and destroying the pool. Threads that
/// use different keys rarely wait for each other, unless the pool has max_idle or on_event: one lock then guards all
/// keys. Equal runs under a lock, and so does Key's copy constructor in pending_cleanup(): neither may use the pool.
/// *Memory:* some 130 bytes for each idle key beside key and value. A lock and what belongs to it take 0.8 KiB; a pool
/// has 8 of these for each processor, at most 32.
///
/// @tparam Key copyable. Look-ups also take types that stand for a key: any string view for std::string keys, or any
///   type that Hash and Equal accept if both are transparent ([unord.req]).
/// @tparam Value any object type. A factory returns a value that cannot be moved either by value, from a plain
///   function, or as a std::unique_ptr<Value>.
template <class Key, class Value, class Hash = std::hash<Key>, class Equal = std::equal_to<Key>>
class ResourcePool {
  using Impl = detail::resource_pool::Impl<Key, Value, Hash, Equal>;

 public:
  static_assert(std::is_copy_constructible_v<Key>, "keys are copied for pending_cleanup() and events");

  /// Called with a value before it is destroyed: a coroutine, or a plain function that returns nothing.
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
      made,       // the factory has created the value
      revived,    // an idle value was leased again
      expired,    // its ttl has passed, or expire() was called; its finalizer is next
      evicted,    // max_idle was exceeded; its finalizer is next
      discarded,  // Lease::discard() was called; its finalizer is next once its last lease is released
      finalized,  // the finalizer has ended; the entry is removed
      failed,     // the factory or the finalizer threw `error`; the entry is removed
    };
    Kind kind{};
    Key key{};
    std::exception_ptr error{};
  };

  struct Options {
    /// How long a value without a lease is kept. 0: it is not kept.
    Duration ttl{};
    /// If empty, a value is only destroyed, on the thread that released, expired or cleared it. Those that a clear() of
    /// more than 64 keys leaves for later are destroyed on the executor, or with the pool.
    detail::BraceSafe<Finalizer> finalizer{};
    /// Called with an exception of a finalizer, or of a factory that nobody waits for any more.
    detail::BraceSafe<std::function<void(std::exception_ptr)>> on_error{};
    /// If there are more idle values, the least recently used one is finalized.
    std::optional<std::size_t> max_idle{};
    /// Called for every event, in order, one at a time. Its exceptions are ignored.
    detail::BraceSafe<std::function<void(const Event&)>> on_event{};
  };

  /// Exact at the time of the call. Each key in the pool has an entry, in one of three states: its value is being
  /// created, its value is leased (referenced), or its clean-up is pending (its value is idle or being finalized). A
  /// discarded value keeps an entry of its own, beside the new one of its key, until it has been finalized. So no
  /// entries means that nothing is left to clean up.
  struct Stats {
    std::size_t total_entries{};       // entries in any state
    std::size_t referenced_entries{};  // entries whose value is leased
    std::size_t pending_cleanup{};     // entries whose value is idle or being finalized
  };

  class Lease;

  /// Creates a pool on this executor.
  /// @param factory called as factory(const Key&) when a key is missing: a coroutine (asio::awaitable<T>) or a plain
  ///   function, where T is Value or std::unique_ptr<Value>. The key stays at its address while the factory runs.
  ///
  /// *Errors:* std::invalid_argument if the ttl is negative or the factory is a null function.
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
    impl_ = make_impl(executor,
                      std::make_unique<detail::resource_pool::TypedFactory<Key, Value, Factory>>(std::move(factory)),
                      std::move(options));
  }

  /// Moving the pool does not affect pending operations. A moved-from pool can only be destroyed or assigned to; its
  /// other members throw std::logic_error.
  ResourcePool(ResourcePool&&) noexcept = default;
  ResourcePool& operator=(ResourcePool&& other) noexcept {
    ResourcePool old(std::move(*this));
    impl_ = std::move(other.impl_);
    return *this;
  }
  ~ResourcePool() {
    if (impl_) impl_->close();
  }

  /// Leases the value of a key. If the value is leased or idle, this does not suspend; an idle value is revived, and
  /// its next release starts a full ttl. A missing value is created, once for all callers. If the key is being
  /// finalized, its value is created again after that. A value that is cleared or discarded before the caller has
  /// received it is also created again.
  ///
  /// *Errors:* an exception of the factory, which leaves no entry; operation_aborted if the pool's context is
  /// destroyed, or the pool is destroyed before the factory has begun. Exceptions of Hash and Equal are thrown by the
  /// call itself and leave the pool unchanged. If there is not enough memory, std::bad_alloc or
  /// asio::error::no_memory.
  /// *Cancellation:* ends the waiting of this caller only. A running factory continues, and its value is kept idle for
  /// its ttl even if nobody waits for it any more.
  /// *Complexity:* constant. The table of keys grows by two buckets at a time, so that no single call takes long.
  [[nodiscard]] asio::awaitable<Lease> acquire(Key key) { return impl().template acquire<Lease>(std::move(key)); }

  template <class K>
    requires detail::resource_pool::StandsFor<K, Key, Hash, Equal>
  [[nodiscard]] asio::awaitable<Lease> acquire(const K& key) {
    return impl().template acquire<Lease>(key);
  }

  /// The same for a completion token: a handler void(std::exception_ptr, Lease), which is never invoked by this
  /// function and runs on its own executor, or on an asio::system_executor if it has none.
  template <class K, class Token>
  auto async_acquire(K&& key, Token&& token) {
    return detail::as_async(acquire(std::forward<K>(key)), asio::system_executor(), std::forward<Token>(token));
  }

  /// Leases the value if it is leased or idle, otherwise returns nullopt. Never suspends.
  [[nodiscard]] std::optional<Lease> try_acquire(const Key& key) { return lease(impl().try_acquire(key)); }

  template <class K>
    requires detail::resource_pool::StandsFor<K, Key, Hash, Equal>
  [[nodiscard]] std::optional<Lease> try_acquire(const K& key) {
    return lease(impl().try_acquire(key));
  }

  /// Stops keeping a value that is still good. An idle value is finalized now, and the awaitable waits for that. If the
  /// value is already being finalized, the awaitable waits for that. A value that is leased or being created is
  /// finalized at its last release, unless it is acquired again first; there is nothing to wait for. A missing key has
  /// no effect. Since the value may be handed out again, use Lease::discard() for a bad one.
  ///
  /// *Cancellation:* ends the waiting only.
  [[nodiscard]] asio::awaitable<void> expire(Key key) { return impl().expire(key); }

  template <class K>
    requires detail::resource_pool::StandsFor<K, Key, Hash, Equal>
  [[nodiscard]] asio::awaitable<void> expire(const K& key) {
    return impl().expire(key);
  }

  /// Finalizes the value of a key now, even if it is leased, and waits for that. Its leases keep the object (finalized,
  /// but not destroyed) until they are released, which does nothing else. A value that is being created is finalized
  /// once created, and created again for the callers that wait for it. This applies to the current value of the key,
  /// even to one created since the caller last looked, but not to a discarded one: a holder uses Lease::discard() to
  /// get rid of its own value.
  ///
  /// *Errors:* std::out_of_range from the call itself if there is no such key.
  /// *Cancellation:* ends the waiting only.
  [[nodiscard]] asio::awaitable<void> clear(Key key) { return impl().clear(key); }

  template <class K>
    requires detail::resource_pool::StandsFor<K, Key, Hash, Equal>
  [[nodiscard]] asio::awaitable<void> clear(const K& key) {
    return impl().clear(key);
  }

  /// Clears all keys at the same time, and waits until all of them are finalized, including the keys that were already
  /// being finalized. Discarded values that are still leased are finalized now, too. An exception of a finalizer is
  /// passed to on_error and stops nothing.
  ///
  /// *Cancellation:* ends the waiting only.
  /// *Complexity:* the call takes constant time. The values are then finalized and destroyed 64 at a time, and other
  /// handlers run between them.
  [[nodiscard]] asio::awaitable<void> clear() { return impl().clear(); }

  Stats stats() const {
    const auto counts = impl().counts();
    return {counts.total, counts.referenced, counts.pending};
  }

  /// The keys that Stats::pending_cleanup counts: first the keys being finalized, then the idle ones in the order of
  /// their expiry. A key with discarded values may occur more than once. If other threads use the pool meanwhile, the
  /// keys are not all listed as they are at one time.
  ///
  /// *Complexity:* linear. No lock is held for more than a thousand keys. Stats::pending_cleanup is a counter.
  std::vector<Key> pending_cleanup() const { return impl().pending(); }

 private:
  static std::optional<Lease> lease(typename Impl::Reference reference) {
    if (reference.get() == nullptr) return std::nullopt;
    return Lease(std::move(reference));
  }

  static std::shared_ptr<Impl> make_impl(const asio::any_io_executor& executor,
                                         std::unique_ptr<detail::resource_pool::Factory<Key, Value>> factory,
                                         Options options) {
    // Named as the base class: another std::function would take a Finalizer for a function to wrap, even an empty one.
    std::function<asio::awaitable<void>(Value&)>& finalizer = options.finalizer;
    std::function<void(std::exception_ptr)>& on_error = options.on_error;
    std::function<void(const Event&)>& on_event_given = options.on_event;
    typename Impl::Callbacks callbacks{std::move(factory), std::move(finalizer), std::move(on_error), {}};
    if (on_event_given)
      callbacks.on_event = [on_event = std::move(on_event_given)](auto kind, const Key& key, const auto& error) {
        on_event(Event{static_cast<typename Event::Kind>(kind), key, error});  // the same enumerators
      };
    const bool events = callbacks.on_event != nullptr;
    const bool one_order = events || options.max_idle;
    const detail::resource_pool::Rules rules{options.ttl, options.max_idle, events,
                                             one_order ? 1 : detail::resource_pool::default_shards()};
    return std::make_shared<Impl>(executor, rules, std::move(callbacks));
  }

  Impl& impl() const {
    if (!impl_) throw std::logic_error("drover::ResourcePool: this pool has been moved from");
    return *impl_;
  }

  std::shared_ptr<Impl> impl_;
};

/// One holder's share of a value. Move-only. A lease belongs to one value: after clear() or discard() it still holds
/// that value, and never refers to the next value of the same key. Its destructor releases it like release(), without
/// waiting.
///
/// *Threads:* leases of one value may be used and released on different threads at once, if the value permits that; one
/// lease is for one thread at a time.
template <class Key, class Value, class Hash, class Equal>
class ResourcePool<Key, Value, Hash, Equal>::Lease {
 public:
  /// An empty lease: it converts to false, and its other members throw std::logic_error.
  Lease() = default;

  explicit operator bool() const noexcept { return reference_.get() != nullptr; }

  Value& operator*() const { return *entry().value; }
  Value* operator->() const { return entry().value.get(); }
  const Key& key() const { return entry().key; }

  /// Releases the lease. This takes effect at the call and cannot fail; the lease is empty afterwards. The awaitable
  /// waits for the finalizer, if this was the last lease and the value is not kept. An exception of the finalizer is
  /// passed to on_error. The release of a lease of a cleared value does nothing else.
  ///
  /// *Errors:* std::logic_error from the call itself if the lease is empty or was released before.
  /// *Cancellation:* ends the waiting only.
  [[nodiscard]] asio::awaitable<void> release() {
    auto& released = entry();
    reference_.take();
    return released.owner().release_and_wait(released);
  }

  /// Marks the value as bad, so that it is not handed out any more. The next acquire of its key creates a new value,
  /// and waits neither for other holders of this value nor for its finalizer. All leases, including this one, keep the
  /// value. It is finalized when the last of them is released, whatever the ttl is, and that release() waits for it.
  ///
  /// discard() takes effect when it is called and never suspends, so it works in a catch block, in a destructor and in
  /// a coroutine that has been cancelled. It affects this value only: any holder may call it, any number of times. It
  /// does nothing if the value has already been discarded or cleared, whatever value its key has by now.
  ///
  /// *Errors:* std::logic_error if the lease is empty or was released before.
  void discard() {
    auto& discarded = entry();
    discarded.owner().discard(discarded);
  }

 private:
  friend class ResourcePool;
  friend Impl;

  explicit Lease(typename Impl::Reference reference) noexcept : reference_(std::move(reference)) {}

  typename Impl::Entry& entry() const {
    if (reference_.get() == nullptr)
      throw std::logic_error("drover::ResourcePool::Lease: this lease is empty, moved from or released already");
    return *reference_.get();
  }

  typename Impl::Reference reference_;
};

}}  // namespace drover::v1
