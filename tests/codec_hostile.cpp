// Whatever bytes arrive, decoding ends with a value or with DecodeError, and a claimed length alone allocates nothing.
#include <algorithm>
#include <bitset>
#include <complex>
#include <cstdlib>
#include <gtest/gtest.h>
#include <map>
#include <new>
#include <random>
#include <set>

#include <drover/wire/codec.hpp>

#include "support/sanitizers.hpp"

namespace {

std::size_t largest_request = 0;  // of all allocations since it was reset

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size) {
  largest_request = std::max(largest_request, size);
  if (void* const memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using drover::DecodeError;
using drover::Decoder;
using drover::Encoder;
using drover::detail::ByteBuffer;
using drover::detail::Kind;
using Bytes = std::vector<std::byte>;

struct Node {
  std::string name;
  std::variant<std::monostate, int, std::vector<double>, std::chrono::milliseconds> value;
  std::map<std::string, std::optional<bool>> flags;
  std::set<short> numbers;
  std::vector<Node> children;
  std::unique_ptr<Node> next;
  Bytes blob;
  long double wide = 0;
  std::vector<bool> bits;
  std::chrono::steady_clock::time_point when;
};
struct Leaf {  // an aggregate
  unsigned low : 3 = 0;
  std::shared_ptr<Leaf> next;
  std::error_code code;
  std::bitset<11> bits;
  std::complex<double> number;
  std::chrono::year_month_weekday date;
  std::chrono::hh_mm_ss<std::chrono::minutes> time;
  drover::detail::Int128 wide = 0;
};
auto drover_fields(Node& n) {
  return std::tie(n.name, n.value, n.flags, n.numbers, n.children, n.next, n.blob, n.wide, n.bits, n.when);
}

Node sample() {
  Node node{"root", 5, {{"a", true}, {"b", std::nullopt}}, {1, -2}, {}, std::make_unique<Node>(), Bytes(9), 1.1L,
            {true}, {}};
  node.next->value = std::vector<double>{1.5, 2.5};
  node.children.resize(2);
  node.children[1].value = std::chrono::milliseconds(7);
  return node;
}

template <class T>
Bytes encoded(const T& value) {
  ByteBuffer buffer;
  Encoder(buffer).put(value);
  return Bytes(buffer.view().begin(), buffer.view().end());
}

/// Returns true if the bytes were accepted. Any exception other than DecodeError propagates and fails the test.
template <class T>
bool accepts(std::span<const std::byte> bytes) {
  // In a block of its own, so that a sanitizer sees every read past its end.
  const Bytes exact(bytes.begin(), bytes.end());
  try {
    Decoder in(exact);
    in.get<T>();
    in.finish();
    return true;
  } catch (const DecodeError&) {
    return false;
  }
}

Leaf sample_leaf() {
  Leaf leaf;
  leaf.low = 5;
  leaf.next = std::make_shared<Leaf>();
  leaf.next->next = std::make_shared<Leaf>();
  leaf.code = std::make_error_code(std::errc::bad_address);
  leaf.bits = 0x505;
  leaf.number = {1.5, -2};
  leaf.date = std::chrono::year(2024) / 5 / std::chrono::Sunday[2];
  leaf.time = std::chrono::hh_mm_ss<std::chrono::minutes>(std::chrono::hours(-3));
  leaf.wide = drover::detail::Int128(-3) << 100;
  return leaf;
}

template <class T>
void expect_prefixes_refused(const T& value) {
  const Bytes whole = encoded(value);
  EXPECT_TRUE(accepts<T>(whole));
  for (std::size_t size = 0; size < whole.size(); ++size)
    EXPECT_FALSE(accepts<T>(std::span(whole).first(size))) << size;
}

TEST(HostileMessage, EveryPrefixIsRefused) {
  expect_prefixes_refused(sample());
  expect_prefixes_refused(sample_leaf());
}

template <class T>
void decode_with_changed_bytes(const T& value) {
  const Bytes whole = encoded(value);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (unsigned change = 1; change < 256; change += at % 16 == 0 ? 1 : 17) {
      Bytes bad = whole;
      bad[at] ^= static_cast<std::byte>(change);
      accepts<T>(bad);
    }
  }
}

TEST(HostileMessage, ChangedByteGivesAValueOrDecodeError) {
  decode_with_changed_bytes(sample());
  decode_with_changed_bytes(sample_leaf());
}

TEST(HostileMessage, RandomBytesGiveAValueOrDecodeError) {
  std::mt19937 random(20240229);
  const auto below = [&](unsigned bound) { return static_cast<unsigned>(random() % bound); };
  for (int round = 0; round < (support::sanitized ? 4000 : 20000); ++round) {
    Bytes bytes(below(64));
    // Small numbers are kinds and the low bytes of lengths: most of these messages get further than random bytes do.
    for (std::byte& b : bytes) b = static_cast<std::byte>(below(3) != 0 ? below(24) : below(256));
    accepts<Node>(bytes);
    accepts<Leaf>(bytes);
    accepts<std::bitset<100>>(bytes);
    accepts<std::vector<std::chrono::weekday_indexed>>(bytes);
    accepts<std::chrono::hh_mm_ss<std::chrono::hours>>(bytes);
    accepts<drover::detail::UInt128>(bytes);
    accepts<std::vector<std::vector<std::string>>>(bytes);
    accepts<std::map<int, std::tuple<double, std::optional<std::string>>>>(bytes);
    accepts<std::array<std::vector<char>, 2>>(bytes);
    accepts<std::string_view>(bytes);
    accepts<std::chrono::duration<int, std::ratio<7, 3>>>(bytes);
    accepts<std::set<bool>>(bytes);
  }
}

/// A message of a kind, and bytes.
Bytes raw(Kind kind, std::vector<unsigned> behind) {
  Bytes bytes{static_cast<std::byte>(kind)};
  for (const unsigned b : behind) bytes.push_back(static_cast<std::byte>(b));
  return bytes;
}

TEST(HostileMessage, NumbersOutOfRangeAreRefused) {
  using namespace std::chrono;
  EXPECT_TRUE(accepts<year>(raw(Kind::calendar, {3, 0x01, 0x80})));   // -32767
  EXPECT_FALSE(accepts<year>(raw(Kind::calendar, {3, 0x00, 0x80})));  // -32768
  EXPECT_TRUE(accepts<weekday_indexed>(raw(Kind::calendar, {5, 1, 7})));
  EXPECT_FALSE(accepts<weekday_indexed>(raw(Kind::calendar, {5, 1, 8})));
  EXPECT_TRUE(accepts<std::bitset<3>>(raw(Kind::bits, {3, 0, 0, 0, 0, 0, 0, 0, 7})));
  EXPECT_FALSE(accepts<std::bitset<3>>(raw(Kind::bits, {3, 0, 0, 0, 0, 0, 0, 0, 8})));
  EXPECT_FALSE(accepts<std::bitset<3>>(raw(Kind::bits, {3, 0, 0, 0, 0, 0, 0, 1, 7})));
  std::vector<unsigned> wide(17);
  wide[0] = 1;  // negative, but without the sign
  EXPECT_FALSE(accepts<drover::detail::Int128>(raw(Kind::wide_integer, wide)));
  wide[8] = 0x80;
  EXPECT_TRUE(accepts<drover::detail::Int128>(raw(Kind::wide_integer, wide)));
  wide[0] = 2;
  EXPECT_FALSE(accepts<drover::detail::Int128>(raw(Kind::wide_integer, wide)));
  Bytes least = encoded(hh_mm_ss<nanoseconds>(nanoseconds(-1)));
  std::fill(least.end() - 8, least.end(), std::byte{0});
  EXPECT_TRUE(accepts<hh_mm_ss<nanoseconds>>(least));
  least.back() = std::byte{0x80};
  EXPECT_FALSE(accepts<hh_mm_ss<nanoseconds>>(least));
}

TEST(HostileMessage, OfAnotherTypeIsRefused) {
  const std::vector<Bytes> messages = {encoded(true),
                                       encoded(1),
                                       encoded("text"),
                                       encoded(1.5),
                                       encoded(Bytes(3)),
                                       encoded(std::vector{"a"}),
                                       encoded(std::map<int, int>{{1, 1}}),
                                       encoded(std::variant<int, bool>(1)),
                                       encoded(std::tuple(1)),
                                       encoded(std::chrono::seconds(1)),
                                       encoded(std::chrono::system_clock::now()),
                                       encoded(std::error_code()),
                                       encoded(std::bitset<3>()),
                                       encoded(std::complex<double>()),
                                       encoded(std::chrono::day(1)),
                                       encoded(drover::detail::Int128(1) << 90)};
  const auto accepted = [&](bool (*decode)(std::span<const std::byte>)) {
    return std::ranges::count_if(messages, decode);
  };
  EXPECT_EQ(accepted(accepts<bool>), 1);
  EXPECT_EQ(accepted(accepts<int>), 1);
  EXPECT_EQ(accepted(accepts<std::string>), 1);
  EXPECT_EQ(accepted(accepts<double>), 2);  // the integer, too
  EXPECT_EQ(accepted(accepts<Bytes>), 2);   // the text, too
  EXPECT_EQ(accepted(accepts<std::vector<std::string>>), 1);
  EXPECT_EQ(accepted(accepts<std::vector<int>>), 0);
  EXPECT_EQ(accepted(accepts<std::map<int, int>>), 1);
  EXPECT_EQ((accepted(accepts<std::variant<int, bool>>)), 1);
  EXPECT_EQ(accepted(accepts<std::tuple<int>>), 1);
  EXPECT_EQ(accepted(accepts<std::chrono::seconds>), 1);
  EXPECT_EQ(accepted(accepts<std::error_code>), 1);
  EXPECT_EQ(accepted(accepts<std::bitset<3>>), 1);
  EXPECT_EQ(accepted(accepts<std::complex<double>>), 1);
  EXPECT_EQ(accepted(accepts<std::chrono::day>), 1);
  EXPECT_EQ(accepted(accepts<drover::detail::Int128>), 2);  // the integer, too
}

/// A kind and a length, with fewer elements behind it.
Bytes claim(Kind kind, std::uint64_t length, std::size_t behind, std::optional<unsigned> element_type = {}) {
  Bytes bytes{static_cast<std::byte>(kind)};
  if (element_type) bytes.push_back(static_cast<std::byte>(*element_type));
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<std::byte>(length >> (8 * i)));
  bytes.resize(bytes.size() + behind);
  return bytes;
}

