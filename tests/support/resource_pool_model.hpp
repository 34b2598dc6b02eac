#pragma once

#include <algorithm>
#include <chrono>
#include <compare>
#include <cstddef>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <drover/timeout.hpp>

/// A second implementation of the decisions of a ResourcePool, as plain as possible: sets of numbers, no reference
/// counts, no lists, no threads. Factories and finalizers run until the test ends them.
namespace pool_model {

using Time = drover::Clock::time_point;

struct Rules {
  drover::Duration ttl{};
  std::optional<std::size_t> max_idle;
  std::size_t shards = 1, clear_piece = 64;  // of the pool; the model has none
};

/// One value of one key, from the first time it was asked for.
struct Generation {
  int key, number;
  auto operator<=>(const Generation&) const = default;
};

enum class Outcome { value, error, cancelled };

struct Entry {
  enum class State { creating, leased, idle, finalizing } state = State::creating;
  int number = 0;
  bool expired = false, cleared = false;
  std::set<int> holders;  // the holders that wait for the value while it is created, then those that lease it
  std::set<int> queue;    // the holders that wait for the next value of the key
  bool queue_expired = false;
  Time deadline{};
};

/// A discarded value, which its key no longer refers to.
struct Discarded {
  std::set<int> holders;
  bool finalizing = false;
};

class Model {
 public:
  explicit Model(Rules rules) : rules_(rules) {}

  const Rules& rules() const { return rules_; }

  std::map<int, Entry> entries;
  std::map<Generation, Discarded> discarded;
  std::vector<int> idle;                        // keys, least recently used first
  std::map<int, Generation> leases;             // the value that each holder leases, even if it is finalized
  std::map<int, Outcome> refused;               // the error that a holder received instead
  std::map<int, std::set<Generation>> waiting;  // the values whose end each wait waits for
  std::map<int, int> made, finalized;           // how often the factory and the finalizer were called, by key
  Time now{};

  void acquire(int id, int key) {
    auto [at, fresh] = entries.try_emplace(key);
    Entry& e = at->second;
    if (fresh) begin(key, e);
    switch (e.state) {
      case Entry::State::idle:
        std::erase(idle, key);
        e.state = Entry::State::leased;
        [[fallthrough]];
      case Entry::State::leased: leases[id] = {key, e.number}; [[fallthrough]];
      case Entry::State::creating:
        e.holders.insert(id);
        e.expired = false;
        return;
      case Entry::State::finalizing:
        e.queue.insert(id);
        e.queue_expired = false;
        return;
    }
  }

  void release(int id) {
    const Generation of = leases.at(id);
    leases.erase(id);
    if (const auto kept = discarded.find(of); kept != discarded.end()) {
      Discarded& d = kept->second;
      d.holders.erase(id);
      if (d.holders.empty() && !d.finalizing) begin_finalizing(of, d);
      return;
    }
    const auto at = entries.find(of.key);
    if (at == entries.end() || at->second.number != of.number || at->second.state != Entry::State::leased) return;
    at->second.holders.erase(id);
    if (at->second.holders.empty()) become_idle(of.key, at->second);
  }

  /// The wait is for the end of the value, if this release finalizes it.
  void release_and_wait(int id, int wait) {
    const Generation of = leases.at(id);
    if (const auto kept = discarded.find(of); kept != discarded.end()) {
      const bool last = kept->second.holders.size() == 1 && !kept->second.finalizing;
      release(id);
      waiting[wait] = {};
      if (last) waiting[wait] = {of};
      return;
    }
    const auto at = entries.find(of.key);
    const bool last = at != entries.end() && at->second.number == of.number &&
                      at->second.state == Entry::State::leased && at->second.holders.size() == 1;
    release(id);
    waiting[wait] = {};
    if (last && at->second.state == Entry::State::finalizing) waiting[wait] = {of};
  }

  /// The holder still waits for its value.
  void cancel(int id) {
    for (auto& [key, e] : entries) {
      if (e.state == Entry::State::creating) e.holders.erase(id);
      e.queue.erase(id);
    }
    refused[id] = Outcome::cancelled;
  }

  bool waits(int id) const {
    return std::any_of(entries.begin(), entries.end(), [id](const auto& item) {
      const Entry& e = item.second;
      return (e.state == Entry::State::creating && e.holders.contains(id)) || e.queue.contains(id);
    });
  }

