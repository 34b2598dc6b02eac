#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>

namespace drover { inline namespace v1 { namespace detail { namespace resource_pool {

/// How many shards a pool has, so that threads on all processors rarely want the same one at once. A shard takes less
/// than a kilobyte.
inline std::size_t default_shards() noexcept {
  static const std::size_t count = [] {
    const std::size_t processors = std::thread::hardware_concurrency();
    return processors <= 1 ? std::size_t{1} : std::min(8 * std::bit_ceil(processors), std::size_t{32});
  }();
  return count;
}

/// The shards of a pool, in one block. A key belongs to the same shard always.
template <class Shard>
class Shards {
 public:
  template <class... Args>
  explicit Shards(std::size_t count, Args&... args) : first_(std::allocator<Shard>().allocate(count)), count_(count) {
    static_assert(std::is_nothrow_constructible_v<Shard, Args&...>);
    for (std::size_t i = 0; i < count; ++i) std::construct_at(first_ + i, args...);
  }
  Shards(const Shards&) = delete;
  Shards& operator=(const Shards&) = delete;
  ~Shards() {
    std::destroy_n(first_, count_);
    std::allocator<Shard>().deallocate(first_, count_);
  }

  Shard& of(std::size_t hash) const noexcept {
    // The buckets of a shard are chosen by low bits, so this takes high ones. Hashes may differ in few bits.
    const std::uint64_t high = (hash * std::uint64_t{0x9e3779b97f4a7c15u}) >> 32;
    return first_[(high * count_) >> 32];
  }

  Shard& front() const noexcept { return *first_; }
  Shard* begin() const noexcept { return first_; }
  Shard* end() const noexcept { return first_ + count_; }

 private:
  Shard* const first_;
  const std::size_t count_;
};

/// Holds the locks of all shards.
template <class Shard>
class AllLocked {
 public:
  explicit AllLocked(const Shards<Shard>& shards) noexcept : shards_(shards) {
    for (Shard& shard : shards_) shard.lock().release();
  }
  AllLocked(const AllLocked&) = delete;
  AllLocked& operator=(const AllLocked&) = delete;
  ~AllLocked() {
    for (Shard& shard : shards_) shard.unlock();
  }

 private:
  const Shards<Shard>& shards_;
};

}}}}  // namespace drover::v1::detail::resource_pool