struct Link {  // an aggregate
  std::shared_ptr<Link> next;
};

TEST(HostileMessage, ClaimedLengthAllocatesNothing) {
  const std::uint64_t claims[] = {1000, 1u << 31, std::uint64_t{1} << 40, ~std::uint64_t{0}, std::uint64_t{1} << 61};
  for (const std::uint64_t length : claims) {
    largest_request = 0;
    EXPECT_FALSE(accepts<std::string>(claim(Kind::text, length, 500)));
    EXPECT_FALSE(accepts<Bytes>(claim(Kind::bytes, length, 500)));
    EXPECT_FALSE(accepts<std::vector<double>>(claim(Kind::numbers, length, 500, 0x48)));
    EXPECT_FALSE(accepts<std::vector<std::int64_t>>(claim(Kind::numbers, length, 500, 0x21)));
    EXPECT_FALSE(accepts<std::vector<std::string>>(claim(Kind::sequence, length, 500)));
    EXPECT_FALSE((accepts<std::map<int, int>>(claim(Kind::map, length, 500))));
    EXPECT_FALSE(accepts<std::vector<Link>>(claim(Kind::sequence, length, 500)));
    EXPECT_FALSE(accepts<std::vector<std::complex<float>>>(claim(Kind::sequence, length, 500)));
    EXPECT_FALSE(accepts<std::bitset<100000>>(claim(Kind::bits, length, 500)));
    EXPECT_LT(largest_request, 2000u) << length;
  }
  // This many elements are possible in this many bytes, but not as much memory as their type would take.
  largest_request = 0;
  EXPECT_FALSE((accepts<std::vector<std::array<std::array<double, 64>, 64>>>(claim(Kind::sequence, 10000, 10000))));
  EXPECT_LT(largest_request, 64 * 1024u);
}

