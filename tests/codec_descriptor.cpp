// Descriptors as values: which types carry them, and what is refused.
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include <drover/wire/body.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/detail/passing.hpp>

#include "support/descriptors.hpp"

namespace shapes {

using drover::UniqueFd;

struct Job {  // an aggregate
  std::string name;
  UniqueFd in;
  std::optional<UniqueFd> log;
  std::vector<UniqueFd> more;
};
struct Deep {
  int number = 0;
  Job job;
};
class Fields {
 public:
  Fields() = default;
  explicit Fields(UniqueFd fd) : fd_(std::move(fd)) {}
  const UniqueFd& fd() const { return fd_; }

 private:
  friend auto drover_fields(Fields& fields) { return std::tie(fields.fd_); }
  UniqueFd fd_;
};
struct Tree {
  int value = 0;
  std::vector<Tree> children;
};
struct TreeOfFiles {
  std::optional<UniqueFd> file;
  std::vector<TreeOfFiles> children;
};
struct Map : std::map<int, Map> {};
struct Array {
  UniqueFd pair[2];
};
class Custom {
 public:
  explicit Custom(UniqueFd descriptor) : fd(std::move(descriptor)) {}
  UniqueFd fd;
};
class Silent {
 public:
  explicit Silent(UniqueFd descriptor) : fd(std::move(descriptor)) {}
  UniqueFd fd;
};

}  // namespace shapes

template <>
struct drover::Codec<shapes::Custom> {
  static constexpr bool carries_descriptors = true;
  static void encode(Encoder& out, const shapes::Custom& value) { out.put(value.fd); }
  static shapes::Custom decode(Decoder& in) { return shapes::Custom(in.get<UniqueFd>()); }
};
template <>
struct drover::Codec<shapes::Silent> {
  static void encode(Encoder& out, const shapes::Silent& value) { out.put(value.fd); }
  static shapes::Silent decode(Decoder& in) { return shapes::Silent(in.get<UniqueFd>()); }
};

namespace {

using namespace support;
using drover::DecodeError;
using drover::Decoder;
using drover::Encoder;
using drover::detail::carries_descriptors;
using drover::detail::DescriptorList;
using drover::detail::FrameBody;
using shapes::Job;

// ---- which types carry them -----------------------------------------------------------------------------------------

static_assert(carries_descriptors<UniqueFd>() && carries_descriptors<const UniqueFd&>());
static_assert(carries_descriptors<std::optional<UniqueFd>>() && carries_descriptors<std::vector<UniqueFd>>());
static_assert(carries_descriptors<std::array<UniqueFd, 2>>() && carries_descriptors<std::list<Job>>());
static_assert(carries_descriptors<std::tuple<int, UniqueFd>>() && carries_descriptors<std::pair<UniqueFd, int>>());
static_assert(carries_descriptors<std::variant<int, UniqueFd>>() && carries_descriptors<std::unique_ptr<UniqueFd>>());
static_assert(carries_descriptors<std::map<int, UniqueFd>>() && carries_descriptors<std::shared_ptr<Job>>());
static_assert(carries_descriptors<Job>() && carries_descriptors<shapes::Deep>() &&
              carries_descriptors<shapes::Fields>());
static_assert(carries_descriptors<shapes::TreeOfFiles>() && carries_descriptors<shapes::Array>());
static_assert(carries_descriptors<shapes::Custom>() && !carries_descriptors<shapes::Silent>());
static_assert(!carries_descriptors<void>() && !carries_descriptors<int>() && !carries_descriptors<std::string>());
static_assert(!carries_descriptors<shapes::Tree>() && !carries_descriptors<shapes::Map>());
static_assert(!carries_descriptors<std::tuple<>>() && !carries_descriptors<std::monostate>());
static_assert(!carries_descriptors<std::vector<std::map<int, std::optional<std::string>>>>());

// ---- values ---------------------------------------------------------------------------------------------------------

struct Message {
  FrameBody body;
  DescriptorList descriptors;  // as they arrive: other ones of the same files

