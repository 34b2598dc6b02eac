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
  bool events = false;  // whether events are recorded
};

enum class EventKind : std::uint8_t { made, revived, expired, evicted, discarded, finalized, failed };

enum class AcquireResult : std::uint8_t { held, revived, wait, leaving };

struct Counts {
  std::size_t total, referenced, pending;
};

/// The states of all keys and every decision about them, as plain data: no lock, no clock, no executor. The resulting
/// work is collected and returned by take_work(), so that it is carried out without the lock.
template <class Entry, class Lookup>
class StateMachine {
 public:
  using Value = typename Entry::Value;

  struct PendingEvent {
    EventKind what;
    Entry* entry;  // pinned
    std::exception_ptr error;
  };

  struct Work {
    Disposable* run = nullptr;  // chained by next_task: call the factory or the finalizer, depending on the state
    Entry* garbage = nullptr;   // chained by chain: delete the entries, then call deleted()
    std::vector<std::shared_ptr<AsyncEvent>> wake;
  };

  explicit StateMachine(Rules rules) : rules_(rules) {}

  // Queries -------------------------------------------------------------------------------------

  template <class K>
  Entry* find(const Lookup& lookup, std::size_t hash, const K& key) const {
    return table_.find(lookup, hash, key);
  }

  Counts counts() const noexcept {
    const std::size_t referenced = count(State::live) + count(State::discarded);
    const std::size_t pending = count(State::idle) + count(State::finalizing);
    return {count(State::making) + referenced + pending, referenced, pending};
  }

  /// The entries being finalized, then the idle ones in the order of their expiry.
  template <class F>
  void for_each_pending(F f) const {
    leaving_.for_each([&f](const Entry& entry) {
      if (entry.state == State::finalizing) f(entry);
    });
    idle_.for_each(f);
  }

  /// When the first idle entry expires.
  Deadline next_due() const noexcept {
    if (idle_.empty() || idle_.front().deadline == Clock::time_point::max()) return std::nullopt;
    return idle_.front().deadline;
  }

  bool closed() const noexcept { return closed_; }
  /// The number of entries that have not been deleted yet.
  std::size_t entries() const noexcept { return entries_; }
  Duration ttl() const noexcept { return rules_.ttl; }

  // Transitions ---------------------------------------------------------------------------------

  /// A hit, or a reference to wait with. Does nothing if the key is being finalized.
  AcquireResult acquire(Entry& entry) noexcept {
    switch (entry.state) {
      case State::live:
        entry.expired = false;
        entry.refs.fetch_add(1, std::memory_order_relaxed);
        return AcquireResult::held;
      case State::idle:
        idle_.erase(entry);
        entry.refs.store(1, std::memory_order_relaxed);
        set_state(entry, State::live);
        note(EventKind::revived, entry);
        return AcquireResult::revived;
      case State::queued:
      case State::making:
        entry.expired = false;
        hold(entry);
        return AcquireResult::wait;
      case State::discarded:  // not found under its key
      case State::finalizing:
      case State::gone: break;
    }
    return AcquireResult::leaving;
  }

  /// For a missing key: its value is to be created, and the caller holds a reference.
  void insert(Entry& fresh) {
    table_.insert(fresh);
    ++entries_;
    ++states_[index(fresh.state = State::making)];
    hold(fresh);
    run(fresh);
  }

  /// For a key that is being finalized: its next value is to be created after that.
  void queue(Entry& leaving, Entry& fresh) {
    if (!leaving.waiters) leaving.waiters = std::make_unique<Waiters<Entry>>();
    leaving.waiters->successor = &fresh;
    fresh.previous = &leaving;
    ++entries_;
    hold(fresh);
  }