struct Chain {
  std::unique_ptr<Chain> next;
};
auto drover_fields(Chain& c) { return std::tie(c.next); }
template <class T>
void expect_deep_nesting_refused(const T& chain) {
  const Bytes two = encoded(chain), one = encoded(*chain.next);
  EXPECT_TRUE(accepts<T>(two));
  // The bytes that two levels have before the bytes of one level, repeated.
  const std::size_t level = two.size() - one.size();
  Bytes deep;
  for (int i = 0; i < 100000; ++i)
    deep.insert(deep.end(), two.begin(), two.begin() + static_cast<std::ptrdiff_t>(level));
  deep.insert(deep.end(), one.begin(), one.end());
  EXPECT_FALSE(accepts<T>(deep));
}

TEST(HostileMessage, DeepNestingIsRefused) {
  expect_deep_nesting_refused(Chain{std::make_unique<Chain>()});
  expect_deep_nesting_refused(Link{std::make_shared<Link>()});
}

struct Twig {
  int value = 0;
  std::vector<Twig> children;
  std::unique_ptr<Twig> next;
};
auto drover_fields(Twig& t) { return std::tie(t.value, t.children, t.next); }

struct Json {
  using Object = std::map<std::string, std::optional<std::pair<int, std::unique_ptr<Json>>>>;
  std::variant<double, std::string, std::vector<Json>, Object> value;
};
auto drover_fields(Json& j) { return std::tie(j.value); }

