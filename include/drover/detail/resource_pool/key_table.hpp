#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// How keys are hashed and compared, and which types may stand for a key in a look-up.
template <class Key, class Hash, class Equal>
struct Lookup {
  template <class K>
  static constexpr bool accepts = requires {
    typename Hash::is_transparent;
    typename Equal::is_transparent;
  } && std::constructible_from<Key, const K&>;

  template <class K>
  std::size_t hash(const K& key) const {
    return hash_(key);
  }
  template <class K>
  bool equal(const Key& a, const K& b) const {
    return equal_(a, b);
  }

 private:
  [[no_unique_address]] Hash hash_;
  [[no_unique_address]] Equal equal_;
};

/// Strings with the standard hash can be looked up by any type that converts to a string view: [basic.string.hash]
/// gives both the same hash.
template <class C, class T, class A>
struct Lookup<std::basic_string<C, T, A>, std::hash<std::basic_string<C, T, A>>,
              std::equal_to<std::basic_string<C, T, A>>> {
  using View = std::basic_string_view<C, T>;

  template <class K>
  static constexpr bool accepts = std::convertible_to<const K&, View>;

  std::size_t hash(View key) const { return std::hash<View>{}(key); }
  bool equal(View a, View b) const { return a == b; }
};

/// A type that stands for a Key, but not Key itself, which has overloads of its own.
template <class K, class Key, class Hash, class Equal>
concept StandsFor = !std::same_as<std::remove_cvref_t<K>, Key> && Lookup<Key, Hash, Equal>::template accepts<K>;

/// A hash table of entries that it does not own, chained through them: a hit uses only the bucket and the entry.
template <class Entry, class Lookup>
class KeyTable {
 public:
  std::size_t size() const noexcept { return size_; }

  template <class K>
  Entry* find(const Lookup& lookup, std::size_t hash, const K& key) const {
    if (buckets_.empty()) return nullptr;
    for (Entry* entry = buckets_[bucket(hash)]; entry != nullptr; entry = entry->chain)
      if (entry->hash == hash && lookup.equal(entry->key, key)) return entry;
    return nullptr;
  }

  void insert(Entry& entry) {
    if (size_ == buckets_.size()) grow();
    link(buckets_[bucket(entry.hash)], entry);
    ++size_;
  }

  void erase(Entry& entry) noexcept {
    Entry** at = &buckets_[bucket(entry.hash)];
    while (*at != &entry) at = &(*at)->chain;
    *at = entry.chain;
    entry.chain = nullptr;
    --size_;
  }

  /// The function must not change the table.
  template <class F>
  void for_each(F f) const {
    for (Entry* entry : buckets_)
      for (; entry != nullptr; entry = entry->chain) f(*entry);
  }

 private:
  // The multiplication spreads hashes that differ in few bits, such as those of std::hash for integers, which is the
  // identity.
  std::size_t bucket(std::size_t hash) const noexcept {
    const std::uint64_t spread = hash * std::uint64_t{0x9e3779b97f4a7c15u};
    return spread >> shift_;
  }

  static void link(Entry*& bucket, Entry& entry) noexcept {
    entry.chain = bucket;
    bucket = &entry;
  }

  void grow() {
    std::vector<Entry*> old(buckets_.empty() ? 16 : 2 * buckets_.size());
    old.swap(buckets_);
    shift_ = old.empty() ? 60 : shift_ - 1;
    for (Entry* entry : old)
      while (entry != nullptr) {
        Entry* const next = entry->chain;
        link(buckets_[bucket(entry->hash)], *entry);
        entry = next;
      }
  }

  std::vector<Entry*> buckets_;  // their number is a power of two
  int shift_ = 60;
  std::size_t size_ = 0;
};

}}}}  // namespace drover::v1::detail::resource_pool
