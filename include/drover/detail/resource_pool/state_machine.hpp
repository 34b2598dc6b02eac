#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <drover/detail/context/async_event.hpp>
#include <drover/detail/resource_pool/departures.hpp>
#include <drover/detail/resource_pool/entry.hpp>
#include <drover/detail/resource_pool/key_table.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

struct Rules {
  Duration ttl{};
  std::optional<std::size_t> max_idle;
  bool notices = false;  // are they wanted?
};

enum class Happening : std::uint8_t { made, revived, expired, evicted, discarded, finalized, failed };

enum class Grant : std::uint8_t { held, revived, wait, leaving };

struct Counts {
  std::size_t total, referenced, pending;
};

/// The states of all keys and every decision about them, on data: no lock, no clock, no executor. What the pool has to
/// do in consequence is collected and taken with take_work(), so that it is done without the lock.
template <class Node, class Lookup>
class Machine {
 public:
  using Value = typename Node::Value;

  struct Notice {
    Happening what;
    Node* node;  // pinned
    std::exception_ptr error;
  };

  struct Work {
    Disposable* run = nullptr;  // chained by next_task: call the factory or the finalizer, as their state says
    Node* garbage = nullptr;    // chained by chain: delete, and say so
    std::vector<std::shared_ptr<AsyncEvent>> wake;
  };

  explicit Machine(Rules rules) : rules_(rules) {}

  // What there is -------------------------------------------------------------------------------

  template <class K>
  Node* find(const Lookup& lookup, std::size_t hash, const K& key) const {
    return table_.find(lookup, hash, key);
  }

  Counts counts() const noexcept {
    const std::size_t referenced = count(State::live) + count(State::discarded);
    const std::size_t pending = count(State::idle) + count(State::finalizing);
    return {count(State::making) + referenced + pending, referenced, pending};
  }

  /// Those being finalized, then the idle ones, in the order in which they will expire.
  template <class F>
  void for_each_pending(F f) const {
    leaving_.for_each([&f](const Node& node) {
      if (node.state == State::finalizing) f(node);
    });
    idle_.for_each(f);
  }

  /// When the first of the idle ones expires.
  Deadline next_due() const noexcept {
    if (idle_.empty() || idle_.front().deadline == Clock::time_point::max()) return std::nullopt;
    return idle_.front().deadline;
  }

  bool closed() const noexcept { return closed_; }
  /// How many have not been deleted yet.
  std::size_t nodes() const noexcept { return nodes_; }
  Duration ttl() const noexcept { return rules_.ttl; }

  // What happens --------------------------------------------------------------------------------

  /// A hit, or a place among those that wait. Does nothing if the key is being finalized.
  Grant acquire(Node& node) noexcept {
    switch (node.state) {
      case State::live:
        node.expired = false;
        node.refs.fetch_add(1, std::memory_order_relaxed);
        return Grant::held;
      case State::idle:
        idle_.erase(node);
        node.refs.store(1, std::memory_order_relaxed);
        set_state(node, State::live);
        note(Happening::revived, node);
        return Grant::revived;
      case State::queued:
      case State::making:
        node.expired = false;
        hold(node);
        return Grant::wait;
      case State::discarded:  // not found under its key
      case State::finalizing:
      case State::gone: break;
    }
    return Grant::leaving;
  }

  /// A key that is missing: it is to be made, and whoever asked holds it.
  void insert(Node& fresh) {
    table_.insert(fresh);
    ++nodes_;
    ++states_[index(fresh.state = State::making)];
    hold(fresh);
    run(fresh);
  }

  /// A key that is being finalized: it is to be made again after that.
  void queue(Node& leaving, Node& fresh) {
    if (!leaving.transit) leaving.transit = std::make_unique<Transit<Node>>();
    leaving.transit->successor = &fresh;
    fresh.previous = &leaving;
    ++nodes_;
    hold(fresh);
  }

