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

/// What those wait for who could not be served at once. A node has one only while somebody may be waiting.
template <class Node>
struct Transit {
  std::shared_ptr<AsyncEvent> ready;  // made, failed, or cleared while it was being made
  std::shared_ptr<AsyncEvent> gone;
  std::exception_ptr error;   // of the factory
  Node* successor = nullptr;  // to be made once this one has been finalized
};

/// One generation of a key: from the first acquire until its value is gone. The value made for the same key afterwards
/// is another node, so that a lease, which is a pointer to its node, can never touch it.
template <class Key_, class Value_, class Owner>
struct Node : Disposable {
  using Key = Key_;
  using Value = Value_;

  Node(Key k, std::size_t h, Owner& o) : Disposable(o), hash(h), key(std::move(k)) {}

  Owner& owner() const noexcept { return static_cast<Owner&>(*disposer); }

  // What a hit touches comes first.
  Node* chain = nullptr;  // next in the bucket of the table; next to be deleted once it has left the table
  const std::size_t hash;
  Node* previous = nullptr;  // in the list of idle ones, or of leaving ones; the predecessor of a queued one
  Node* next = nullptr;
  Clock::time_point deadline{};  // while idle
  // Leases and waiters. Only with the lock held does it grow, or fall to zero.
  std::atomic<std::uint32_t> refs{0};
  std::uint32_t pins = 0;  // notices that name it
  State state = State::queued;
  bool expired = false;  // finalize it at the last release
  bool cleared = false;
  bool detached = false;  // from its key, by discard(): not in the table
  const Key key;
  std::unique_ptr<Value> value;
  std::unique_ptr<Transit<Node>> transit;
  std::uint64_t departure = 0;  // while leaving: in which order they left
};

template <class Node>
class List {
 public:
  bool empty() const noexcept { return first_ == nullptr; }
  Node& front() const noexcept { return *first_; }
  Node& back() const noexcept { return *last_; }

  void push_back(Node& node) noexcept {
    node.previous = last_;
    node.next = nullptr;
    (last_ != nullptr ? last_->next : first_) = &node;
    last_ = &node;
  }

  void erase(Node& node) noexcept {
    (node.previous != nullptr ? node.previous->next : first_) = node.next;
    (node.next != nullptr ? node.next->previous : last_) = node.previous;
    node.previous = node.next = nullptr;
  }

  template <class F>
  void for_each(F f) const {
    for (const Node* node = first_; node != nullptr; node = node->next) f(*node);
  }

 private:
  Node* first_ = nullptr;
  Node* last_ = nullptr;
};

/// One reference to a node.
template <class Node>
class Hold {
 public:
  Hold() = default;
  explicit Hold(Node& node) noexcept : node_(&node) {}  // takes over one that is counted already
  Hold(Hold&& other) noexcept : node_(other.take()) {}
  Hold& operator=(Hold&& other) noexcept {
    Hold old(std::exchange(node_, other.take()));
    return *this;
  }
  ~Hold() {
    if (node_ != nullptr) node_->owner().release(*node_);
  }

  Node* get() const noexcept { return node_; }
  Node* take() noexcept { return std::exchange(node_, nullptr); }

 private:
  explicit Hold(Node* node) noexcept : node_(node) {}

  Node* node_ = nullptr;
};

}}}}  // namespace drover::v1::detail::resource_pool
