// How values are encoded, which types convert into which, and what is refused.

#include "support/codec.hpp"

#include <cmath>
#include <deque>
#include <filesystem>
#include <forward_list>
#include <gtest/gtest.h>
#include <limits>
#include <list>
#include <map>
#include <set>
#include <unordered_map>

#include <drover/wire/codec.hpp>

namespace shapes {

struct Point {
  int x = 0, y = 0;
  bool operator==(const Point&) const = default;
};
auto drover_fields(Point& p) { return std::tie(p.x, p.y); }

struct Named : Point {};  // drover_fields() of its base would drop its other members

struct Segment {
  Point ends[2];
  char label[8] = {};
  double grid[2][2] = {};
  std::vector<Point> marks;
};
auto drover_fields(const Segment& s) { return std::tie(s.ends, s.label, s.grid, s.marks); }
auto drover_fields(Segment& s) { return std::tie(s.ends, s.label, s.grid, s.marks); }

struct Tree {
  int value = 0;
  std::vector<Tree> children;
  std::unique_ptr<Tree> next;
};
auto drover_fields(Tree& t) { return std::tie(t.value, t.children, t.next); }

template <std::size_t N>
struct Label {
  char text[N] = {};
};
template <std::size_t N>
auto drover_fields(Label<N>& l) {
  return std::tie(l.text);
}

class Opaque {  // not default-constructible
 public:
  explicit Opaque(int secret) : secret_(secret) {}
  int secret() const { return secret_; }

 private:
  int secret_;
};

class Unknown {  // not an aggregate
 public:
  Unknown() = default;
};
enum class Colour : std::uint8_t { red = 1, blue = 200 };

// Classes that protobuf generates have these members.
struct Message {
  std::string payload;
  std::size_t ByteSizeLong() const { return payload.size(); }
  bool SerializeToArray(void* to, int size) const { return std::memcpy(to, payload.data(), std::size_t(size)) == to; }
  bool ParseFromArray(const void* from, int size) {
    payload.assign(static_cast<const char*>(from), std::size_t(size));
    return payload != "bad";
  }
  std::string GetTypeName() const { return "shapes.Message"; }
};
struct OtherMessage {
  bool SerializeToString(std::string* to) const { return to->assign("other") == "other"; }
  bool ParseFromString(const std::string& from) { return from == "other"; }
};

}  // namespace shapes

template <>
struct drover::Codec<shapes::Opaque> {
  static void encode(Encoder& out, const shapes::Opaque& value) { out.put(value.secret()); }
  static shapes::Opaque decode(Decoder& in) { return shapes::Opaque(in.get<int>()); }
};