struct List : std::map<int, List> {};  // the container itself is the level

/// A tree of this many nested values: a chain of children, or of the values that `next` points to.
template <class T, class Grow>
T nested(int depth, Grow grow) {
  T tree{};
  for (int i = 1; i < depth; ++i) tree = grow(std::move(tree));
  return tree;
}

template <class T, class Grow>
void expect_depth(int bound, Grow grow) {
  const Bytes deepest = encoded(nested<T>(bound, grow));
  EXPECT_TRUE(accepts<T>(deepest));
  try {
    encoded(nested<T>(bound + 1, grow));
    ADD_FAILURE() << "one more was accepted";
  } catch (const std::length_error& error) {
    EXPECT_STREQ(error.what(), "a value nested more than 256 deep can't be encoded");
  }
}

TEST(HostileMessage, TreeLevelCountsOnceInAnyContainer) {
  expect_depth<Twig>(256, [](Twig child) {
    Twig tree;
    tree.children.push_back(std::move(child));
    return tree;
  });
  expect_depth<Twig>(256, [](Twig child) {
    Twig tree;
    tree.next = std::make_unique<Twig>(std::move(child));
    return tree;
  });
  expect_depth<Link>(256, [](Link next) { return Link{std::make_shared<Link>(std::move(next))}; });
  expect_depth<Json>(256, [](Json child) {
    Json::Object object;
    object["key"].emplace(1, std::make_unique<Json>(std::move(child)));
    return Json{std::move(object)};
  });
  expect_depth<List>(256, [](List child) {
    List list;
    list.emplace(1, std::move(child));
    return list;
  });
}

struct Broad {
  char text[32 << 10] = {};
  std::unique_ptr<Broad> next;
};
auto drover_fields(Broad& b) { return std::tie(b.text, b.next); }

TEST(HostileMessage, NestedLargeStructsAreBoundedByTheStack) {
  const auto chain = [](int depth) {
    Broad broad;
    Broad* last = &broad;
    for (int i = 1; i < depth; ++i) last = (last->next = std::make_unique<Broad>()).get();
    return encoded(broad);
  };
  EXPECT_TRUE(accepts<Broad>(chain(63)));
  EXPECT_FALSE(accepts<Broad>(chain(64)));
}

}  // namespace
