#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <utility>

#include <drover/detail/intrusive_list.hpp>
#include <drover/detail/key_table.hpp>
#include <drover/detail/resource_pool/actions.hpp>
#include <drover/detail/resource_pool/clear_backlog.hpp>
#include <drover/detail/resource_pool/ending_entries.hpp>
#include <drover/detail/resource_pool/entry.hpp>
#include <drover/detail/resource_pool/event_chain.hpp>
#include <drover/detail/resource_pool/event_queue.hpp>
#include <drover/detail/resource_pool/idle_entries.hpp>
#include <drover/detail/resource_pool/rules.hpp>
#include <drover/detail/resource_pool/state_counts.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// The states of all entries and every decision about them, as plain data: no lock, no clock, no executor. The
/// transitions collect the resulting actions, and take_actions() returns them, to be performed without the lock.
template <class Entry, class Lookup>
class StateMachine {
 public:
  using Value = typename Entry::Value;

  explicit StateMachine(Rules rules) : rules_(rules) {}

  // Queries -------------------------------------------------------------------------------------

  bool is_leased(const Entry& entry) const noexcept {
    return entry.state == State::leased && entry.round == ending_.round();
  }

  Counts counts() const noexcept { return states_.counts(); }

  const KeyTable<Entry, Lookup>& table() const noexcept { return table_; }

  bool is_finalizing(const Entry& entry) const noexcept {
    return entry.state == State::finalizing ||
           (entry.state != State::creating && backlog_.contains(entry, ending_.round()));
  }

  template <class F>
  void for_each_finalizing(F f) const {
    ending_.for_each([&f](const Entry& entry) {
      if (entry.state == State::finalizing) f(entry);
    });
    backlog_.for_each_finalizing(table_, ending_.round(), f);
  }

  /// Those being finalized that are not in the table.
  template <class F>
  void for_each_detached(F f) const {
    if (detached_ == 0) return;
    for_each_finalizing([&](const Entry& entry) {
      if (entry.detached) f(entry);
    });
  }

  const IdleEntries<Entry>& idle() const noexcept { return idle_; }

  /// When the first idle entry expires.
  Deadline next_due() const noexcept { return idle_.next_due(); }

  bool closed() const noexcept { return closed_; }
  /// The number of entries that have not been deleted yet.
  std::size_t entries() const noexcept { return entries_; }
  Duration ttl() const noexcept { return rules_.ttl; }

  // Transitions ---------------------------------------------------------------------------------

  /// Null if the key is missing.
  template <class K>
  Entry* find(const Lookup& lookup, std::size_t hash, const K& key) {
    Entry* const entry = table_.find(lookup, hash, key);
    if (entry != nullptr) catch_up(*entry);
    return entry;
  }

  /// Makes room for the events of an entry that is not in the pool yet, so that no transition has to allocate one.
  void prepare(Entry& fresh) const {
    if (rules_.events) EventQueue<Entry>::reserve(fresh, EventQueue<Entry>::events_of_an_entry);
  }

  /// Adds a reference to the entry, or to its successor if it is being finalized, and returns that one. Returns null if
  /// there is no successor yet. Unless the returned entry is leased, its value can be used when Waiters::ready is set.
  /// If this throws, because there is no memory for an event, nothing has changed.
  Entry* acquire(Entry& entry) {
    switch (entry.state) {
      case State::leased:
      case State::creating: return add_reference(entry);
      case State::idle: return revive(entry);
      case State::finalizing:
        if (!entry.waiters || entry.waiters->successor == nullptr) return nullptr;
        return add_reference(*entry.waiters->successor);
      default: return nullptr;  // not in the table
    }
  }

  /// The key is missing: its value will be created. The caller gets a reference to it. The entry was given to
  /// prepare().
  void insert(Entry& fresh) noexcept {
    ++entries_;
    add_reference(fresh);
    begin_creating(fresh);
  }

  /// The key is being finalized: its next value will be created after that. The caller gets a reference to it. The
  /// entry was given to prepare().
  void queue_after(Entry& finalizing, Entry& fresh) {
    finalizing.make_waiters().successor = &fresh;
    fresh.previous = &finalizing;
    ++entries_;
    add_reference(fresh);
  }

