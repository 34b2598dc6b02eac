#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <drover/routine.hpp>

/// Routines that the tests' worker and its callers declare together, and some that they declare differently.
namespace support {

struct Page {  // an aggregate
  std::string title;
  std::vector<std::string> links;
  std::optional<double> score;
  bool operator==(const Page&) const = default;
};

inline constexpr drover::Routine<int(std::string)> word_count{"word_count"};
inline constexpr drover::Routine<Page(const Page&, int)> rank{"rank"};
inline constexpr drover::Routine<void()> do_nothing{"do_nothing"};
inline constexpr drover::Routine<std::uint64_t(std::vector<std::byte>)> typed_sum{"typed_sum"};
inline constexpr drover::Routine<std::string(std::string)> later{"later"};
inline constexpr drover::Routine<std::string(std::variant<int, std::string>, std::optional<long>)> describe_both{
    "describe_both"};
inline constexpr drover::Routine<std::unique_ptr<int>(std::unique_ptr<int>)> increment{"increment"};
inline constexpr drover::Routine<std::uint8_t(std::uint8_t, double, float)> numbers{"numbers"};
inline constexpr drover::Routine<std::size_t(std::string)> length{"length"};
inline constexpr drover::Routine<long(int)> twice{"twice"};
inline constexpr drover::Routine<bool(std::chrono::milliseconds)> is_long{"is_long"};

// With items.
inline constexpr drover::Routine<long(int, drover::Sink<int>&)> count_items{"count"};
inline constexpr drover::Routine<long(drover::Source<int>&)> sum_items{"sum"};
inline constexpr drover::Routine<int(drover::Source<std::string>&, drover::Sink<std::string>&)> echo_items{"echo"};

namespace other {  // what a caller of another version of the program would have

inline constexpr drover::Routine<int(int, std::string_view)> word_count{"word_count"};
inline constexpr drover::Routine<std::string(std::string)> length{"length"};
inline constexpr drover::Routine<long(std::string, drover::Sink<int>&)> count_items{"count"};
inline constexpr drover::Routine<long(drover::Sink<int>&)> sum_items{"sum"};
inline constexpr drover::Routine<std::string(int, drover::Sink<std::string>&)> count_texts{"count"};

}  // namespace other
}  // namespace support