namespace {

using namespace std::chrono_literals;
using drover::DecodeError;
using drover::Decoder;
using drover::Encoder;
using drover::detail::ByteBuffer;
using shapes::Colour;
using shapes::Point;
using support::encoded;
using support::refusal;
using support::through;

template <class... T>
void expect_unchanged(const T&... values) {
  const auto check = [](const auto& value) {
    EXPECT_TRUE(through<std::remove_cvref_t<decltype(value)>>(value) == value);
  };
  (check(values), ...);
}

TEST(Codec, BuiltInTypesComeBackUnchanged) {
  expect_unchanged(true, false, 'c', -1, 7u, -1L, 1.5, 1.1f, 1.1L, std::ldexp(1.1L, 16000), L'w', u8'u', Colour::blue);
  expect_unchanged(std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::uint64_t>::max());
  expect_unchanged(std::numeric_limits<double>::infinity(), std::numeric_limits<float>::denorm_min());
  expect_unchanged(std::string(), std::string("a\0b", 3), std::wstring(L"wide"), std::u8string(u8"\u00e4"));
  expect_unchanged(std::filesystem::path("/some/where"), std::optional<int>(), std::optional<std::string>("there"));
  expect_unchanged(std::variant<int, std::string, int>(std::in_place_index<2>, 5), std::monostate(), std::tuple<>());
  expect_unchanged(std::pair(1, std::string("one")), std::tuple(1, 2.5, std::string("x")), Point{3, 4});
  EXPECT_TRUE(std::isnan(through<float>(std::numeric_limits<double>::quiet_NaN())));
}

TEST(Codec, ContainersComeBackUnchanged) {
  expect_unchanged(std::vector<int>{1, -2, 3}, std::vector<bool>{true, false, true}, std::vector<double>(),
                   std::vector<Colour>{Colour::red, Colour::blue}, std::vector<std::string>{"a", "", "c"});
  expect_unchanged(std::vector<std::byte>(300), std::vector<char>{'a', 'b'}, std::vector<std::uint8_t>{0, 255},
                   std::array<std::byte, 3>{}, std::array<int, 2>{1, 2}, std::array<std::string, 2>{"x", "y"},
                   std::array<int, 0>());
  expect_unchanged(std::list<long>{1, 2}, std::deque<std::string>{"d"}, std::set<std::string>{"b", "a"},
                   std::multiset<int>{1, 1}, std::forward_list<int>{1, 2, 3}, std::forward_list<std::string>{"1", "2"});
  expect_unchanged(std::map<std::string, std::vector<Point>>{{"k", {{1, 2}}}}, std::unordered_map<int, bool>{{1, true}},
                   std::multimap<int, int>{{1, 2}, {1, 3}},
                   std::vector<std::vector<std::optional<Point>>>{{}, {Point{}}},
                   std::vector<std::map<std::string, int>::value_type>{{"k", 1}});
  EXPECT_EQ(through<std::vector<int>>(std::initializer_list<int>{1, 2}), (std::vector{1, 2}));
  const int numbers[] = {4, 5};
  EXPECT_EQ(through<std::vector<int>>(std::span(numbers)), (std::vector{4, 5}));
  EXPECT_EQ(through<std::vector<int>>(numbers), (std::vector{4, 5}));
}

TEST(Codec, TimesComeBackUnchanged) {
  expect_unchanged(5ms, -1h, std::chrono::duration<double>(0.1), std::chrono::system_clock::now(),
                   std::chrono::steady_clock::now(),
                   std::chrono::time_point_cast<std::chrono::hours>(std::chrono::system_clock::now()));
}

TEST(Codec, LiteralsViewsAndCharacterPointersAreStrings) {
  const char* pointer = "text";
  char array[16] = "text";
  EXPECT_EQ(through<std::string>("text"), "text");
  EXPECT_EQ(through<std::string>(pointer), "text");
  EXPECT_EQ(through<std::string>(array), "text");
  EXPECT_EQ(through<std::string>(std::string_view("text")), "text");
  EXPECT_EQ(through<std::filesystem::path>("text"), "text");
  pointer = nullptr;
  EXPECT_THROW(encoded(pointer), std::invalid_argument);
}

TEST(Codec, ViewsReferToTheMessage) {
  const ByteBuffer bytes = encoded("text", std::vector<std::byte>(2, std::byte{7}));
  Decoder in(bytes.view());
  const auto text = in.get<std::string_view>();
  const auto blob = in.get<std::span<const std::byte>>();
  EXPECT_EQ(text, "text");
  EXPECT_EQ(blob.size(), 2u);
  EXPECT_GE(static_cast<const void*>(text.data()), bytes.data());
  EXPECT_EQ(blob.data() + 2, bytes.data() + bytes.size());
}

TEST(Codec, StructsCanHoldArraysAndThemselves) {
  shapes::Segment segment;
  segment.ends[1] = {1, 2};
  segment.grid[1][0] = 2.5;
  segment.marks = {{5, 6}};
  std::strcpy(segment.label, "long");
  const auto back = through<shapes::Segment>(segment);
  EXPECT_EQ(back.ends[1], (Point{1, 2}));
  EXPECT_STREQ(back.label, "long");
  EXPECT_EQ(back.grid[1][0], 2.5);
  EXPECT_EQ(back.marks.at(0), (Point{5, 6}));

  shapes::Tree tree{1, {}, nullptr};
  tree.children.push_back({2, {}, std::make_unique<shapes::Tree>()});
  tree.children[0].next->value = 3;
  EXPECT_EQ(through<shapes::Tree>(tree).children.at(0).next->value, 3);
}

TEST(Codec, MoveOnlyValuesComeBackUnchanged) {
  EXPECT_EQ(*through<std::unique_ptr<int>>(std::make_unique<int>(5)), 5);
  EXPECT_EQ(through<std::unique_ptr<const std::string>>(std::unique_ptr<std::string>()), nullptr);
  std::vector<std::unique_ptr<std::string>> many;
  many.push_back(std::make_unique<std::string>("x"));
  EXPECT_EQ(*through<std::vector<std::unique_ptr<std::string>>>(many).at(0), "x");
}

TEST(Codec, PrefersTheCodecOfTheTypeItself) {
  EXPECT_EQ(through<shapes::Opaque>(shapes::Opaque(42)).secret(), 42);
  EXPECT_EQ(through<std::vector<shapes::Opaque>>(std::vector(3, shapes::Opaque(1))).size(), 3u);
  EXPECT_EQ(refusal<int>(shapes::Opaque(1)), "expected an integer, found a value with a codec of its own");
}

TEST(Codec, ProtobufMessagesCarryTheirName) {
  EXPECT_EQ(through<shapes::Message>(shapes::Message{"payload"}).payload, "payload");
  through<shapes::OtherMessage>(shapes::OtherMessage());
  EXPECT_EQ(refusal<shapes::Message>(shapes::OtherMessage()), "expected the message shapes.Message, found ");
  EXPECT_EQ(refusal<shapes::Message>(shapes::Message{"bad"}), "malformed message shapes.Message");
}

TEST(Codec, IntegersConvertIfTheyFit) {
  EXPECT_EQ(through<std::uint8_t>(7), 7);
  EXPECT_EQ(through<std::size_t>(7), 7u);
  EXPECT_EQ(through<std::int8_t>(127ull), 127);
  EXPECT_EQ(through<long>(short{-3}), -3);
  EXPECT_EQ(refusal<std::uint8_t>(256), "the number 256 does not fit into an unsigned integer of 1 bytes");
  EXPECT_EQ(refusal<unsigned>(-1), "the number -1 does not fit into an unsigned integer of 4 bytes");
  EXPECT_EQ(refusal<std::int64_t>(1ull << 63),
            "the number 9223372036854775808 does not fit into an integer of 8 bytes");
  EXPECT_EQ(refusal<Colour>(300), "the number 300 does not fit into an unsigned integer of 1 bytes");
}

TEST(Codec, FloatingPointConvertsIfTheValueIsExact) {
  EXPECT_EQ(through<double>(7), 7.0);
  EXPECT_EQ(through<double>(0.5f), 0.5);
  EXPECT_EQ(through<float>(0.5), 0.5f);
  EXPECT_EQ(through<float>(1 << 24), 16777216.0f);
  EXPECT_EQ(through<double>(std::numeric_limits<std::int64_t>::min()), -0x1p63);
  EXPECT_NE(refusal<float>(0.1), "accepted");
  EXPECT_NE(refusal<float>(1e300), "accepted");
  EXPECT_NE(refusal<float>((1 << 24) + 1), "accepted");
  EXPECT_NE(refusal<double>(std::numeric_limits<std::int64_t>::max()), "accepted");
  EXPECT_NE(refusal<double>(std::numeric_limits<std::uint64_t>::max()), "accepted");
  EXPECT_NE(refusal<double>(0.1L), "accepted");
  EXPECT_EQ(refusal<int>(1.0), "expected an integer, found a floating-point number");
}

TEST(Codec, SequencesOfNumbersConvertElementByElement) {
  EXPECT_EQ(through<std::vector<std::int64_t>>(std::vector<std::uint8_t>{1, 255}), (std::vector<std::int64_t>{1, 255}));
  EXPECT_EQ(through<std::set<int>>(std::vector<long>{3, 1}), (std::set<int>{1, 3}));
  EXPECT_EQ(through<std::vector<double>>(std::vector<float>{0.5f}), std::vector<double>{0.5});
  EXPECT_EQ((through<std::array<short, 2>>(std::vector{1, 2})), (std::array<short, 2>{1, 2}));
  EXPECT_EQ(through<std::vector<std::uint8_t>>(std::vector<std::byte>{std::byte{9}}), std::vector<std::uint8_t>{9});
  EXPECT_EQ(through<std::vector<std::byte>>(std::string("ab")).size(), 2u);
  EXPECT_EQ(through<std::vector<std::byte>>(std::vector<char>{'a'}).size(), 1u);
  EXPECT_EQ(refusal<std::vector<std::int8_t>>(std::vector{1, 200}),
            "the number 200 does not fit into an integer of 1 bytes");
  EXPECT_EQ(refusal<std::vector<int>>(std::vector<double>{1}), "expected an integer, found a floating-point number");
  EXPECT_EQ(refusal<std::vector<bool>>(std::vector{1}), "expected a bool, found an integer");
  EXPECT_EQ(refusal<std::set<int>>(std::vector{1, 1}), "the same key twice, where keys are unique");
  EXPECT_EQ((refusal<std::array<int, 3>>(std::vector{1, 2})), "expected 3 elements, found 2");
}

TEST(Codec, DurationsConvertIfNothingIsLost) {
  EXPECT_EQ(through<std::chrono::milliseconds>(2s), 2000ms);
  EXPECT_EQ(through<std::chrono::seconds>(2000ms), 2s);
  EXPECT_EQ(through<std::chrono::duration<double>>(1500ms).count(), 1.5);
  EXPECT_EQ(through<std::chrono::duration<float>>(100ms).count(), 0.1f);
  EXPECT_NE(refusal<std::chrono::seconds>(1500ms), "accepted");
  EXPECT_NE(refusal<std::chrono::nanoseconds>(std::chrono::hours::max()), "accepted");
  EXPECT_NE(refusal<std::chrono::seconds>(std::chrono::duration<double>(1)), "accepted");
  EXPECT_EQ(refusal<std::chrono::system_clock::time_point>(std::chrono::steady_clock::now()),
            "time point of another clock");
  EXPECT_EQ(refusal<std::chrono::seconds>(1), "expected a duration, found an integer");
}

TEST(Codec, ValueConvertsToAnOptional) {
  EXPECT_EQ(through<std::optional<int>>(5), 5);
  EXPECT_EQ(through<std::optional<int>>(std::nullopt), std::nullopt);
  EXPECT_EQ(refusal<std::optional<int>>("5"), "expected an integer, found a string");
  EXPECT_EQ(refusal<int>(std::optional(5)), "expected an integer, found an optional");
}

TEST(Codec, WrongTypeErrorNamesBothTypes) {
  EXPECT_EQ(refusal<int>("seven"), "expected an integer, found a string");
  EXPECT_EQ(refusal<std::string>(7), "expected a string, found an integer");
  EXPECT_EQ(refusal<bool>(1), "expected a bool, found an integer");
  EXPECT_EQ(refusal<int>(true), "expected an integer, found a bool");
  EXPECT_EQ(refusal<std::string>(std::vector<std::byte>(1)), "expected a string, found bytes");
  EXPECT_EQ(refusal<std::string>(std::vector<char>{'a'}), "expected a string, found a sequence of numbers");
  EXPECT_EQ(refusal<std::vector<std::byte>>(std::vector{1}), "expected bytes, found a sequence of numbers");
  EXPECT_EQ(refusal<Point>(std::tuple(1, 2, 3)), "expected a tuple of 2 values, found one of 3");
  EXPECT_EQ((refusal<std::map<int, int>>(std::vector{std::pair(1, 1)})), "expected a map, found a sequence");
  EXPECT_EQ((refusal<std::variant<int, bool>>(1)), "expected a variant, found an integer");
  const ByteBuffer two = encoded(1, "two");
  Decoder in(two.view());
  EXPECT_EQ(in.get<int>(), 1);
  EXPECT_THROW(in.finish(), DecodeError);
}

TEST(Codec, UnsupportedTypesAreCompileTimeErrors) {
  using drover::detail::Decodable;
  using drover::detail::Encodable;
  using drover::detail::refers_to_message;
  static_assert(!Encodable<shapes::Unknown> && !Encodable<int*> && !Encodable<void (*)()> && !Encodable<shapes::Named>);
  static_assert(!Encodable<wchar_t[4]> && !Encodable<std::nullptr_t>);
  static_assert(!Decodable<const char*> && !Decodable<char[4]> && !Decodable<std::span<int>> &&
                !Decodable<shapes::Unknown>);
  static_assert(Encodable<const Point&> && Decodable<Point> && Decodable<shapes::Tree> && Encodable<const char(&)[4]>);
  static_assert(refers_to_message<std::vector<std::optional<std::string_view>>> && !refers_to_message<std::string>);
}

template <std::size_t N>
void expect_array_unchanged(const char (&text)[N]) {
  shapes::Label<N> label;
  std::memcpy(label.text, text, N);
  const auto back = through<shapes::Label<N>>(label);
  EXPECT_EQ(std::string(back.text, N), std::string(text, N));
}

TEST(Codec, CharacterArraysComeBackUnchanged) {
  expect_array_unchanged("RIFF");                        // a text with its NUL
  expect_array_unchanged({'R', 'I', 'F', 'F'});          // a text without a NUL
  expect_array_unchanged({'a', '\0', 'b', '\0', '\0'});  // bytes after a NUL
  expect_array_unchanged({'\0', '\0', '\0', 'x'});
  expect_array_unchanged({'\0', '\0'});
  expect_array_unchanged({'\0'});
  expect_array_unchanged({'x'});
  shapes::Label<4> full{{'R', 'I', 'F', 'F'}};
  EXPECT_EQ((std::get<0>(through<std::tuple<std::string>>(full))), "RIFF");
  EXPECT_EQ((std::get<0>(through<std::tuple<std::string>>(shapes::Label<9>{"text"}))), "text");
  EXPECT_EQ((std::get<0>(through<std::tuple<std::vector<std::byte>>>(shapes::Label<4>{{'a', 0, 'b', 0}})).size()), 4u);
  EXPECT_EQ(refusal<std::string>("cut\0off"), "expected a string, found bytes");
}

TEST(Codec, CharacterArraysAcceptTextThatFits) {
  EXPECT_EQ(std::string_view(through<shapes::Label<4>>(std::tuple("RIFF")).text, 4), "RIFF");
  EXPECT_STREQ(through<shapes::Label<8>>(std::tuple("RIFF")).text, "RIFF");
  EXPECT_EQ(refusal<shapes::Label<4>>(std::tuple("RIFFX")), "a string of 5 bytes for an array of 4 characters");
  EXPECT_EQ(refusal<shapes::Label<4>>(std::tuple(std::vector<std::byte>(3))),
            "bytes of 3 bytes for an array of 4 characters");
  EXPECT_EQ(refusal<shapes::Label<4>>(std::tuple(7)), "expected a string, found an integer");
}

}  // namespace
