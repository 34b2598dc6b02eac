// The hash table of a ResourcePool, which grows a few buckets at a time.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <gtest/gtest.h>
#include <iostream>
#include <memory>
#include <random>
#include <unordered_map>
#include <vector>

#include <drover/detail/key_table.hpp>
#include <drover/detail/resource_pool/lookup.hpp>

namespace {

constinit bool no_memory = false;

}  // namespace

// The table allocates with this.
extern "C" void* calloc(std::size_t count, std::size_t size) {
  void* memory = nullptr;
  if (no_memory || ::posix_memalign(&memory, alignof(std::max_align_t), count * size + 1) != 0) return nullptr;
  std::fill_n(static_cast<char*>(memory), count * size, char{0});
  return memory;
}

namespace {

using Key = std::uint64_t;
using Lookup = drover::detail::resource_pool::Lookup<Key, std::hash<Key>, std::equal_to<Key>>;

struct Item {
  explicit Item(Key k) : hash(Lookup().hash(k)), key(k) {}
  const std::size_t hash;
  const Key key;
  Item* chain = nullptr;
};

struct CountMoves {
  std::size_t moved = 0;
  void entry_moved() noexcept { ++moved; }
};

using Table = drover::detail::KeyTable<Item, Lookup, CountMoves>;

class Items {
 public:
  Table table;

  void insert(Key key) {
    Item& item = *items_.emplace(key, std::make_unique<Item>(key)).first->second;
    table.probe().moved = 0;
    table.insert(item);
    most_moved = std::max(most_moved, table.probe().moved);
  }
  void erase(Key key) {
    const auto at = items_.find(key);
    if (at == items_.end()) return;
    table.erase(*at->second);
    items_.erase(at);
  }
  bool contains(Key key) const { return items_.contains(key); }
  Item* find(Key key) const { return table.find(lookup_, lookup_.hash(key), key); }

  void check() {
    EXPECT_EQ(table.size(), items_.size());
    std::size_t visited = 0;
    table.for_each([&](Item& item) { visited += contains(item.key) ? 1 : 1'000'000; });
    EXPECT_EQ(visited, items_.size());
    for (const auto& [key, item] : items_) ASSERT_EQ(find(key), item.get());
  }

  std::size_t most_moved = 0;

 private:
  Lookup lookup_;
  std::unordered_map<Key, std::unique_ptr<Item>> items_;
};

TEST(KeyTable, RandomOperationsMatchAMap) {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    std::mt19937_64 random(seed);
    Items items;
    for (int phase = 0; phase < 12; ++phase) {
      const std::uint64_t range = std::uint64_t{1} << (4 + random() % 10);
      const std::uint64_t inserts = 1 + random() % 9;  // of 10 operations
      for (int i = 0; i < 1000; ++i) {
        no_memory = random() % 4 == 0;
        const Key key = random() % range;
        ASSERT_EQ(items.find(key) != nullptr, items.contains(key));
        if (random() % 10 >= inserts)
          items.erase(key);
        else if (!items.contains(key))
          items.insert(key);
      }
      no_memory = false;
      items.check();
    }
  }
}

TEST(KeyTable, AnInsertMovesFewEntries) {
  Items items;
  std::size_t most_in_all = 0;
  for (Key key = 0; key < 300'000; ++key) items.insert(key);
  most_in_all = items.most_moved;
  std::cout << most_in_all << " entries moved by one insert at most\n";
  EXPECT_LE(most_in_all, 20u);
  EXPECT_GT(items.table.buckets(), 300'000u);
}

TEST(KeyTable, InsertsWithoutMemoryForBuckets) {
  Items items;
  no_memory = true;
  for (Key key = 0; key < 3'000; ++key) items.insert(key);
  no_memory = false;
  EXPECT_EQ(items.table.buckets(), 16u);
  items.check();
  items.most_moved = 0;
  for (Key key = 3'000; key < 12'000; ++key) items.insert(key);
  EXPECT_GE(items.table.buckets(), items.table.size()) << "it does not catch up";
  items.check();
}

// Hashes that are the identity and differ only in their low, middle or high bits.
TEST(KeyTable, SpreadsHashesThatDifferInFewBits) {
  for (int shift = 0; shift <= 52; shift += 4) {
    Items items;
    for (Key key = 0; key < 4096; ++key) items.insert(key << shift);
    EXPECT_LE(items.most_moved, 40u) << shift;
    items.check();
  }
}

}  // namespace