  void release(Entry& entry, Clock::time_point now) noexcept {
    if (entry.references.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    catch_up(entry);
    switch (entry.state) {
      case State::leased: return become_idle(entry, now);
      case State::discarded:
        discarded_.erase(entry);
        return closed_ ? remove_and_delete(entry) : begin_finalizing(entry);
      case State::queued:  // its factory has not begun, and no coroutine waits any more
        entry.previous->waiters->successor = nullptr;
        entry.state = State::removed;
        return actions_.delete_entry(entry);
      case State::removed: return actions_.delete_entry(entry);
      case State::creating:  // its value is kept idle once created
      case State::idle:
      case State::finalizing: return;
    }
  }

  void factory_succeeded(Entry& entry, std::unique_ptr<Value> value, Clock::time_point now) noexcept {
    catch_up(entry);
    if (!entry.cleared) --to_keep_;
    entry.value = std::move(value);
    actions_.set_event(entry.waiters->ready);
    record_event(EventKind::made, entry);
    if (entry.cleared) {
      states_.change(entry, State::finalizing);
      return actions_.run(entry);
    }
    entry.waiters.reset();
    if (entry.references.load(std::memory_order_relaxed) > 0) return states_.change(entry, State::leased);
    become_idle(entry, now);
  }

  /// Returns true if no coroutine waits for the value, so that no coroutine receives the error.
  bool factory_failed(Entry& entry, std::exception_ptr error) noexcept {
    catch_up(entry);
    actions_.set_event(entry.waiters->ready);
    actions_.set_event(entry.waiters->ended);
    if (entry.cleared)
      finish_ending(entry);
    else
      --to_keep_;
    record_event(EventKind::failed, entry, error);
    entry.waiters->error = std::move(error);
    remove(entry);
    if (entry.references.load(std::memory_order_relaxed) > 0) return false;
    actions_.delete_entry(entry);
    return true;
  }

  /// The finalizer has ended, with or without an error.
  void finalizer_ended(Entry& entry, std::exception_ptr error) noexcept {
    const EventKind kind = error ? EventKind::failed : EventKind::finalized;
    record_event(kind, entry, std::move(error));
    finish_ending(entry);
    remove(entry);
    if (entry.waiters) {
      actions_.set_event(entry.waiters->ended);
      if (Entry* const successor = std::exchange(entry.waiters->successor, nullptr)) {
        successor->previous = nullptr;
        begin_creating(*successor);
      }
    }
    if (entry.references.load(std::memory_order_relaxed) == 0) actions_.delete_entry(entry);
  }

  /// Returns true if the entry is being finalized now. Entry::ends_if_expired() knows that before.
  bool expire(Entry& entry) noexcept {
    switch (entry.state) {
      case State::idle:
        idle_.erase(entry);
        record_event(EventKind::expired, entry);
        begin_finalizing(entry);
        return true;
      case State::finalizing:
        if (entry.waiters && entry.waiters->successor != nullptr) entry.waiters->successor->expired = true;
        return true;
      default: entry.expired = true; return false;
    }
  }

  /// The value is bad: its key can have a new value at once, and its leases keep the bad one. Does nothing if the entry
  /// is already ending.
  void discard(Entry& entry) noexcept {
    catch_up(entry);
    if (entry.state != State::leased) return;
    table_.erase(entry);
    entry.detached = true;
    ++detached_;
    states_.change(entry, State::discarded);
    discarded_.push_back(entry);
    record_event(EventKind::discarded, entry);
  }

  /// Finalizes the entry now, or as soon as its value is created.
  void clear(Entry& entry) noexcept {
    if (entry.state == State::finalizing || entry.cleared) return;
    entry.cleared = true;
    if (entry.state == State::idle) idle_.erase(entry);
    if (entry.state == State::discarded) discarded_.erase(entry);
    if (entry.state != State::creating) return begin_finalizing(entry);
    --to_keep_;
    ending_.add(entry);
  }

  /// To be called before clear(). Returns an event for it.
  std::shared_ptr<ChainedEvent> prepare_clear() {
    ending_.reserve_round();
    return std::make_shared<ChainedEvent>();
  }

  /// Clears all entries. There is at least one. The event is set when all that are ending now have ended. Only counts:
  /// clear_some() does the rest. Until then catch_up() does it for the entry that an operation is about.
  void clear(std::shared_ptr<ChainedEvent> all_ended) noexcept {
    const std::size_t in_use = states_[State::leased] + std::exchange(to_keep_, 0);
    ending_.end_round(in_use + states_[State::idle] + states_[State::discarded], std::move(all_ended));
    backlog_.add(idle_.list(), discarded_, in_use);
    for (const State state : {State::leased, State::idle, State::discarded}) states_.move(state, State::finalizing);
  }

  /// Begins to end at most `limit` entries of clear(), and reduces the limit by their number. Returns true if there are
  /// more.
  bool clear_some(std::size_t& limit) noexcept {
    for (; limit > 0; --limit) {
      Entry* const entry = backlog_.find_one(table_, ending_.round());
      if (entry == nullptr) break;
      begin_clearing(*entry);
    }
    return !backlog_.empty();
  }

  /// Expires the first of the idle entries. There is one.
  void expire_first() noexcept { expire(idle_.front()); }

  /// The pool is destroyed: its idle values are destroyed with it, without being finalized, and no value is kept any
  /// more.
  void close() noexcept {
    closed_ = true;
    drop_events();  // a destroyed pool reports no event
    for (std::size_t limit = piece; clear_some(limit);) limit = piece;
    while (!idle_.empty()) {
      Entry& entry = idle_.front();
      idle_.erase(entry);
      remove_and_delete(entry);
    }
  }

  // Actions and events ---------------------------------------------------------------------------

  bool has_actions() const noexcept { return !actions_.empty(); }
  Actions<Entry> take_actions() noexcept { return actions_.take(); }

  /// The values of these entries, a chain from take_actions(), are destroyed. Returns those that are to be deleted now.
  /// The others have events that are being delivered, and are deleted after that.
  Entry* emptied(Entry* entries) noexcept { return take_deletable(entries, entries_); }

  /// For the running delivery: the next events, after those of the previous call have been delivered. If there are
  /// none, the delivery has ended.
  PendingEvents<Entry> next_events(const PendingEvents<Entry>& delivered) noexcept {
    finish_events(delivered);
    return events_.take(piece);
  }

  /// The delivery that take_actions() had returned could not begin. The next actions contain it again.
  void retry_delivery() noexcept { actions_.deliver_events(); }

  /// Ends the running delivery, after these events.
  void drop_events(const PendingEvents<Entry>& delivered) noexcept {
    finish_events(delivered);
    drop_events();
  }

 private:
  void begin_creating(Entry& entry) noexcept {
    table_.insert(entry);
    ++to_keep_;
    entry.round = ending_.round();
    states_.begin(entry, State::creating);
    actions_.run(entry);
  }

  /// To be called before any decision about an entry that may be in the table.
  void catch_up(Entry& entry) noexcept {
    if (entry.round != ending_.round() && backlog_.contains(entry, ending_.round())) begin_clearing(entry);
  }

  /// Does for an entry in the backlog what clear() has decided, and counted.
  void begin_clearing(Entry& entry) noexcept {
    backlog_.remove(entry);
    entry.cleared = true;
    ending_.add_counted(entry);
    if (entry.state == State::creating) return;
    entry.state = State::finalizing;
    actions_.run(entry);
  }

  Entry* add_reference(Entry& entry) noexcept {
    entry.expired = false;
    entry.references.fetch_add(1, std::memory_order_relaxed);
    return &entry;
  }

  Entry* revive(Entry& entry) {
    if (rules_.events) EventQueue<Entry>::reserve(entry, 1);
    idle_.erase(entry);
    entry.references.store(1, std::memory_order_relaxed);
    states_.change(entry, State::leased);
    record_event(EventKind::revived, entry);
    return &entry;
  }

  /// The entry has no reference: keeps it, or begins to finalize it.
  void become_idle(Entry& entry, Clock::time_point now) noexcept {
    if (closed_) return remove_and_delete(entry);
    if (entry.expired) record_event(EventKind::expired, entry);
    if (entry.expired || rules_.ttl == Duration::zero()) return begin_finalizing(entry);
    states_.change(entry, State::idle);
    idle_.add(entry, deadline_after(now, rules_.ttl));
    if (!rules_.max_idle || states_[State::idle] <= *rules_.max_idle) return;
    Entry& least_recent = idle_.front();
    idle_.erase(least_recent);
    record_event(EventKind::evicted, least_recent);
    begin_finalizing(least_recent);
  }

  void begin_finalizing(Entry& entry) noexcept {
    states_.change(entry, State::finalizing);
    ending_.add(entry);
    actions_.run(entry);
  }

  void finish_ending(Entry& entry) noexcept {
    ending_.remove(entry, [this](std::shared_ptr<ChainedEvent>& event) { actions_.set_event(event); });
  }

  /// Without a call of the finalizer.
  void remove_and_delete(Entry& entry) noexcept {
    remove(entry);
    actions_.delete_entry(entry);
  }

  void remove(Entry& entry) noexcept {
    if (entry.detached)
      --detached_;
    else
      table_.erase(entry);
    states_.change(entry, State::removed);
  }

  void record_event(EventKind kind, Entry& entry, std::exception_ptr error = {}) noexcept {
    if (!rules_.events || closed_) return;
    if (events_.push(kind, entry, std::move(error))) actions_.deliver_events();
  }

  void drop_events() noexcept { finish_events(events_.take_all()); }

  void finish_events(const PendingEvents<Entry>& delivered) noexcept {
    EventQueue<Entry>::finish(delivered, [this](Entry& entry) {
      if (entry.emptied) actions_.delete_entry(entry);
    });
  }

  // A hit uses the first members: all of them are in one or two lines of the cache.
  IdleEntries<Entry> idle_;
  StateCounts states_;
  KeyTable<Entry, Lookup> table_;
  ActionCollector<Entry> actions_;
  Rules rules_;
  IntrusiveList<Entry> discarded_;  // in State::discarded
  EndingEntries<Entry> ending_;
  ClearBacklog<Entry> backlog_;
  std::size_t to_keep_ = 0;   // in State::creating and not cleared
  std::size_t detached_ = 0;  // discarded and not removed
  std::size_t entries_ = 0;
  EventQueue<Entry> events_;
  bool closed_ = false;
};

}}}}  // namespace drover::v1::detail::resource_pool
