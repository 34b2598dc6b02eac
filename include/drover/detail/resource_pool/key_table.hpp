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

/// How keys are hashed and compared, and what may stand for one in a look-up.
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

/// Strings with the standard hash are found by anything that views as one: [basic.string.hash] gives both the same
/// hash.
template <class C, class T, class A>
struct Lookup<std::basic_string<C, T, A>, std::hash<std::basic_string<C, T, A>>,
              std::equal_to<std::basic_string<C, T, A>>> {
  using View = std::basic_string_view<C, T>;

  template <class K>
  static constexpr bool accepts = std::convertible_to<const K&, View>;

  std::size_t hash(View key) const { return std::hash<View>{}(key); }
  bool equal(View a, View b) const { return a == b; }
};

/// Anything but a Key itself, which has overloads of its own.
template <class K, class Key, class Hash, class Equal>
concept StandsFor = !std::same_as<std::remove_cvref_t<K>, Key> && Lookup<Key, Hash, Equal>::template accepts<K>;

/// A hash table of nodes that it does not own, chained through them: a hit touches the bucket and the node, nothing
/// else.
template <class Node, class Lookup>
class Table {
 public:
  std::size_t size() const noexcept { return size_; }

  template <class K>
  Node* find(const Lookup& lookup, std::size_t hash, const K& key) const {
    if (buckets_.empty()) return nullptr;
    for (Node* node = buckets_[bucket(hash)]; node != nullptr; node = node->chain)
      if (node->hash == hash && lookup.equal(node->key, key)) return node;
    return nullptr;
  }

  void insert(Node& node) {
    if (size_ == buckets_.size()) grow();
    link(buckets_[bucket(node.hash)], node);
    ++size_;
  }

  void erase(Node& node) noexcept {
    Node** at = &buckets_[bucket(node.hash)];
    while (*at != &node) at = &(*at)->chain;
    *at = node.chain;
    node.chain = nullptr;
    --size_;
  }

  /// The function may not change the table.
  template <class F>
  void for_each(F f) const {
    for (Node* node : buckets_)
      for (; node != nullptr; node = node->chain) f(*node);
  }

 private:
  // Multiplying spreads hashes that differ in few bits, such as the identity that std::hash is for integers.
  std::size_t bucket(std::size_t hash) const noexcept {
    const std::uint64_t spread = hash * std::uint64_t{0x9e3779b97f4a7c15u};
    return spread >> shift_;
  }

  static void link(Node*& bucket, Node& node) noexcept {
    node.chain = bucket;
    bucket = &node;
  }

  void grow() {
    std::vector<Node*> old(buckets_.empty() ? 16 : 2 * buckets_.size());
    old.swap(buckets_);
    shift_ = old.empty() ? 60 : shift_ - 1;
    for (Node* node : old)
      while (node != nullptr) {
        Node* const next = node->chain;
        link(buckets_[bucket(node->hash)], *node);
        node = next;
      }
  }

  std::vector<Node*> buckets_;  // a power of two of them
  int shift_ = 60;
  std::size_t size_ = 0;
};

}}}}  // namespace drover::v1::detail::resource_pool
