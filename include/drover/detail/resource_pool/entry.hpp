#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <utility>

#include <drover/detail/resource_pool/disposal.hpp>
#include <drover/detail/resource_pool/event_chain.hpp>
#include <drover/detail/resource_pool/event_queue.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The states of a hit come first: StateCounts has their numbers in the cache line of the lock.
enum class State : std::uint8_t {
  leased,      // in the table, with at least one reference
  idle,        // without a reference, kept in the list of idle entries
  queued,      // waits until the previous value of its key is finalized; not in the table yet
  creating,    // the factory runs or is about to run
  discarded,   // leased, but no longer in the table
  finalizing,  // the finalizer runs or is about to run
  removed,     // no longer in the table; leases that outlived a clear() may still refer to the entry
};

/// What coroutines that wait for an entry need. An entry has Waiters only while a coroutine may be waiting.
template <class Entry>
struct Waiters {
  std::shared_ptr<ChainedEvent> ready;  // set when the factory has ended, with a value or with an error
  std::shared_ptr<ChainedEvent> ended;  // set when the entry is removed
  std::exception_ptr error;             // the exception of the factory
  Entry* successor = nullptr;           // the queued entry of the same key, created once this one is finalized
};

/// One generation of a key: from the first acquire until its value is destroyed. The next value of the same key is
/// another entry, so a lease, which is a pointer to its entry, can never refer to that value.
template <class Key_, class Value_, class Owner>
struct Entry : Disposable {
  using Key = Key_;
  using Value = Value_;

  Entry(Key k, std::size_t h, Owner& o) : Disposable(o), hash(h), key(std::move(k)) {}

  Owner& owner() const noexcept { return static_cast<Owner&>(*disposer); }

  /// When it expires. While idle.
  Clock::time_point deadline() const noexcept { return Clock::time_point(Clock::duration(this->ticks)); }
  void set_deadline(Clock::time_point at) noexcept { this->ticks = at.time_since_epoch().count(); }

  /// Releases a reference without the lock, unless it is the last one. Returns true if it did.
  bool release_shared() noexcept {
    auto count = references.load(std::memory_order_relaxed);
    while (count > 1)
      if (references.compare_exchange_weak(count, count - 1, std::memory_order_release, std::memory_order_relaxed))
        return true;
    return false;
  }

  bool ends_if_expired() const noexcept { return state == State::idle || state == State::finalizing; }

  Waiters<Entry>& make_waiters() {
    if (!waiters) waiters = std::make_unique<Waiters<Entry>>();
    return *waiters;
  }

  /// An event that is set when this entry has ended.
  std::shared_ptr<ChainedEvent> end_event() {
    std::shared_ptr<ChainedEvent>& event = make_waiters().ended;
    if (!event) event = std::make_shared<ChainedEvent>();
    return event;
  }

  // The members that a hit uses come first, near each other.
  Entry* chain = nullptr;  // the next entry in its bucket of the table; after its removal, the next one to delete
  const std::size_t hash;
  Entry* previous = nullptr;  // in the list that contains the entry; of a queued entry: the one that it waits for
  Entry* next = nullptr;      // in that list
  // The number of leases and of waiting coroutines. It increases, and falls to zero, only with the lock held.
  std::atomic<std::uint32_t> references{0};
  std::uint32_t pending_events = 0;  // the events that refer to this entry and are not delivered yet
  State state = State::queued;
  bool finalizer_failed_to_begin = false;  // for want of memory; set without the lock
  bool expired : 1 = false;                // finalize it at its last release, whatever the ttl is
  bool cleared : 1 = false;                // clear() was called for it
  bool detached : 1 = false;               // discard() has separated it from its key: not in the table
  bool emptied : 1 = false;                // removed, and its value is destroyed
  std::uint32_t round = 0;                 // see EndingEntries
  const Key key;
  std::unique_ptr<Value> value;
  std::unique_ptr<Waiters<Entry>> waiters;
  PendingEvents<Entry> spare_events;  // room for all events that it may still have, unless it is revived
};

/// The values of a chain of entries are destroyed. Returns the entries that no event refers to any more, and subtracts
/// their number from `entries`. The others are deleted later.
template <class Entry>
Entry* take_deletable(Entry* chain, std::size_t& entries) noexcept {
  Entry* deletable = nullptr;
  while (chain != nullptr) {
    Entry& entry = *std::exchange(chain, chain->chain);
    entry.emptied = true;
    if (entry.pending_events > 0) continue;
    entry.chain = std::exchange(deletable, &entry);
    --entries;
  }
  return deletable;
}

/// One counted reference to an entry. Its destructor releases it.
template <class Entry>
class Reference {
 public:
  Reference() = default;
  explicit Reference(Entry& entry) noexcept : entry_(&entry) {}  // takes over a reference that is already counted
  Reference(Reference&& other) noexcept : entry_(other.take()) {}
  Reference& operator=(Reference&& other) noexcept {
    Reference old(std::exchange(entry_, other.take()));
    return *this;
  }
  ~Reference() {
    if (entry_ != nullptr) entry_->owner().release(*entry_);
  }

  Entry* get() const noexcept { return entry_; }
  Entry* take() noexcept { return std::exchange(entry_, nullptr); }

 private:
  explicit Reference(Entry* entry) noexcept : entry_(entry) {}

  Entry* entry_ = nullptr;
};

}}}}  // namespace drover::v1::detail::resource_pool