  void release(Entry& entry, Clock::time_point now) noexcept {
    if (entry.refs.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    switch (entry.state) {
      case State::live: return rest(entry, now);
      case State::discarded: discarded_.erase(entry); return closed_ ? drop(entry) : leave(entry);
      case State::queued:  // not begun, and no coroutine waits any more
        entry.previous->waiters->successor = nullptr;
        entry.state = State::gone;
        return reclaim(entry);
      case State::gone: return reclaim(entry);
      case State::making:  // is kept once created
      case State::idle:
      case State::finalizing: return;
    }
  }

  void made(Entry& entry, std::unique_ptr<Value> value, Clock::time_point now) noexcept {
    entry.value = std::move(value);
    wake(entry.waiters->ready);
    note(EventKind::made, entry);
    if (entry.cleared) {
      set_state(entry, State::finalizing);
      return run(entry);
    }
    entry.waiters.reset();
    if (entry.refs.load(std::memory_order_relaxed) > 0) return set_state(entry, State::live);
    rest(entry, now);
  }

  /// Returns true if no coroutine waits for the value, so that none receives the error.
  bool failed(Entry& entry, std::exception_ptr error) noexcept {
    wake(entry.waiters->ready);
    wake(entry.waiters->gone);
    if (entry.cleared) depart(entry);
    note(EventKind::failed, entry, error);
    entry.waiters->error = std::move(error);
    remove(entry);
    if (entry.refs.load(std::memory_order_relaxed) > 0) return false;
    reclaim(entry);
    return true;
  }

  /// The finalizer has ended, with or without an error.
  void finalized(Entry& entry, std::exception_ptr error) noexcept {
    const EventKind what = error ? EventKind::failed : EventKind::finalized;
    note(what, entry, std::move(error));
    depart(entry);
    remove(entry);
    if (entry.waiters) {
      wake(entry.waiters->gone);
      if (Entry* const successor = std::exchange(entry.waiters->successor, nullptr)) {
        successor->previous = nullptr;
        table_.insert(*successor);  // uses the room that remove() has just freed
        ++states_[index(successor->state = State::making)];
        run(*successor);
      }
    }
    if (entry.refs.load(std::memory_order_relaxed) == 0) reclaim(entry);
  }

  /// Returns true if the entry is being finalized now.
  bool expire(Entry& entry) noexcept {
    switch (entry.state) {
      case State::idle:
        idle_.erase(entry);
        note(EventKind::expired, entry);
        leave(entry);
        return true;
      case State::finalizing:
        if (entry.waiters && entry.waiters->successor != nullptr) entry.waiters->successor->expired = true;
        return true;
      default: entry.expired = true; return false;
    }
  }

  /// The value is bad: its key is free at once, its leases keep it. Does nothing if the entry is already leaving.
  void discard(Entry& entry) noexcept {
    if (entry.state != State::live) return;
    table_.erase(entry);
    entry.detached = true;
    set_state(entry, State::discarded);
    discarded_.push_back(entry);
    note(EventKind::discarded, entry);
  }

  void clear(Entry& entry) noexcept {
    if (entry.state == State::finalizing || entry.cleared) return;
    entry.cleared = true;
    if (entry.state == State::idle) idle_.erase(entry);
    if (entry.state == State::discarded) discarded_.erase(entry);
    if (entry.state == State::making) return leaving_.join(entry);  // finalized once created
    leave(entry);
  }

  void clear() noexcept {
    table_.for_each([this](Entry& entry) { clear(entry); });
    while (!discarded_.empty()) clear(discarded_.front());
  }

  /// Expires at most `limit` of the due entries. Returns true if there may be more.
  bool expire_due(Clock::time_point now, std::size_t limit) noexcept {
    for (; !idle_.empty() && idle_.front().deadline <= now; --limit) {
      if (limit == 0) return true;
      expire(idle_.front());
    }
    return false;
  }

  /// The pool is destroyed: its idle values are destroyed with it, and no value is kept any more.
  void close() noexcept {
    closed_ = true;
    while (!idle_.empty()) {
      Entry& entry = idle_.front();
      idle_.erase(entry);
      drop(entry);
    }
  }

  // Events to wait for --------------------------------------------------------------------------

  /// The end of a key that is being finalized, or was cleared while its value was being created.
  std::shared_ptr<AsyncEvent> gone_event(Entry& entry) {
    if (!entry.waiters) entry.waiters = std::make_unique<Waiters<Entry>>();
    if (!entry.waiters->gone) entry.waiters->gone = std::make_shared<AsyncEvent>();
    return entry.waiters->gone;
  }

  /// An event that is set when all entries that are leaving now have departed; null if there are none.
  std::shared_ptr<AsyncEvent> all_gone_event() { return leaving_.all_gone_event(); }

  // Work ----------------------------------------------------------------------------------------

  bool has_work() const noexcept { return has_work_; }

  Work take_work() noexcept {
    has_work_ = false;
    last_to_run_ = nullptr;
    return std::exchange(work_, Work{});
  }

  bool has_events() const noexcept { return !notices_.empty(); }
  std::vector<PendingEvent> take_events() noexcept { return std::exchange(notices_, {}); }

  void unpin(Entry& entry) noexcept {
    if (--entry.pins == 0 && entry.state == State::gone && entry.refs.load(std::memory_order_relaxed) == 0)
      reclaim(entry);
  }

  /// So many of the entries that take_work() returned have been deleted.
  void deleted(std::size_t entries) noexcept { entries_ -= entries; }

 private:
  static constexpr std::size_t index(State state) noexcept { return static_cast<std::size_t>(state); }
  std::size_t count(State state) const noexcept { return states_[index(state)]; }

  void set_state(Entry& entry, State state) noexcept {
    --states_[index(entry.state)];
    ++states_[index(entry.state = state)];
  }

  void hold(Entry& entry) noexcept { entry.refs.fetch_add(1, std::memory_order_relaxed); }

  /// The last reference has been released.
  void rest(Entry& entry, Clock::time_point now) noexcept {
    if (closed_) return drop(entry);
    if (entry.expired) note(EventKind::expired, entry);
    if (entry.expired || rules_.ttl == Duration::zero()) return leave(entry);
    set_state(entry, State::idle);
    entry.deadline = deadline_after(now, rules_.ttl).value_or(Clock::time_point::max());
    // The thread that read the clock first need not be the first to get the lock.
    if (!idle_.empty() && idle_.back().deadline > entry.deadline) entry.deadline = idle_.back().deadline;
    idle_.push_back(entry);
    if (!rules_.max_idle || count(State::idle) <= *rules_.max_idle) return;
    Entry& least_recent = idle_.front();
    idle_.erase(least_recent);
    note(EventKind::evicted, least_recent);
    leave(least_recent);
  }

  void leave(Entry& entry) noexcept {
    set_state(entry, State::finalizing);
    leaving_.join(entry);
    run(entry);
  }

  void depart(Entry& entry) noexcept {
    leaving_.depart(entry, [this](std::shared_ptr<AsyncEvent>& event) { wake(event); });
  }

  void drop(Entry& entry) noexcept {
    remove(entry);
    reclaim(entry);
  }

  void remove(Entry& entry) noexcept {
    if (!entry.detached) table_.erase(entry);
    set_state(entry, State::gone);
  }

  void run(Entry& entry) noexcept {
    (last_to_run_ != nullptr ? last_to_run_->next_task : work_.run) = &entry;
    last_to_run_ = &entry;
    entry.next_task = nullptr;
    has_work_ = true;
  }

  void reclaim(Entry& entry) noexcept {
    if (entry.pins > 0) return;
    entry.chain = std::exchange(work_.garbage, &entry);
    has_work_ = true;
  }

  void wake(std::shared_ptr<AsyncEvent>& event) noexcept {
    if (!event) return;
    work_.wake.push_back(std::move(event));
    has_work_ = true;
  }

  void note(EventKind what, Entry& entry, std::exception_ptr error = {}) noexcept {
    if (!rules_.events || closed_) return;
    notices_.push_back({what, &entry, std::move(error)});
    ++entry.pins;
    has_work_ = true;
  }

  Rules rules_;
  Table<Entry, Lookup> table_;
  List<Entry> idle_;       // in the order of their deadlines
  List<Entry> discarded_;  // discarded, and still leased
  Departures<Entry> leaving_;
  std::array<std::size_t, 7> states_{};
  std::size_t entries_ = 0;
  Work work_;
  Entry* last_to_run_ = nullptr;
  std::vector<PendingEvent> notices_;
  bool has_work_ = false;
  bool closed_ = false;
};

}}}}  // namespace drover::v1::detail::resource_pool
