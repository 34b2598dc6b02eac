// Structs that are sent without drover_fields(), by their members.
#include <any>
#include <array>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <drover/wire/codec.hpp>

#include "support/codec.hpp"

namespace {

using drover::detail::count_members;
using drover::detail::Decodable;
using drover::detail::Encodable;
using drover::detail::Form;
using drover::detail::form_of;
using support::refusal;
using support::through;

struct Empty {
  bool operator==(const Empty&) const = default;
};
struct Point {
  int x = 0, y = 0;
  bool operator==(const Point&) const = default;
};
struct Inner {
  std::string text;
  Empty empty;
  Point points[2] = {};
  bool operator==(const Inner&) const = default;
};
struct Outer {
  Inner inner;
  std::vector<Inner> many;
  double grid[2][3] = {};
  char label[8] = {};
  std::array<std::string, 2> names;
  std::map<std::string, std::optional<Point>> places;
  bool operator==(const Outer&) const = default;
};
struct Tree {
  int value = 0;
  std::vector<Tree> children;
  std::unique_ptr<Tree> next;
};
struct One {
  std::string only;
};
struct Nested {
  One one;
};

struct Four {
  int a, b, c, d;
  bool operator==(const Four&) const = default;
};
struct ThirtyTwo {
  int a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8;
  Four i, j;
  long k = 11, l = 12, m = 13, n = 14, o = 15, p = 16, q = 17, r = 18, s = 19, t = 20, u = 21, v = 22, w = 23, x = 24;
  std::string y, z, aa, bb, cc, dd, ee, ff;
  bool operator==(const ThirtyTwo&) const = default;
};

struct Flags {
  unsigned low : 3;
  int : 2;
  unsigned high : 5;
  bool on : 1;
  std::string name;
  bool operator==(const Flags&) const = default;
};
struct PlainFlags {
  unsigned low, high;
  bool on;
  std::string name;
};

struct Rich {  // members that convert from and to much
  std::any any;
  std::function<void()> function;
  std::optional<std::optional<int>> optional;
  std::mutex mutex;
  int array[5];
  char text[1000];
};
struct HasBase : Point {
  int z = 0;
};
struct HasEmptyBase : Empty {
  int z = 0;
};
struct ConvertsFromAnything {
  ConvertsFromAnything() = default;
  template <class T>
  ConvertsFromAnything(const T&) {}
};
struct BeginsWithIt {
  ConvertsFromAnything first;
  int second;
};
class Closed {
 public:
  int get() const { return value_; }

 private:
  int value_ = 0;
};
struct TupleLike {  // a structured binding does not bind its members
  int a = 0, b = 0;
};
union Either {
  int a;
  float b;
};

struct Chosen {
  int kept = 1, left_out = 2;
};
auto drover_fields(Chosen& chosen) { return std::tie(chosen.kept); }

}  // namespace

template <>
struct std::tuple_size<TupleLike> : std::integral_constant<std::size_t, 1> {};

namespace {

TEST(Aggregate, MembersAreCounted) {
  static_assert(count_members<Empty>() == 0 && count_members<One>() == 1 && count_members<Nested>() == 1);
  static_assert(count_members<Inner>() == 3 && count_members<Outer>() == 6 && count_members<Tree>() == 3);
  static_assert(count_members<Four>() == 4 && count_members<ThirtyTwo>() == 32 && count_members<Rich>() == 6);
  static_assert(count_members<Flags>() == 4 && count_members<BeginsWithIt>() == 2);
}

TEST(Aggregate, OnlySomeAreSentByThemselves) {
  static_assert(form_of<Outer>() == Form::aggregate && form_of<BeginsWithIt>() == Form::aggregate);
  static_assert(Encodable<Tree> && Decodable<Tree> && Decodable<std::vector<Empty>>);
  static_assert(!Encodable<HasBase> && !Encodable<HasEmptyBase> && !Encodable<Closed> && !Encodable<Either>);
  static_assert(!Encodable<TupleLike>);
  static_assert(form_of<Chosen>() == Form::fields);
}

TEST(Aggregate, MembersComeBackUnchanged) {
  Outer outer;
  outer.inner = {"text", {}, {{1, 2}, {3, 4}}};
  outer.many = {{"one", {}, {}}, {"two", {}, {{5, 6}, {}}}};
  outer.grid[1][2] = 2.5;
  outer.label[3] = 'x';  // bytes behind a NUL
  outer.names = {"a", "b"};
  outer.places = {{"here", Point{7, 8}}, {"nowhere", std::nullopt}};
  EXPECT_TRUE(through<Outer>(outer) == outer);
  EXPECT_TRUE(through<Empty>(Empty()) == Empty());
  EXPECT_EQ(through<Nested>(Nested{{"x"}}).one.only, "x");
}

TEST(Aggregate, MayHaveThirtyTwoMembers) {
  ThirtyTwo many{};
  many.i = {1, 2, 3, 4};
  many.ff = "last";
  many.a = -1;
  EXPECT_TRUE(through<ThirtyTwo>(many) == many);
}

TEST(Aggregate, MayContainItself) {
  Tree tree{1, {}, nullptr};
  tree.children.push_back({2, {}, std::make_unique<Tree>()});
  tree.children[0].next->value = 3;
  EXPECT_EQ(through<Tree>(tree).children.at(0).next->value, 3);
}

TEST(Aggregate, IsSentLikeItsFields) {
  EXPECT_EQ((through<std::tuple<int, int>>(Point{3, 4})), std::tuple(3, 4));
  EXPECT_EQ(through<Point>(std::pair(3L, std::uint8_t{4})), (Point{3, 4}));
  EXPECT_EQ(through<Chosen>(Chosen{5, 6}).left_out, 2);
  EXPECT_EQ(refusal<Point>(std::tuple(1, 2, 3)), "expected a tuple of 2 values, found one of 3");
  EXPECT_EQ(refusal<Point>(std::tuple(1, "2")), "expected an integer, found a string");
  EXPECT_EQ(refusal<Empty>(1), "expected a tuple, found an integer");
}

TEST(Aggregate, BitFieldsComeBackUnchanged) {
  const Flags flags{.low = 5, .high = 30, .on = true, .name = "n"};
  EXPECT_TRUE(through<Flags>(flags) == flags);
  EXPECT_TRUE(through<Flags>(PlainFlags{5, 30, true, "n"}) == flags);
  EXPECT_EQ(refusal<Flags>(PlainFlags{8, 30, true, "n"}), "a number does not fit into a bit-field");
  EXPECT_EQ(refusal<Flags>(PlainFlags{7, 32, true, "n"}), "a number does not fit into a bit-field");
}

}  // namespace
