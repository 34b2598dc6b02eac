#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <utility>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/resource_pool/disposal.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

enum class State : std::uint8_t {
  queued,      // waits for the value before it to be finalized; not in the table yet
  making,      // the factory runs
  live,        // leased
  discarded,   // leased, not in the table any more
  idle,        // kept, in the list of idle ones
  finalizing,  // the finalizer runs, or is about to
  gone,        // not in the table any more; leases that outlived a clear() may still hold it
};

/// What those wait for who could not be served at once. A entry has one only while somebody may be waiting.
template <class Entry>
struct Waiters {
  std::shared_ptr<AsyncEvent> ready;  // made, failed, or cleared while it was being made
  std::shared_ptr<AsyncEvent> gone;
  std::exception_ptr error;    // of the factory
  Entry* successor = nullptr;  // to be made once this one has been finalized
};

/// One generation of a key: from the first acquire until its value is gone. The value made for the same key afterwards
/// is another entry, so that a lease, which is a pointer to its entry, can never touch it.
template <class Key_, class Value_, class Owner>
struct Entry : Disposable {
  using Key = Key_;
  using Value = Value_;

  Entry(Key k, std::size_t h, Owner& o) : Disposable(o), hash(h), key(std::move(k)) {}

  Owner& owner() const noexcept { return static_cast<Owner&>(*disposer); }

  // What a hit touches comes first.
  Entry* chain = nullptr;  // next in the bucket of the table; next to be deleted once it has left the table
  const std::size_t hash;
  Entry* previous = nullptr;  // in the list of idle ones, or of leaving ones; the predecessor of a queued one
  Entry* next = nullptr;
  Clock::time_point deadline{};  // while idle
  // Leases and waiters. Only with the lock held does it grow, or fall to zero.
  std::atomic<std::uint32_t> refs{0};
  std::uint32_t pins = 0;  // events that name it
  State state = State::queued;
  bool expired = false;  // finalize it at the last release
  bool cleared = false;
  bool detached = false;  // from its key, by discard(): not in the table
  const Key key;
  std::unique_ptr<Value> value;
  std::unique_ptr<Waiters<Entry>> waiters;
  std::uint64_t departure = 0;  // while leaving: in which order they left
};

template <class Entry>
class List {
 public:
  bool empty() const noexcept { return first_ == nullptr; }
  Entry& front() const noexcept { return *first_; }
  Entry& back() const noexcept { return *last_; }

  void push_back(Entry& entry) noexcept {
    entry.previous = last_;
    entry.next = nullptr;
    (last_ != nullptr ? last_->next : first_) = &entry;
    last_ = &entry;
  }

  void erase(Entry& entry) noexcept {
    (entry.previous != nullptr ? entry.previous->next : first_) = entry.next;
    (entry.next != nullptr ? entry.next->previous : last_) = entry.previous;
    entry.previous = entry.next = nullptr;
  }

  template <class F>
  void for_each(F f) const {
    for (const Entry* entry = first_; entry != nullptr; entry = entry->next) f(*entry);
  }

 private:
  Entry* first_ = nullptr;
  Entry* last_ = nullptr;
};

/// One reference to a entry.
template <class Entry>
class Reference {
 public:
  Reference() = default;
  explicit Reference(Entry& entry) noexcept : entry_(&entry) {}  // takes over one that is counted already
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
