#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>

namespace drover { inline namespace v1 { namespace detail {

/// Counts nothing. Tests replace it.
struct NoProbe {
  static void entry_moved() noexcept {}
};

/// A hash table of entries that it does not own, chained through them: a hit uses only the bucket and the entry.
///
/// It grows by linear hashing: an insert splits at most two buckets, and no other operation moves an entry. So no
/// insert takes long, however many keys there are. Bucket number 2^n + i is split off bucket i. The buckets 2^n to
/// 2^(n+1) - 1 are one array, which stays where it is. Its memory comes from calloc(), which leaves a large array
/// untouched until its buckets are used. Where there is no memory for an array, chains get longer instead.
template <class Entry, class Lookup, class Probe = NoProbe>
class KeyTable {
 public:
  KeyTable() = default;
  KeyTable(const KeyTable&) = delete;
  KeyTable& operator=(const KeyTable&) = delete;

  std::size_t size() const noexcept { return size_; }
  std::size_t buckets() const noexcept { return count_; }
  Probe& probe() noexcept { return probe_; }

  template <class K>
  Entry* find(const Lookup& lookup, std::size_t hash, const K& key) const {
    for (Entry* entry = bucket(number(hash)); entry != nullptr; entry = entry->chain)
      if (entry->hash == hash && lookup.equal(entry->key, key)) return entry;
    return nullptr;
  }

  void insert(Entry& entry) noexcept {
    ++size_;
    // Two buckets for three that are needed: it catches up after a shortage of memory, and chains stay short.
    for (int splits = 2; splits > 0 && count_ < size_ + size_ / 2; --splits)
      if (!split()) break;
    link(bucket(number(entry.hash)), entry);
  }

  void erase(Entry& entry) noexcept {
    Entry** at = &bucket(number(entry.hash));
    while (*at != &entry) at = &(*at)->chain;
    *at = entry.chain;
    entry.chain = nullptr;
    --size_;
  }

  /// The first entry in a bucket, or null. The others are chained to it.
  Entry* first_in(std::size_t number) const noexcept { return bucket(number); }

  /// The function must not change the table.
  template <class F>
  void for_each(F f) const {
    for (std::size_t i = 0; i < count_; ++i)
      for (Entry* entry = bucket(i); entry != nullptr; entry = entry->chain) f(*entry);
  }

 private:
  static constexpr std::size_t first_count = 16;
  static constexpr unsigned first_bits = 4;
  static constexpr unsigned max_bits = 32;
  static constexpr std::size_t splits_ahead = 8;

  struct Free {
    void operator()(Entry** buckets) const noexcept { std::free(buckets); }
  };
  using Array = std::unique_ptr<Entry*[], Free>;

  // Hashes may differ in few bits, low or high: those of std::hash for integers are the identity. Both halves of the
  // product together spread each bit over the low bits of the result.
  static std::size_t spread(std::size_t hash) noexcept {
#if defined(__SIZEOF_INT128__)
    __extension__ using Product = unsigned __int128;
    const Product product = Product{hash} * 0x9e3779b97f4a7c15u;
    return static_cast<std::size_t>(product >> 64) ^ static_cast<std::size_t>(product);
#else
    std::uint64_t bits = hash * std::uint64_t{0x9e3779b97f4a7c15u};
    bits = (bits ^ (bits >> 32)) * std::uint64_t{0xd6e8feb86659fd93u};
    return static_cast<std::size_t>(bits >> 32);
#endif
  }

  /// The number of the bucket for this hash.
  std::size_t number(std::size_t hash) const noexcept {
    const std::size_t low = spread(hash) & mask_;
    return low < count_ ? low : low & (mask_ >> 1);  // not split off yet
  }

  Entry* const& bucket(std::size_t number) const noexcept {
    if (number < first_count) return first_[number];
    const auto bits = static_cast<unsigned>(std::bit_width(number));
    return arrays_[bits - first_bits - 1][number ^ (std::size_t{1} << (bits - 1))];
  }
  Entry*& bucket(std::size_t number) noexcept { return const_cast<Entry*&>(std::as_const(*this).bucket(number)); }

  static void link(Entry*& bucket, Entry& entry) noexcept {
    entry.chain = bucket;
    bucket = &entry;
  }

  /// Adds one bucket. Returns false if there is not enough memory.
  bool split() noexcept {
    const std::size_t half = (mask_ + 1) / 2;
    if (count_ == half) {  // the first bucket of an array
      const auto bits = static_cast<unsigned>(std::bit_width(count_));
      if (bits > max_bits) return false;
      Array& array = arrays_[bits - first_bits - 1];
      array.reset(static_cast<Entry**>(std::calloc(count_, sizeof(Entry*))));
      if (!array) return false;
    }
    // The entries of the buckets that come next are rarely in the cache.
    if (count_ + splits_ahead <= mask_) __builtin_prefetch(bucket(count_ + splits_ahead - half));
    Entry*& from = bucket(count_ - half);
    Entry*& to = bucket(count_);
    Entry* entry = std::exchange(from, nullptr);
    while (entry != nullptr) {
      Entry* const next = entry->chain;
      link((spread(entry->hash) & half) != 0 ? to : from, *entry);
      probe_.entry_moved();
      entry = next;
    }
    if (++count_ > mask_) mask_ = 2 * mask_ + 1;
    return true;
  }

  std::size_t count_ = first_count;         // of buckets
  std::size_t mask_ = 2 * first_count - 1;  // mask_ / 2 < count_ <= mask_
  std::size_t size_ = 0;
  std::array<Array, max_bits - first_bits> arrays_;  // of 16, 32, 64... buckets
  std::array<Entry*, first_count> first_{};          // part of the table, so that an insert needs no memory
  [[no_unique_address]] Probe probe_;
};

}}}  // namespace drover::v1::detail
