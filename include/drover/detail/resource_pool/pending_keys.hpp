#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#include <drover/detail/resource_pool/entry.hpp>
#include <drover/detail/resource_pool/shards.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// Lists the keys whose clean-up is pending: first those being finalized, then the idle ones in the order of their
/// expiry. Never holds a lock for long: what is in one shard is listed at once if it is not much, and else in pieces,
/// some buckets of the table at a time.
template <class Shard>
class PendingKeys {
  using Entry = typename Shard::Entry;
  using Key = typename Entry::Key;

 public:
  static std::vector<Key> list(const Shards<Shard>& shards) {
    PendingKeys keys;
    for (const Shard& shard : shards) {
      keys.idle_.emplace_back();
      if (!keys.add_at_once(shard)) keys.add_in_pieces(shard);
    }
    return std::move(keys).merged();
  }

 private:
  static constexpr std::size_t most_at_once = 1024;

  struct Item {
    Clock::time_point deadline;
    const Entry* entry;  // only to be compared: it may be deleted
    Key key;
  };

  /// Returns false if there are too many.
  bool add_at_once(const Shard& shard) {
    for (std::size_t room = 0;;) {
      {
        const auto held = shard.lock();
        const std::size_t pending = shard.machine().counts().pending;
        if (pending > most_at_once) return false;
        if (pending <= room) {
          shard.machine().for_each_finalizing([this](const Entry& entry) { add_finalizing(entry); });
          shard.machine().idle().for_each([this](const Entry& entry) { add_idle(entry); });
          return true;
        }
        room = pending + pending / 8;  // others may come meanwhile
      }
      make_room(room);
    }
  }

  void add_in_pieces(const Shard& shard) {
    const std::size_t first_finalizing = finalizing_.size();
    for (std::size_t bucket = 0, buckets = 1; bucket < buckets;) {
      make_room(2 * most_at_once);
      const auto held = shard.lock();
      const auto& machine = shard.machine();
      buckets = machine.table().buckets();
      if (bucket == 0) machine.for_each_detached([this](const Entry& entry) { add_finalizing(entry); });
      for (const std::size_t end = std::min(bucket + most_at_once, buckets); bucket < end; ++bucket)
        for (const Entry* entry = machine.table().first_in(bucket); entry != nullptr; entry = entry->chain)
          if (machine.is_finalizing(*entry))
            add_finalizing(*entry);
          else if (entry->state == State::idle)
            add_idle(*entry);
    }
    // A table that grows meanwhile moves entries to later buckets, where they were found again.
    unique(finalizing_, first_finalizing);
    unique(idle_.back(), 0);
  }

  /// Before the lock, under which nothing should have to be moved.
  void make_room(std::size_t count) {
    for (std::vector<Item>* items : {&idle_.back(), &finalizing_})
      if (items->capacity() - items->size() < count)
        items->reserve(std::max(items->size() + count, 2 * items->capacity()));
  }

  static void unique(std::vector<Item>& items, std::size_t first) {
    const auto begin = items.begin() + static_cast<std::ptrdiff_t>(first);
    std::sort(begin, items.end(), [](const Item& a, const Item& b) {
      return a.deadline != b.deadline ? a.deadline < b.deadline : std::less<>()(a.entry, b.entry);
    });
    const auto same = [](const Item& a, const Item& b) { return a.deadline == b.deadline && a.entry == b.entry; };
    items.erase(std::unique(begin, items.end(), same), items.end());
  }

  void add_finalizing(const Entry& entry) { finalizing_.push_back({Clock::time_point{}, &entry, entry.key}); }
  void add_idle(const Entry& entry) { idle_.back().push_back({entry.deadline(), &entry, entry.key}); }

  std::vector<Key> merged() && {
    std::size_t count = finalizing_.size();
    for (const auto& of_shard : idle_) count += of_shard.size();
    std::vector<Key> keys;
    keys.reserve(count);
    for (Item& item : finalizing_) keys.push_back(std::move(item.key));
    std::vector<std::size_t> next(idle_.size());
    while (keys.size() < count) {
      Item* first = nullptr;
      std::size_t* of_first = nullptr;
      for (std::size_t i = 0; i < idle_.size(); ++i) {
        if (next[i] == idle_[i].size()) continue;
        Item& item = idle_[i][next[i]];
        if (first != nullptr && first->deadline <= item.deadline) continue;
        first = &item;
        of_first = &next[i];
      }
      keys.push_back(std::move(first->key));
      ++*of_first;
    }
    return keys;
  }

  std::vector<Item> finalizing_;
  std::vector<std::vector<Item>> idle_;  // of each shard, in the order of their deadlines
};

}}}}  // namespace drover::v1::detail::resource_pool
