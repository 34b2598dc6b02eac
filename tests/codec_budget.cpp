// The bounds of decoding: memory and time for a message, however small the message is.
#include <array>
#include <bitset>
#include <chrono>
#include <complex>
#include <cstdlib>
#include <deque>
#include <forward_list>
#include <gtest/gtest.h>
#include <list>
#include <malloc.h>
#include <map>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <drover/wire/codec.hpp>

namespace {

std::size_t held = 0, most_held = 0;  // allocated by operator new, as malloc(3) counts it

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size) {
  void* const memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  held += ::malloc_usable_size(memory);
  most_held = std::max(most_held, held);
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  if (memory != nullptr) held -= ::malloc_usable_size(memory);
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }

namespace budget {

struct Big {
  char text[1000] = {};
};
auto drover_fields(Big& b) { return std::tie(b.text); }

struct Plain {  // an aggregate
  char text[1000] = {};
};

struct Record {  // its fields take much more memory than bytes in a message
  int id = 0;
  std::array<std::optional<std::array<double, 128>>, 4> parts;
};
auto drover_fields(Record& r) { return std::tie(r.id, r.parts); }

struct PoorHash {
  std::size_t operator()(const std::string& key) const { return key.size(); }
};

}  // namespace budget

namespace {

using budget::Big;
using drover::DecodeError;
using drover::Decoder;
using drover::Encoder;
using drover::detail::ByteBuffer;

template <class T>
ByteBuffer encoded(const T& value) {
  ByteBuffer bytes;
  Encoder(bytes).put(value);
  return bytes;
}

/// The error of a decoding, and how much memory it held at most beyond what was held before.
struct Cost {
  std::string error;
  std::size_t memory = 0;
};

template <class T>
Cost cost_of(std::span<const std::byte> bytes, std::size_t spare = drover::detail::usual_spare_memory) {
  Cost cost;
  const std::size_t before = most_held = held;
  try {
    Decoder in(bytes, spare);
    const T value = in.get<T>();
    in.finish();
  } catch (const DecodeError& error) {
    cost.error = error.what();
  }
  cost.memory = most_held - before;
  return cost;
}

/// Expects the value to decode and encode again to the same size with no spare memory beyond 48 bytes for each byte of
/// the message.
template <class T>
void expect_no_need_to_spare(const T& value) {
  const ByteBuffer bytes = encoded(value);
  Decoder in(bytes.view(), 4096);
  const T back = in.get<T>();
  EXPECT_EQ(encoded(back).size(), bytes.size());
  const Cost cost = cost_of<T>(bytes.view(), 4096);
  EXPECT_EQ(cost.error, "");
  EXPECT_LE(cost.memory, 48 * bytes.size() + 4096);
}

template <class T>
void expect_refused(const T& value) {
  const ByteBuffer bytes = encoded(value);
  const Cost cost = cost_of<T>(bytes.view());
  EXPECT_NE(cost.error.find("takes more memory than allowed"), std::string::npos) << cost.error;
  EXPECT_LE(cost.memory, 48 * bytes.size() + (std::size_t{17} << 20));
}

constexpr std::size_t many = 50000;

TEST(DecodeBudget, PlainContainersNeedNoSpareMemory) {
  expect_no_need_to_spare(std::vector<std::string>(many));
  expect_no_need_to_spare(std::vector<std::string>(many, "some twenty characters"));
  expect_no_need_to_spare(std::vector<std::vector<int>>(many));
  expect_no_need_to_spare(std::vector<std::vector<int>>(many, {1}));
  expect_no_need_to_spare(std::vector<std::optional<int>>(many));
  expect_no_need_to_spare(std::vector<std::optional<std::string>>(many));
  expect_no_need_to_spare(std::vector<std::unique_ptr<int>>(many));
  expect_no_need_to_spare(std::vector<std::shared_ptr<int>>(many, std::make_shared<int>(1)));
  expect_no_need_to_spare(std::vector<std::complex<double>>(many));
  expect_no_need_to_spare(std::vector<std::chrono::year_month_day>(many));
  expect_no_need_to_spare(std::vector<std::error_code>(many));
  expect_no_need_to_spare(std::vector<std::bitset<1000>>(100));
  expect_no_need_to_spare(std::vector<bool>(many));
  expect_no_need_to_spare(std::vector<std::tuple<>>(many));
  expect_no_need_to_spare(std::list<char>(many));
  expect_no_need_to_spare(std::forward_list<bool>(many));
  expect_no_need_to_spare(std::deque<char>(many));
  expect_no_need_to_spare(std::u16string(many, u'x'));
  std::multiset<char> characters;
  std::map<int, int> ordered;
  std::unordered_map<int, bool> hashed;
  std::unordered_multiset<char> equal;
  std::map<std::string, std::vector<std::string>> lists;
  for (std::size_t i = 0; i < many; ++i) {
    characters.insert('x');
    ordered.emplace(i, 1);
    hashed.emplace(i, true);
    equal.insert('x');
    lists.emplace(std::to_string(i), 1);
  }
  expect_no_need_to_spare(characters);
  expect_no_need_to_spare(ordered);
  expect_no_need_to_spare(hashed);
  expect_no_need_to_spare(equal);
  expect_no_need_to_spare(lists);
}

TEST(DecodeBudget, EmptyOptionalsOfLargeValuesAreBounded) {
  expect_refused(std::vector<std::optional<Big>>(100000));
  expect_refused(std::deque<std::optional<Big>>(100000));
  expect_refused(std::list<std::optional<Big>>(100000));
  expect_refused(std::vector<std::vector<std::optional<Big>>>(1000, std::vector<std::optional<Big>>(100)));
  expect_refused(std::vector<budget::Record>(20000));
  std::map<int, std::optional<Big>> sparse;
  for (int i = 0; i < 100000; ++i) sparse.emplace(i, std::nullopt);
  expect_refused(sparse);
}

TEST(DecodeBudget, ShortTextsInLargeArraysAreBounded) {
  expect_refused(std::vector<Big>(100000));
  expect_refused(std::vector<std::variant<std::monostate, Big>>(100000));
  std::vector<std::unique_ptr<Big>> pointers;
  for (int i = 0; i < 100000; ++i) pointers.push_back(std::make_unique<Big>());
  expect_refused(pointers);
  expect_refused(std::vector<budget::Plain>(100000));
  std::vector<std::shared_ptr<budget::Plain>> shared;
  for (int i = 0; i < 100000; ++i) shared.push_back(std::make_shared<budget::Plain>());
  expect_refused(shared);
}

TEST(DecodeBudget, EmptyContainersWithMemoryAreBounded) { expect_refused(std::vector<std::deque<int>>(100000)); }

// A length without elements behind it is refused before memory is allocated for it, and so is one that is too large.
TEST(DecodeBudget, ChargesMemoryBeforeItAllocates) {
  const ByteBuffer bytes = encoded(std::vector<std::optional<Big>>(100000));
  const Cost cost = cost_of<std::vector<std::optional<Big>>>(bytes.view());
  EXPECT_EQ(cost.error,
            "the value takes more memory than allowed: at most 48 bytes for each of the 200009 bytes of its message, "
            "and 16777216 more");
  EXPECT_LT(cost.memory, 10000u);
}

TEST(DecodeBudget, GrowsWithTheSpareMemory) {
  const ByteBuffer bytes = encoded(std::vector<std::optional<Big>>(100000));
  EXPECT_EQ(cost_of<std::vector<std::optional<Big>>>(bytes.view(), std::size_t{128} << 20).error, "");
  EXPECT_EQ(cost_of<std::vector<std::optional<Big>>>(bytes.view(), SIZE_MAX).error, "");
  EXPECT_EQ(drover::detail::spare_memory(1), std::size_t{16} << 20);
  EXPECT_EQ(drover::detail::spare_memory(std::size_t{64} << 20), std::size_t{16} << 20);
  EXPECT_EQ(drover::detail::spare_memory(std::size_t{1} << 30), std::size_t{256} << 20);
}

TEST(DecodeBudget, IsSharedByAllValuesOfAMessage) {
  ByteBuffer bytes;
  Encoder out(bytes);
  for (int i = 0; i < 3; ++i) out.put(std::vector<std::optional<Big>>(10000));
  Decoder in(bytes.view());
  in.get<std::vector<std::optional<Big>>>();
  EXPECT_THROW(in.get<std::vector<std::optional<Big>>>(); in.get<std::vector<std::optional<Big>>>(), DecodeError);
}

// ---- hash tables ----

/// Keys that fall into one bucket of the table that a decoder creates for this many elements.
std::vector<std::uint64_t> colliding(std::size_t count) {
  std::unordered_map<std::uint64_t, int> table;
  table.reserve(count);
  std::vector<std::uint64_t> keys(count);
  for (std::size_t i = 0; i < count; ++i) keys[i] = i * table.bucket_count();
  return keys;
}

/// An encoded map with these keys.
template <class Keys>
ByteBuffer map_of(const Keys& keys) {
  ByteBuffer bytes;
  Encoder out(bytes);
  out.put(std::map<std::uint64_t, int>());
  bytes.clear();
  auto& raw = drover::detail::Raw::of(out);
  raw.tagged(drover::detail::Kind::map, std::uint64_t{std::size(keys)});
  for (const auto& key : keys) {
    out.put(key);
    out.put(1);
  }
  return bytes;
}

template <class T>
std::string error_of(const ByteBuffer& bytes) {
  return cost_of<T>(bytes.view()).error;
}

constexpr const char* collisions =
    "hash collisions: too many keys of an unordered container fall into the same buckets";

TEST(DecodeBudget, CollidingKeysAreAnError) {
  const auto keys = colliding(77000);
  using Numbers = std::unordered_map<std::uint64_t, int>;
  EXPECT_EQ(error_of<Numbers>(map_of(keys)), collisions);
  EXPECT_EQ((error_of<std::unordered_multimap<std::uint64_t, int>>(map_of(keys))), collisions);
  EXPECT_EQ(error_of<std::unordered_set<std::uint64_t>>(encoded(keys)), collisions);
  EXPECT_EQ(error_of<std::unordered_multiset<std::uint64_t>>(encoded(keys)), collisions);
  std::vector<std::string> texts;
  for (int i = 100000; i < 177000; ++i) texts.push_back(std::to_string(i));
  EXPECT_EQ((error_of<std::unordered_set<std::string, budget::PoorHash>>(encoded(texts))), collisions);
}

TEST(DecodeBudget, CollisionsInManyTablesCountTogether) {
  const std::vector<std::vector<std::uint64_t>> tables(500, colliding(1000));
  EXPECT_EQ((error_of<std::vector<std::unordered_set<std::uint64_t>>>(encoded(tables))), collisions);
}

TEST(DecodeBudget, OrdinaryKeysAreAccepted) {
  std::vector<std::uint64_t> dense, strided, scattered;
  for (std::uint64_t i = 0; i < many; ++i) {
    dense.push_back(i);
    strided.push_back(i * 4096);
    scattered.push_back(i * 0x9e3779b97f4a7c15);
  }
  using Numbers = std::unordered_map<std::uint64_t, int>;
  for (const auto* keys : {&dense, &strided, &scattered}) {
    EXPECT_EQ(error_of<Numbers>(map_of(*keys)), "");
    EXPECT_EQ(error_of<std::unordered_multiset<std::uint64_t>>(encoded(*keys)), "");
  }
  EXPECT_EQ((error_of<std::unordered_map<std::uint64_t, int>>(map_of(colliding(1000)))), "");  // a few cost little
}

TEST(DecodeBudget, EqualKeysAreAccepted) {
  std::unordered_multimap<std::string, int> many_equal;
  for (std::size_t i = 0; i < many; ++i) many_equal.emplace(i % 2 != 0 ? "one" : "other", 1);
  const ByteBuffer bytes = encoded(many_equal);
  EXPECT_EQ((error_of<std::unordered_multimap<std::string, int>>(bytes)), "");
  EXPECT_EQ((error_of<std::multimap<std::string, int>>(bytes)), "");
  const std::vector<std::uint64_t> equal(many, 7);
  EXPECT_EQ(error_of<std::unordered_multiset<std::uint64_t>>(encoded(equal)), "");
}

// A comparison of long keys counts as many steps.
TEST(DecodeBudget, LongCollidingKeysAreAnError) {
  std::vector<std::string> keys;
  for (int i = 0; i < 1000; ++i) {
    std::string key(20'000, 'k');
    key.replace(key.size() - 6, 6, std::to_string(100000 + i));
    keys.push_back(std::move(key));
  }
  EXPECT_EQ((error_of<std::unordered_multiset<std::string, budget::PoorHash>>(encoded(keys))), collisions);
}

}  // namespace
