#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>

/// Limits on the cost of decoding one message. A bound on the bytes of a message bounds neither memory nor time: an
/// empty optional takes two bytes there, and as much memory as a full one; keys with the same hash make an insertion
/// linear.
namespace drover { inline namespace v1 { namespace detail {

[[noreturn]] void decode_failed(const std::string& what);  // throws DecodeError

/// Bytes that a value may take for each byte of its message. The number is that of the most wasteful container of plain
/// values, a multiset of char: one byte there, and a node of 48 in memory.
inline constexpr std::size_t memory_factor = 48;

/// Bytes that a value may take in addition.
inline constexpr std::size_t usual_spare_memory = std::size_t{16} << 20;

/// The same if the largest message is known: the allowance grows with it.
constexpr std::size_t spare_memory(std::size_t max_message_size) noexcept {
  return std::max(usual_spare_memory, max_message_size / 4);
}

/// Approximately what a block takes from malloc(3).
constexpr std::size_t block_of(std::size_t bytes) noexcept {
  constexpr std::size_t least = 32, step = 16, head = 8;
  if (bytes > std::numeric_limits<std::size_t>::max() - step - head) return bytes;
  return std::max(least, (bytes + head + step - 1) / step * step);
}

/// Counts down the resources of a message's values. Everything is charged before it is allocated.
class DecodeBudget {
 public:
  DecodeBudget(std::size_t message, std::size_t spare) noexcept : message_(message), spare_(spare) {
    if (__builtin_mul_overflow(message, memory_factor, &memory_) || __builtin_add_overflow(memory_, spare, &memory_))
      memory_ = std::numeric_limits<std::size_t>::max();
  }

  void charge(std::size_t bytes) {
    if (bytes > memory_) [[unlikely]]
      too_large();
    memory_ -= bytes;
  }
  void charge(std::size_t count, std::size_t each) {
    std::size_t sum = 0;
    if (__builtin_mul_overflow(count, each, &sum)) too_large();
    charge(sum);
  }

  /// Charges one block; an empty container has none.
  void charge_block(std::size_t bytes) {
    if (bytes != 0) charge(block_of(bytes));
  }

  /// Allows the probes that the insertion of one element into a hash table may take.
  void allow_probes() noexcept { probes_ += probes_per_element; }

  /// Charges one element that the insertion looked at, and `compared` bytes of its key.
  void probe(std::size_t compared = 0) {
    const std::uint64_t cost = 1 + compared / bytes_per_probe;
    if (probes_ < cost) [[unlikely]]
      decode_failed("hash collisions: too many keys of an unordered container fall into the same buckets");
    probes_ -= cost;
  }

 private:
  // Ordinary keys take one or two probes each. A poor hash function may take more, in a small container any number.
  static constexpr std::uint64_t probes_per_element = 32;
  static constexpr std::uint64_t bytes_per_probe = 256;
  static constexpr std::uint64_t spare_probes = std::uint64_t{1} << 20;

  [[noreturn, gnu::cold]] void too_large() const {
    decode_failed("the value takes more memory than allowed: at most " + std::to_string(memory_factor) +
                  " bytes for each of the " + std::to_string(message_) + " bytes of its message, and " +
                  std::to_string(spare_) + " more");
  }

  std::size_t memory_ = 0;
  std::uint64_t probes_ = spare_probes;
  std::size_t message_;
  std::size_t spare_;
};

}}}  // namespace drover::v1::detail
