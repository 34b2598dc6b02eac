#pragma once

#include <concepts>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>

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

}}}}  // namespace drover::v1::detail::resource_pool
