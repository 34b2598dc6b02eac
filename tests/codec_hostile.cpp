// Whatever bytes arrive, decoding ends with a value or with DecodeError, and a claimed length alone allocates nothing.
#include <algorithm>
#include <cstdlib>
#include <gtest/gtest.h>
#include <map>
#include <new>
#include <random>
#include <set>

#include <drover/wire/codec.hpp>

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

TEST(HostileMessage, EveryPrefixIsRefused) {
  const Bytes whole = encoded(sample());
  EXPECT_TRUE(accepts<Node>(whole));
  for (std::size_t size = 0; size < whole.size(); ++size)
    EXPECT_FALSE(accepts<Node>(std::span(whole).first(size))) << size;
}

TEST(HostileMessage, ChangedByteGivesAValueOrDecodeError) {
  const Bytes whole = encoded(sample());
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (unsigned change = 1; change < 256; change += at % 16 == 0 ? 1 : 17) {
      Bytes bad = whole;
      bad[at] ^= static_cast<std::byte>(change);
      accepts<Node>(bad);
    }
  }
}

TEST(HostileMessage, RandomBytesGiveAValueOrDecodeError) {
  std::mt19937 random(20240229);
  const auto below = [&](unsigned bound) { return static_cast<unsigned>(random() % bound); };
  for (int round = 0; round < 20000; ++round) {
    Bytes bytes(below(64));
    // Small numbers are kinds and the low bytes of lengths: most of these messages get further than random bytes do.
    for (std::byte& b : bytes) b = static_cast<std::byte>(below(3) != 0 ? below(20) : below(256));
    accepts<Node>(bytes);
    accepts<std::vector<std::vector<std::string>>>(bytes);
    accepts<std::map<int, std::tuple<double, std::optional<std::string>>>>(bytes);
    accepts<std::array<std::vector<char>, 2>>(bytes);
    accepts<std::string_view>(bytes);
    accepts<std::chrono::duration<int, std::ratio<7, 3>>>(bytes);
    accepts<std::set<bool>>(bytes);
  }
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
                                       encoded(std::chrono::system_clock::now())};
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
}

/// A kind and a length, with fewer elements behind it.
Bytes claim(Kind kind, std::uint64_t length, std::size_t behind, std::optional<unsigned> element_type = {}) {
  Bytes bytes{static_cast<std::byte>(kind)};
  if (element_type) bytes.push_back(static_cast<std::byte>(*element_type));
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<std::byte>(length >> (8 * i)));
  bytes.resize(bytes.size() + behind);
  return bytes;
}

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

TEST(HostileMessage, DeepNestingIsRefused) {
  Chain chain;
  chain.next = std::make_unique<Chain>();
  const Bytes two = encoded(chain), one = encoded(*chain.next);
  EXPECT_TRUE(accepts<Chain>(two));
  // The bytes that two levels have before the bytes of one level, repeated.
  const std::size_t level = two.size() - one.size();
  Bytes deep;
  for (int i = 0; i < 100000; ++i)
    deep.insert(deep.end(), two.begin(), two.begin() + static_cast<std::ptrdiff_t>(level));
  deep.insert(deep.end(), one.begin(), one.end());
  EXPECT_FALSE(accepts<Chain>(deep));
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
