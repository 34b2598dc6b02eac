#pragma once

#include <concepts>
#include <cstddef>
#include <iterator>
#include <type_traits>
#include <utility>

#include <drover/wire/detail/codec_budget.hpp>
#include <drover/wire/detail/codec_cursor.hpp>
#include <drover/wire/detail/codec_form.hpp>

/// How elements are inserted into containers, and what is charged for them.
namespace drover { inline namespace v1 { namespace detail {

template <class C>
concept HasKeys = requires { typename C::key_type; };

/// std::unordered_map and similar containers.
template <class C>
concept HashTable = HasKeys<C> && requires(const C& c, const typename C::key_type& key, std::size_t bucket) {
  { c.bucket(key) } -> std::convertible_to<std::size_t>;
  c.begin(bucket) != c.end(bucket);
  c.bucket_count();
  { c.key_eq()(key, key) } -> std::convertible_to<bool>;
};

template <class C>
concept Indexable = requires(const C& c) { c[std::size_t{0}]; };

/// Memory of an element in a container, with its node, if it has one. The numbers are those of libstdc++.
template <class C>
consteval std::size_t cost_of_element() {
  constexpr std::size_t element = sizeof(typename C::value_type), link = sizeof(void*);
  if constexpr (requires { typename C::hasher; })
    return block_of(element + 2 * link) + 2 * link;  // the next node and the hash; an entry in the table
  else if constexpr (HasKeys<C>)
    return block_of(element + 4 * link);
  else if constexpr (Indexable<C> || requires(C& c) { c.reserve(1); })
    return element;
  else if constexpr (requires(C& c) { c.before_begin(); })
    return block_of(element + link);
  else
    return block_of(element + 2 * link);
}

/// Memory of a container before its first element: std::deque has a first block of 512 bytes, and a table of blocks.
template <class C>
consteval std::size_t cost_of_container() {
  constexpr bool deque = !HasKeys<C> && Indexable<C> && !requires(C& c) { c.reserve(1); };
  return deque ? block_of(512) + block_of(64) : 0;
}

template <class C>
void charge_container(RawDecoder& in, std::size_t count) {
  DecodeBudget& budget = in.budget();
  if constexpr (cost_of_container<C>() != 0) budget.charge(cost_of_container<C>());
  if (count == 0) return;
  budget.charge(count, cost_of_element<C>());
  budget.charge(block_of(0));
}

template <class C>
concept HasPlace = requires(C& c, typename C::value_type&& value) { c.insert(std::move(value)).second; };
template <class C>
concept Fillable = std::default_initializable<C> &&(
    requires(C& c, typename C::value_type&& value) { c.push_back(std::move(value)); } ||
    requires(C & c, typename C::value_type&& value) { c.insert(std::move(value)); } ||
    requires(C & c, typename C::value_type&& value) { c.insert_after(c.before_begin(), std::move(value)); });

/// A std container has the result type of inserting an extracted node only if its keys are unique.
template <class C>
concept UniqueKeys = requires { typename C::insert_return_type; };

/// Counts the steps of insertions into a hash table: past the elements that are in the key's bucket already, or up to
/// the first one with an equal key if the table may hold such.
template <class C>
class ProbeCount {
 public:
  ProbeCount(const C& table, RawDecoder& in, std::size_t expected) noexcept
      : table_(table), budget_(in.budget()), watched_(expected > unwatched) {}

  void before_insertion(const typename C::key_type& key) {
    if (!watched_ || table_.bucket_count() == 0) return;
    budget_.allow_probes();
    const std::size_t bucket = table_.bucket(key);
    const auto end = table_.end(bucket);
    for (auto at = table_.begin(bucket); at != end; ++at) {
      if constexpr (UniqueKeys<C>) {
        budget_.probe();
      } else {
        budget_.probe(compared(key_of(*at), key));
        if (table_.key_eq()(key_of(*at), key)) return;
      }
    }
  }

 private:
  static constexpr std::size_t unwatched = 64;  // so few cannot take long

  /// Bytes that a comparison may read. Keys of different sizes are distinguished at once.
  static std::size_t compared(const typename C::key_type& a, const typename C::key_type& b) {
    if constexpr (requires { a.size(); })
      return a.size() == b.size() ? a.size() * sizeof(*std::begin(a)) : 0;
    else
      return sizeof a;
  }

  static const typename C::key_type& key_of(const typename C::value_type& element) {
    if constexpr (MapLike<C>)
      return element.first;
    else
      return element;
  }

  const C& table_;
  DecodeBudget& budget_;
  const bool watched_;
};

/// Appends values to any container. The room for `expected` values is charged and reserved at once.
template <class C>
class Filler {
 public:
  Filler(C& container, RawDecoder& in, std::size_t expected) : container_(container), probes_(container, in, expected) {
    detail::charge_container<C>(in, expected);
    if constexpr (requires { container.reserve(expected); }) {
      if (expected != 0) container.reserve(expected);
    }
    if constexpr (requires { container.before_begin(); }) last_ = container.before_begin();
  }

  void add(typename C::value_type&& value) {
    if constexpr (requires { container_.push_back(std::move(value)); }) {
      container_.push_back(std::move(value));
    } else if constexpr (requires { container_.before_begin(); }) {
      last_ = container_.insert_after(last_, std::move(value));
    } else {
      if constexpr (HashTable<C>) probes_.before_insertion(value);
      if constexpr (HasPlace<C>) {
        if (!container_.insert(std::move(value)).second) twice();
      } else {
        container_.insert(std::move(value));
      }
    }
  }

  /// Adds to a map.
  template <class Key, class Mapped>
  void add(Key&& key, Mapped&& mapped) {
    if constexpr (HashTable<C>) probes_.before_insertion(key);
    if constexpr (requires { container_.emplace(std::move(key), std::move(mapped)).second; }) {
      if (!container_.emplace(std::move(key), std::move(mapped)).second) twice();
    } else {
      container_.emplace(std::move(key), std::move(mapped));
    }
  }

 private:
  struct NoProbes {
    NoProbes(const C&, RawDecoder&, std::size_t) noexcept {}
  };

  [[noreturn]] static void twice() { decode_failed("the same key twice, where keys are unique"); }

  C& container_;
  typename C::iterator last_{};
  [[no_unique_address]] std::conditional_t<HashTable<C>, ProbeCount<C>, NoProbes> probes_;
};

}}}  // namespace drover::v1::detail