  void release(Node& node, Clock::time_point now) noexcept {
    if (node.refs.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    switch (node.state) {
      case State::live: return rest(node, now);
      case State::discarded: discarded_.erase(node); return closed_ ? drop(node) : leave(node);
      case State::queued:  // not begun, and nobody waits any more
        node.previous->transit->successor = nullptr;
        node.state = State::gone;
        return reclaim(node);
      case State::gone: return reclaim(node);
      case State::making:  // is kept once made
      case State::idle:
      case State::finalizing: return;
    }
  }

  void made(Node& node, std::unique_ptr<Value> value, Clock::time_point now) noexcept {
    node.value = std::move(value);
    wake(node.transit->ready);
    note(Happening::made, node);
    if (node.cleared) {
      set_state(node, State::finalizing);
      return run(node);
    }
    node.transit.reset();
    if (node.refs.load(std::memory_order_relaxed) > 0) return set_state(node, State::live);
    rest(node, now);
  }

  /// True if nobody waits for it, so that nobody gets to see the error.
  bool failed(Node& node, std::exception_ptr error) noexcept {
    wake(node.transit->ready);
    wake(node.transit->gone);
    if (node.cleared) depart(node);
    note(Happening::failed, node, error);
    node.transit->error = std::move(error);
    remove(node);
    if (node.refs.load(std::memory_order_relaxed) > 0) return false;
    reclaim(node);
    return true;
  }

  /// The finalizer has ended, one way or the other.
  void finalized(Node& node, std::exception_ptr error) noexcept {
    const Happening what = error ? Happening::failed : Happening::finalized;
    note(what, node, std::move(error));
    depart(node);
    remove(node);
    if (node.transit) {
      wake(node.transit->gone);
      if (Node* const successor = std::exchange(node.transit->successor, nullptr)) {
        successor->previous = nullptr;
        table_.insert(*successor);  // into the room that was left just now
        ++states_[index(successor->state = State::making)];
        run(*successor);
      }
    }
    if (node.refs.load(std::memory_order_relaxed) == 0) reclaim(node);
  }

  /// True if it is being finalized now.
  bool expire(Node& node) noexcept {
    switch (node.state) {
      case State::idle:
        idle_.erase(node);
        note(Happening::expired, node);
        leave(node);
        return true;
      case State::finalizing:
        if (node.transit && node.transit->successor != nullptr) node.transit->successor->expired = true;
        return true;
      default: node.expired = true; return false;
    }
  }

  /// The value is no good: its key is free at once, its leases keep it. Nothing if it is on its way out already.
  void discard(Node& node) noexcept {
    if (node.state != State::live) return;
    table_.erase(node);
    node.detached = true;
    set_state(node, State::discarded);
    discarded_.push_back(node);
    note(Happening::discarded, node);
  }

  void clear(Node& node) noexcept {
    if (node.state == State::finalizing || node.cleared) return;
    node.cleared = true;
    if (node.state == State::idle) idle_.erase(node);
    if (node.state == State::discarded) discarded_.erase(node);
    if (node.state == State::making) return leaving_.join(node);  // finalized once made
    leave(node);
  }

  void clear() noexcept {
    table_.for_each([this](Node& node) { clear(node); });
    while (!discarded_.empty()) clear(discarded_.front());
  }

  /// Takes at most so many of those whose time has come; true if there may be more.
  bool expire_due(Clock::time_point now, std::size_t limit) noexcept {
    for (; !idle_.empty() && idle_.front().deadline <= now; --limit) {
      if (limit == 0) return true;
      expire(idle_.front());
    }
    return false;
  }

  /// The pool is gone: what is idle goes with it, and nothing is kept any more.
  void close() noexcept {
    closed_ = true;
    while (!idle_.empty()) {
      Node& node = idle_.front();
      idle_.erase(node);
      drop(node);
    }
  }

  // What to wait for ----------------------------------------------------------------------------

  /// Of a key that is being finalized, or was cleared while being made.
  std::shared_ptr<AsyncEvent> gone_event(Node& node) {
    if (!node.transit) node.transit = std::make_unique<Transit<Node>>();
    if (!node.transit->gone) node.transit->gone = std::make_shared<AsyncEvent>();
    return node.transit->gone;
  }

  /// Set when all those have gone that are leaving now; null if there are none.
  std::shared_ptr<AsyncEvent> all_gone_event() { return leaving_.all_gone_event(); }

  // What to do ----------------------------------------------------------------------------------

  bool has_work() const noexcept { return has_work_; }

  Work take_work() noexcept {
    has_work_ = false;
    last_to_run_ = nullptr;
    return std::exchange(work_, Work{});
  }

  bool has_notices() const noexcept { return !notices_.empty(); }
  std::vector<Notice> take_notices() noexcept { return std::exchange(notices_, {}); }

  void unpin(Node& node) noexcept {
    if (--node.pins == 0 && node.state == State::gone && node.refs.load(std::memory_order_relaxed) == 0) reclaim(node);
  }

  /// So many of those that take_work() gave.
  void deleted(std::size_t nodes) noexcept { nodes_ -= nodes; }

 private:
  static constexpr std::size_t index(State state) noexcept { return static_cast<std::size_t>(state); }
  std::size_t count(State state) const noexcept { return states_[index(state)]; }

  void set_state(Node& node, State state) noexcept {
    --states_[index(node.state)];
    ++states_[index(node.state = state)];
  }

  void hold(Node& node) noexcept { node.refs.fetch_add(1, std::memory_order_relaxed); }

  /// Nobody holds it any more.
  void rest(Node& node, Clock::time_point now) noexcept {
    if (closed_) return drop(node);
    if (node.expired) note(Happening::expired, node);
    if (node.expired || rules_.ttl == Duration::zero()) return leave(node);
    set_state(node, State::idle);
    node.deadline = deadline_after(now, rules_.ttl).value_or(Clock::time_point::max());
    // Whoever read the clock first need not be the first to get the lock.
    if (!idle_.empty() && idle_.back().deadline > node.deadline) node.deadline = idle_.back().deadline;
    idle_.push_back(node);
    if (!rules_.max_idle || count(State::idle) <= *rules_.max_idle) return;
    Node& least_recent = idle_.front();
    idle_.erase(least_recent);
    note(Happening::evicted, least_recent);
    leave(least_recent);
  }

  void leave(Node& node) noexcept {
    set_state(node, State::finalizing);
    leaving_.join(node);
    run(node);
  }

  void depart(Node& node) noexcept {
    leaving_.depart(node, [this](std::shared_ptr<AsyncEvent>& event) { wake(event); });
  }

  void drop(Node& node) noexcept {
    remove(node);
    reclaim(node);
  }

  void remove(Node& node) noexcept {
    if (!node.detached) table_.erase(node);
    set_state(node, State::gone);
  }

  void run(Node& node) noexcept {
    (last_to_run_ != nullptr ? last_to_run_->next_task : work_.run) = &node;
    last_to_run_ = &node;
    node.next_task = nullptr;
    has_work_ = true;
  }

  void reclaim(Node& node) noexcept {
    if (node.pins > 0) return;
    node.chain = std::exchange(work_.garbage, &node);
    has_work_ = true;
  }

  void wake(std::shared_ptr<AsyncEvent>& event) noexcept {
    if (!event) return;
    work_.wake.push_back(std::move(event));
    has_work_ = true;
  }

  void note(Happening what, Node& node, std::exception_ptr error = {}) noexcept {
    if (!rules_.notices || closed_) return;
    notices_.push_back({what, &node, std::move(error)});
    ++node.pins;
    has_work_ = true;
  }

  Rules rules_;
  Table<Node, Lookup> table_;
  List<Node> idle_;       // in the order of their deadlines
  List<Node> discarded_;  // and still leased
  Departures<Node> leaving_;
  std::array<std::size_t, 7> states_{};
  std::size_t nodes_ = 0;
  Work work_;
  Node* last_to_run_ = nullptr;
  std::vector<Notice> notices_;
  bool has_work_ = false;
  bool closed_ = false;
};

}}}}  // namespace drover::v1::detail::resource_pool