  Decoder decoder() {
    body.end_piece();
    return Decoder(body.front(), descriptors, 1 << 20);
  }
};

template <class... T>
Message message_of(T&&... values) {
  Message message;
  Encoder out(message.body);
  (drover::detail::put_or_move(out, message.body, std::forward<T>(values)), ...);
  if (message.body.has_descriptors())
    for (const int fd : message.body.descriptors()->view())
      message.descriptors.add(UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3)));
  return message;
}
template <class To, class T>
To through(T&& value) {
  Message message = message_of(std::forward<T>(value));
  Decoder in = message.decoder();
  To result = in.get<To>();
  in.finish();
  return result;
}
template <class To, class T>
std::string refusal(T&& value) {
  try {
    through<To>(std::forward<T>(value));
  } catch (const DecodeError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(CodecDescriptor, IsTheSameFile) {
  EXPECT_EQ(rest_of(through<UniqueFd>(pipe_with("text"))), "text");
  const UniqueFd kept = pipe_with("text");
  EXPECT_EQ(rest_of(through<UniqueFd>(kept)), "text");
}

TEST(CodecDescriptor, ThatIsPassedAsAnRvalueIsMoved) {
  auto [reading, writing] = pipe_ends();
  {
    const Message message = message_of(std::move(writing));
    EXPECT_FALSE(writing);
    EXPECT_FALSE(ends_within(reading, 0));
  }
  EXPECT_TRUE(ends_within(reading, 0));
}

TEST(CodecDescriptor, ThatIsNoRvalueIsDuplicated) {
  auto [reading, writing] = pipe_ends();
  {
    const Message message = message_of(writing), other = message_of(std::as_const(writing));
  }
  EXPECT_TRUE(writing);
  EXPECT_FALSE(ends_within(reading, 0));
  writing.reset();
  EXPECT_TRUE(ends_within(reading, 0));
}

TEST(CodecDescriptor, WithinAnRvalueIsMoved) {
  auto [reading, writing] = pipe_ends();
  auto [other_reading, other_writing] = pipe_ends();
  Job job{.name = "job", .in = std::move(writing), .log = {}, .more = {}};
  job.more.push_back(std::move(other_writing));
  {
    const Message message = message_of(std::move(job));
  }
  EXPECT_FALSE(job.in);
  EXPECT_TRUE(ends_within(reading, 0));
  EXPECT_TRUE(ends_within(other_reading, 0));
}

TEST(CodecDescriptor, WithinOthersArrivesInOrder) {
  Job job{.name = "a", .in = pipe_with("1"), .log = pipe_with("2"), .more = {}};
  job.more.push_back(pipe_with("3"));
  job.more.push_back(pipe_with("4"));
  auto deep = through<shapes::Deep>(shapes::Deep{.number = 5, .job = std::move(job)});
  EXPECT_EQ(deep.number, 5);
  EXPECT_EQ(deep.job.name, "a");
  EXPECT_EQ(rest_of(deep.job.in), "1");
  EXPECT_EQ(rest_of(*deep.job.log), "2");
  ASSERT_EQ(deep.job.more.size(), 2u);
  EXPECT_EQ(rest_of(deep.job.more[0]), "3");
  EXPECT_EQ(rest_of(deep.job.more[1]), "4");

  std::map<std::string, UniqueFd> map;
  map.emplace("b", pipe_with("b"));
  map.emplace("a", pipe_with("a"));
  const auto same_map = through<std::map<std::string, UniqueFd>>(std::move(map));
  EXPECT_EQ(rest_of(same_map.at("a")), "a");
  EXPECT_EQ(rest_of(same_map.at("b")), "b");

  auto tuple = through<std::tuple<int, UniqueFd, std::pair<UniqueFd, bool>>>(
      std::tuple(1, pipe_with("x"), std::pair(pipe_with("y"), true)));
  EXPECT_EQ(rest_of(std::get<1>(tuple)), "x");
  EXPECT_EQ(rest_of(std::get<2>(tuple).first), "y");

  using Variant = std::variant<int, UniqueFd>;
  EXPECT_EQ(rest_of(std::get<1>(through<Variant>(Variant(pipe_with("v"))))), "v");
  EXPECT_EQ(rest_of(*through<std::unique_ptr<UniqueFd>>(std::make_unique<UniqueFd>(pipe_with("p")))), "p");
  EXPECT_EQ(rest_of(through<shapes::Fields>(shapes::Fields(pipe_with("f"))).fd()), "f");
  EXPECT_EQ(rest_of(through<shapes::Custom>(shapes::Custom(pipe_with("c"))).fd), "c");
  shapes::Array array;
  array.pair[0] = pipe_with("0");
  array.pair[1] = pipe_with("1");
  array = through<shapes::Array>(std::move(array));
  EXPECT_EQ(rest_of(array.pair[1]), "1");
}

TEST(CodecDescriptor, MayBeOptional) {
  EXPECT_FALSE(through<std::optional<UniqueFd>>(std::optional<UniqueFd>()));
  EXPECT_FALSE(through<std::unique_ptr<UniqueFd>>(std::nullopt));
  EXPECT_EQ(rest_of(*through<std::optional<UniqueFd>>(pipe_with("x"))), "x");
}

TEST(CodecDescriptor, ThatIsEmptyIsRefused) {
  for (int round = 0; round < 2; ++round) {
    UniqueFd none;
    try {
      round == 0 ? message_of(none) : message_of(std::move(none));
      ADD_FAILURE() << "it was accepted";
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find("std::optional<drover::UniqueFd>"), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(message_of(std::optional(UniqueFd())), std::invalid_argument);
}

TEST(CodecDescriptor, ThatIsNotOpenIsRefused) {
  for (int round = 0; round < 2; ++round) {
    UniqueFd closed = pipe_with("x");
    ::close(closed.get());
    try {
      round == 0 ? message_of(closed) : message_of(std::move(closed));
      ADD_FAILURE() << "it was accepted";
    } catch (const std::system_error& error) {
      EXPECT_EQ(error.code(), std::errc::bad_file_descriptor);
    }
    if (closed) (void)closed.release();
  }
}

TEST(CodecDescriptor, NeedsAMessageThatCarriesIt) {
  drover::detail::ByteBuffer buffer;
  const UniqueFd fd = pipe_with("x");
  EXPECT_THROW(Encoder(buffer).put(fd), std::invalid_argument);
}

TEST(CodecDescriptor, MoreThanAMessageCarriesAreRefused) {
  const UniqueFd fd = pipe_with("x");
  FrameBody body;
  Encoder out(body);
  for (std::size_t i = 0; i < drover::detail::most_descriptors; ++i) out.put(fd);
  EXPECT_THROW(out.put(fd), std::invalid_argument);
}

// ---- what does not fit ----------------------------------------------------------------------------------------------

TEST(CodecDescriptor, ConvertsToNothingElse) {
  EXPECT_EQ(refusal<int>(pipe_with("x")), "expected an integer, found a descriptor");
  EXPECT_EQ(refusal<UniqueFd>(7), "expected a descriptor, found an integer");
  EXPECT_EQ(refusal<std::string>(pipe_with("x")), "expected a string, found a descriptor");
  EXPECT_EQ(refusal<UniqueFd>(std::optional<UniqueFd>()), "expected a descriptor, found an optional");
}

TEST(CodecDescriptor, ThatWasNotSentIsAnError) {
  Message message = message_of(pipe_with("x"));
  message.descriptors.clear();
  Decoder in = message.decoder();
  EXPECT_THROW(in.get<UniqueFd>(), DecodeError);
  Decoder without(message.body.front());
  EXPECT_THROW(without.get<UniqueFd>(), DecodeError);
}

TEST(CodecDescriptor, ThatBelongsToNoValueIsAnError) {
  Message message = message_of(7, pipe_with("x"));
  message.descriptors.add(pipe_with("another"));
  Decoder in = message.decoder();
  in.get<int>();
  in.get<UniqueFd>();
  EXPECT_TRUE(in.at_end());
  EXPECT_THROW(in.finish(), DecodeError);
}

TEST(CodecDescriptor, ThisProcessHadNoRoomForIsASystemError) {
  Message message = message_of(pipe_with("x"));
  message.descriptors.clear();
  message.descriptors.set_incomplete();
  Decoder in = message.decoder();
  try {
    in.get<UniqueFd>();
    ADD_FAILURE() << "it was accepted";
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), std::errc::too_many_files_open);
  }
}

TEST(CodecDescriptor, OfAMalformedMessageAreClosed) {
  auto [reading, writing] = pipe_ends();
  auto [other_reading, other_writing] = pipe_ends();
  {
    std::vector<UniqueFd> two;
    two.push_back(std::move(writing));
    two.push_back(std::move(other_writing));
    Message message = message_of(std::move(two), 1);
    Decoder in = message.decoder();
    EXPECT_THROW((in.get<std::tuple<std::vector<UniqueFd>, int>>()), DecodeError);
    EXPECT_THROW((in.get<std::vector<int>>()), DecodeError);
  }
  EXPECT_TRUE(ends_within(reading, 0));
  EXPECT_TRUE(ends_within(other_reading, 0));
}

}  // namespace