  void discard(int id) {
    const Generation of = leases.at(id);
    const auto at = entries.find(of.key);
    if (at == entries.end() || at->second.number != of.number || at->second.state != Entry::State::leased) return;
    discarded[of] = {at->second.holders};
    entries.erase(at);
  }

  void expire(int key, int wait) {
    waiting[wait] = {};
    const auto at = entries.find(key);
    if (at == entries.end()) return;
    Entry& e = at->second;
    if (e.state == Entry::State::idle) {
      std::erase(idle, key);
      begin_finalizing(key, e);
    } else if (e.state != Entry::State::finalizing) {
      e.expired = true;
      return;
    } else if (!e.queue.empty()) {
      e.queue_expired = true;
    }
    waiting[wait] = {{key, e.number}};
  }

  void clear(int key, int wait) {
    waiting[wait] = {{key, entries.at(key).number}};
    clear_one(key);
  }

  void clear(int wait) {
    waiting[wait] = {};
    for (auto& [key, e] : entries) {
      clear_one(key);
      if (e.state == Entry::State::finalizing || e.cleared) waiting[wait].insert({key, e.number});
    }
    for (auto& [of, d] : discarded) {
      if (!d.finalizing) begin_finalizing(of, d);
      waiting[wait].insert(of);
    }
  }

  void advance(drover::Duration by) {
    now += by;
    while (!idle.empty() && entries.at(idle.front()).deadline <= now) {
      const int key = idle.front();
      idle.erase(idle.begin());
      begin_finalizing(key, entries.at(key));
    }
  }

  void factory_ends(int key, Outcome outcome) {
    Entry& e = entries.at(key);
    if (outcome != Outcome::value) {
      for (const int id : e.holders) refused[id] = outcome;
      ended({key, e.number});
      entries.erase(key);
    } else if (e.cleared) {
      e.queue = std::exchange(e.holders, {});
      e.queue_expired = false;
      begin_finalizing(key, e);
    } else if (e.holders.empty()) {
      become_idle(key, e);
    } else {
      e.state = Entry::State::leased;
      for (const int id : e.holders) leases[id] = {key, e.number};
    }
  }

  void finalizer_ends(Generation of) {
    if (discarded.erase(of) > 0) return ended(of);
    const int key = of.key;
    Entry& e = entries.at(key);
    ended({key, e.number});
    if (e.queue.empty()) {
      entries.erase(key);
      return;
    }
    Entry next;
    next.holders = e.queue;
    next.expired = e.queue_expired;
    e = next;
    begin(key, e);
  }

  std::size_t count_discarded(bool finalizing) const {
    return static_cast<std::size_t>(std::count_if(
        discarded.begin(), discarded.end(), [&](const auto& item) { return item.second.finalizing == finalizing; }));
  }

  std::size_t count(Entry::State state) const {
    return static_cast<std::size_t>(
        std::count_if(entries.begin(), entries.end(), [state](const auto& e) { return e.second.state == state; }));
  }

 private:
  void begin(int key, Entry& e) {
    e.number = ++numbers_;
    ++made[key];
  }

  void become_idle(int key, Entry& e) {
    if (e.expired || rules_.ttl == drover::Duration::zero()) return begin_finalizing(key, e);
    e.state = Entry::State::idle;
    e.deadline = now + rules_.ttl;
    idle.push_back(key);
    if (!rules_.max_idle || idle.size() <= *rules_.max_idle) return;
    const int oldest = idle.front();
    idle.erase(idle.begin());
    begin_finalizing(oldest, entries.at(oldest));
  }

  void begin_finalizing(int key, Entry& e) {
    e.state = Entry::State::finalizing;
    e.holders.clear();
    ++finalized[key];
  }

  void begin_finalizing(Generation of, Discarded& d) {
    d.finalizing = true;
    d.holders.clear();
    ++finalized[of.key];
  }

  void clear_one(int key) {
    Entry& e = entries.at(key);
    if (e.state == Entry::State::finalizing) return;
    e.cleared = true;
    if (e.state == Entry::State::creating) return;
    if (e.state == Entry::State::idle) std::erase(idle, key);
    begin_finalizing(key, e);
  }

  void ended(Generation which) {
    for (auto& [wait, of] : waiting) of.erase(which);
  }

  Rules rules_;
  int numbers_ = 0;
};

}  // namespace pool_model
