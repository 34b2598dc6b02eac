// Shared text and bytes as values: what arrives, and which memory is refused.
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <fcntl.h>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include <drover/wire/body.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/detail/passing.hpp>
#include <drover/wire/shared.hpp>
#include <drover/wire/shared_blocks.hpp>

#include "support/descriptors.hpp"
#include "support/sanitizers.hpp"
#include "support/shared_memory.hpp"

namespace {

using namespace support;
using drover::DecodeError;
using drover::Decoder;
using drover::Encoder;
using drover::Shared;
using drover::SharedBlocks;
using drover::detail::carries_descriptors;
using drover::detail::DescriptorList;
using drover::detail::FrameBody;
using drover::detail::Kind;
using drover::detail::Raw;
using drover::detail::Sealing;
using drover::detail::SharedAccess;

using Text = Shared<std::string>;
using Bytes = Shared<std::vector<std::byte>>;
using Close = DescriptorList::Close;

struct Page {  // an aggregate
  std::string name;
  Text text;
  std::vector<Bytes> parts;
};

static_assert(carries_descriptors<Text>() && carries_descriptors<std::optional<Bytes>>() &&
              carries_descriptors<Page>());

/// A message as it arrives: other descriptors of the same files. The receiver trusts arguments of a call.
struct Message {
  explicit Message(Close close = Close::here)
      : body(close), descriptors(close == Close::here ? Close::elsewhere : Close::here) {}

  FrameBody body;
  DescriptorList descriptors;
  std::size_t most = SIZE_MAX;

  template <class... T>
  Message& with(T&&... values) {
    Encoder out(body);
    (drover::detail::put_or_move(out, body, std::forward<T>(values)), ...);
    return sent();
  }
  Message& with_file(const UniqueFd& file, std::uint64_t announced, Kind kind = Kind::shared_text) {
    Encoder out(body);
    Raw::of(out).tagged(kind, announced);
    descriptors.add(UniqueFd(::fcntl(file.get(), F_DUPFD_CLOEXEC, 3)));
    return *this;
  }
  Message& sent() {
    if (body.has_descriptors())
      for (const int fd : body.descriptors()->view()) descriptors.add(UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3)));
    return *this;
  }
  template <class T>
  T get() {
    body.end_piece();
    Decoder in(body.front(), descriptors, 1 << 20);
    in.limit_shared(most);
    T result = in.get<T>();
    in.finish();
    return result;
  }
};

/// The text of the DecodeError, or "accepted".
std::string refusal(const std::function<void()>& decode) {
  try {
    decode();
  } catch (const DecodeError& error) {
    return error.what();
  }
  return "accepted";
}
std::string refusal_of(const UniqueFd& file, std::uint64_t announced, Close sender = Close::here) {
  return refusal([&] { (void)Message(sender).with_file(file, announced).get<Text>(); });
}

TEST(CodecShared, ArrivesAsItIs) {
  EXPECT_EQ(Message().with(Text::copy_of("text")).get<Text>().view(), "text");
  EXPECT_EQ(text_of(Message().with(Bytes::copy_of(bytes_of("bytes"))).get<Bytes>().view()), "bytes");
  const std::string large(3'000'000, 'x');
  const Text kept = Text::copy_of(large);
  EXPECT_EQ(Message().with(kept).get<Text>().view(), large);
  EXPECT_EQ(kept.view(), large);
}

TEST(CodecShared, IsTheSameMemory) {
  const Text text = Text::copy_of("text");
  const Text same = Message().with(text).get<Text>();
  EXPECT_TRUE(same_file(SharedAccess::memory(text)->file(), SharedAccess::memory(same)->file()));
  const Text passed_on = Message().with(same).get<Text>();
  EXPECT_TRUE(same_file(SharedAccess::memory(text)->file(), SharedAccess::memory(passed_on)->file()));
}

TEST(CodecShared, WithoutBytesNeedsNoDescriptor) {
  Message message;
  message.with(Text(), Bytes());
  EXPECT_FALSE(message.body.has_descriptors());
  const auto both = [&] {
    message.body.end_piece();
    Decoder in(message.body.front());
    const auto first = in.get<Text>();
    const auto second = in.get<Bytes>();
    in.finish();
    return first.size() + second.size();
  };
  EXPECT_EQ(both(), 0u);
}

TEST(CodecShared, IsWithinOtherValues) {
  Page page{.name = "a", .text = Text::copy_of("text"), .parts = {}};
  page.parts.push_back(Bytes::copy_of(bytes_of("1")));
  page.parts.emplace_back();
  page.parts.push_back(Bytes::copy_of(bytes_of("3")));
  const Page same = Message().with(std::move(page)).get<Page>();
  EXPECT_EQ(same.name + std::string(same.text.view()), "atext");
  EXPECT_EQ(text_of(same.parts.at(0).view()) + text_of(same.parts.at(2).view()), "13");
  EXPECT_TRUE(same.parts.at(1).empty());

  using Tuple = std::tuple<int, UniqueFd, Text>;
  const auto tuple = Message().with(Tuple(1, pipe_with("pipe"), Text::copy_of("text"))).get<Tuple>();
  EXPECT_EQ(rest_of(std::get<1>(tuple)) + std::string(std::get<2>(tuple).view()), "pipetext");
  const std::map<int, Text> map{{1, Text::copy_of("one")}, {2, Text::copy_of("two")}};
  EXPECT_EQ((Message().with(map).get<std::map<int, Text>>().at(2).view()), "two");
  EXPECT_EQ(Message().with(std::optional(Text::copy_of("x"))).get<std::optional<Text>>()->view(), "x");
}

TEST(CodecShared, IsOfOneType) {
  const auto as = [](auto wanted, Message message) { return refusal([&] { (void)message.get<decltype(wanted)>(); }); };
  EXPECT_EQ(as(Bytes(), std::move(Message().with(Text::copy_of("x")))), "expected shared bytes, found shared text");
  EXPECT_EQ(as(std::string(), std::move(Message().with(Text::copy_of("x")))), "expected a string, found shared text");
  EXPECT_EQ(as(Text(), std::move(Message().with(std::string("x")))), "expected shared text, found a string");
}

TEST(CodecShared, CountsTowardsTheSizeOfAMessage) {
  Message message;
  message.with(Text::copy_of(std::string(1000, 'x')));
  EXPECT_EQ(message.body.counted_size(), message.body.size() + 1000);
  message.body.clear();
  EXPECT_EQ(message.body.counted_size(), 0u);
}

TEST(CodecShared, GoesWithAMessageOfACallOnly) {
  drover::detail::ByteBuffer bytes;
  Encoder out(bytes);
  EXPECT_THROW(out.put(Text::copy_of("x")), std::invalid_argument);
  EXPECT_THROW(out.put(Text()), std::invalid_argument);
  Message message;
  const std::vector<Text> many(65, Text::copy_of("x"));
  EXPECT_THROW(message.with(many), std::invalid_argument);
}

// ---- memory that is used again --------------------------------------------------------------------------------------

TEST(CodecShared, OfBlocksIsLentToACall) {
  SharedBlocks blocks;
  const Text text = blocks.copy_of<std::string>("text");
  const Text lent = Message(Close::elsewhere).with(text).get<Text>();
  EXPECT_EQ(lent.view(), "text");
  EXPECT_EQ(SharedAccess::memory(lent)->sealing(), Sealing::block);
  EXPECT_FALSE(SharedAccess::memory(lent)->has_file());
}

TEST(CodecShared, OfBlocksIsCopiedToBeAResult) {
  SharedBlocks blocks;
  const Text text = blocks.copy_of<std::string>("text");
  const Text result = Message().with(text).get<Text>();
  EXPECT_EQ(result.view(), "text");
  EXPECT_EQ(SharedAccess::memory(result)->sealing(), Sealing::sealed);
}

TEST(CodecShared, OfForeignBlocksIsCopiedToBePassedOn) {
  SharedBlocks blocks;
  const Text lent = Message(Close::elsewhere).with(blocks.copy_of<std::string>("text")).get<Text>();
  const Text passed_on = Message(Close::elsewhere).with(lent).get<Text>();
  EXPECT_EQ(passed_on.view(), "text");
  EXPECT_EQ(SharedAccess::memory(passed_on)->sealing(), Sealing::sealed);
}

TEST(CodecShared, OfOneBlockIsMappedOnce) {
  SharedBlocks blocks;
  const char* first = nullptr;
  for (const std::string word : {"first", "second"}) {
    const Text lent = Message(Close::elsewhere).with(blocks.copy_of<std::string>(word)).get<Text>();
    EXPECT_EQ(lent.view(), word);
    if (first == nullptr) first = lent.view().data();
    EXPECT_EQ(lent.view().data(), first);
  }
}

TEST(CodecShared, OfBlocksIsReadOnlyForItsReceiver) {
  SharedBlocks blocks;
  const Text lent = Message(Close::elsewhere).with(blocks.copy_of<std::string>("text")).get<Text>();
  char* const place = const_cast<char*>(lent.view().data());
  EXPECT_DEATH(*static_cast<volatile char*>(place) = 'x', "");
  EXPECT_EQ(::mprotect(reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(place) / 4096 * 4096), 1,
                       PROT_READ | PROT_WRITE),
            -1);
}

// The ones that were used least recently are unmapped.
TEST(CodecShared, OfManyBlocksLeavesFewMapped) {
  SharedBlocks blocks;
  const std::size_t before = shared_mappings().size();
  for (int round = 0; round < 3; ++round) {
    std::vector<Text> sent;
    for (int i = 0; i < 40; ++i) {
      sent.push_back(blocks.copy_of<std::string>(std::to_string(i)));
      const Text lent = Message(Close::elsewhere).with(sent.back()).get<Text>();
      EXPECT_EQ(lent.view(), std::to_string(i));
    }
  }
  EXPECT_LE(shared_mappings().size(), before + 40 + 16);
}

// The program has closed drover's descriptors, as daemons do, and opened other files under their numbers.
TEST(CodecShared, WhoseDescriptorIsLostIsCopied) {
  SharedBlocks blocks;
  const UniqueFd other = pipe_with("");
  std::vector<UniqueFd> taken;
  for (const Text& text : {Text::copy_of("text"), blocks.copy_of<std::string>("text")}) {
    const int number = SharedAccess::memory(text)->file();
    ASSERT_EQ(::dup3(other.get(), number, O_CLOEXEC), number);
    taken.emplace_back(number);
    EXPECT_EQ(Message(Close::elsewhere).with(text).get<Text>().view(), "text");
    EXPECT_EQ(text.view(), "text");
  }
  for (const UniqueFd& each : taken) EXPECT_TRUE(same_file(each.get(), other.get()));  // they were left alone
  EXPECT_TRUE(SharedAccess::memory(blocks.copy_of<std::string>("text"))->has_file());
}

// ---- what is refused ------------------------------------------------------------------------------------------------

TEST(CodecShared, ThatCanStillChangeIsRefused) {
  const std::string change = "shared memory was sent that its sender can still change";
  for (const int seals : {0, F_SEAL_SHRINK, F_SEAL_WRITE, F_SEAL_SHRINK | F_SEAL_GROW, F_SEAL_SHRINK | F_SEAL_WRITE,
                          F_SEAL_GROW | F_SEAL_WRITE, seals_of_block})
    EXPECT_EQ(refusal_of(memory_file("text", seals), 4), change) << seals;
  EXPECT_EQ(refusal_of(memory_file("text", seals_of_memory), 4), "accepted");
  EXPECT_EQ(refusal_of(memory_file("text", 0, 0), 4), change);  // it is sealed against further seals
}

TEST(CodecShared, ThatATrustedSenderCanTruncateIsRefused) {
  const std::string truncate = "shared memory was sent that its sender can still truncate";
  for (const int seals : {0, F_SEAL_SHRINK, F_SEAL_WRITE, F_SEAL_GROW})
    EXPECT_EQ(refusal_of(memory_file("text", seals), 4, Close::elsewhere), truncate) << seals;
  EXPECT_EQ(refusal_of(memory_file("text", seals_of_block), 4, Close::elsewhere), "accepted");
  EXPECT_EQ(refusal_of(memory_file("text", seals_of_block), 5, Close::elsewhere),
            "shared memory of 4 bytes was sent as 5");
}

TEST(CodecShared, OfAnotherSizeIsRefused) {
  const UniqueFd file = memory_file("text", seals_of_memory);
  EXPECT_EQ(refusal_of(file, 5), "shared memory of 4 bytes was sent as 5");
  EXPECT_EQ(refusal_of(file, 3), "shared memory of 4 bytes was sent as 3");
  EXPECT_EQ(refusal_of(file, UINT64_MAX), "shared memory of 4 bytes was sent as 18446744073709551615");
  EXPECT_EQ(refusal_of(file, 0), "the message has descriptors that belong to none of its values: 1");
}

TEST(CodecShared, ThatIsSomethingElseIsRefused) {
  const std::string other = "expected shared memory, found a descriptor of something else";
  EXPECT_EQ(refusal_of(pipe_with("text"), 4), other);
  EXPECT_EQ(refusal_of(UniqueFd(::open("/etc/passwd", O_RDONLY | O_CLOEXEC)), 4), other);
  EXPECT_EQ(refusal_of(UniqueFd(::open("/dev/zero", O_RDWR | O_CLOEXEC)), 4), other);
  EXPECT_EQ(refusal_of(UniqueFd(::open("/", O_PATH | O_CLOEXEC)), 4),
            "expected shared memory, found a descriptor of something else");
  const UniqueFd huge(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB));
  if (huge && ::fcntl(huge.get(), F_ADD_SEALS, seals_of_memory) == 0) {
    EXPECT_EQ(refusal_of(huge, 4), "shared memory of huge pages is not accepted");
  }
}

// It can be opened anew for writing only, and then not be mapped.
TEST(CodecShared, ThatCannotBeReadIsRefused) {
  const UniqueFd file = memory_file("text", seals_of_memory);
  const UniqueFd writing(::open(("/proc/self/fd/" + std::to_string(file.get())).c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(writing);
  EXPECT_NE(refusal_of(writing, 4).find("Permission denied"), std::string::npos);
}

TEST(CodecShared, AboveTheLimitOfAMessageIsRefused) {
  const auto get = [](std::size_t most) {
    Message message;
    message.most = most;
    message.with(Text::copy_of("1234"), Text::copy_of("5678"));
    return refusal([&] {
      message.body.end_piece();
      Decoder in(message.body.front(), message.descriptors, 1 << 20);
      in.limit_shared(most);
      (void)in.get<Text>();
      (void)in.get<Text>();
    });
  };
  EXPECT_EQ(get(8), "accepted");
  EXPECT_EQ(get(7), "shared memory of 4 bytes, where at most 3 are allowed");
}

TEST(CodecShared, WithoutItsDescriptorIsRefused) {
  Message message;
  message.with(Text::copy_of("text"));
  message.descriptors.clear();
  EXPECT_EQ(refusal([&] { (void)message.get<Text>(); }), "expected a descriptor that was not sent with the message");
}

// A refused value leaves nothing behind, however it is refused.
TEST(CodecShared, ThatIsRefusedLeavesNothing) {
  const std::size_t descriptors = open_descriptors_here(), mappings = shared_mappings().size();
  for (int i = 0; i < 10; ++i) {
    (void)refusal_of(memory_file("text", 0), 4, Close::elsewhere);
    (void)refusal_of(memory_file("text", seals_of_memory), 5, Close::elsewhere);
    Message message(Close::elsewhere);
    message.with(Text::copy_of("text"), 5);
    (void)refusal([&] { (void)message.get<Text>(); });
  }
  EXPECT_EQ(open_descriptors_here(), descriptors);
  EXPECT_EQ(shared_mappings().size(), mappings);
}

// There is no address space left to map it.
TEST(CodecShared, WithoutAddressSpaceIsOutOfMemory) {
#if defined(DROVER_TEST_ASAN) || defined(DROVER_TEST_TSAN)
  constexpr bool limits_work = false;  // it is all reserved
#else
  constexpr bool limits_work = true;
#endif
  constexpr std::size_t size = limits_work ? std::size_t{1} << 30 : std::size_t{1} << 50;
  const UniqueFd file = memory_file("", 0);
  ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(size)), 0);
  ASSERT_EQ(::fcntl(file.get(), F_ADD_SEALS, seals_of_memory), 0);
  rlimit limit{};
  ::getrlimit(RLIMIT_AS, &limit);
  rlimit little = limit;
  little.rlim_cur = std::size_t{512} << 20;
  if (limits_work) ::setrlimit(RLIMIT_AS, &little);
  int error = 0;
  try {
    (void)Message().with_file(file, size).get<Text>();
  } catch (const std::system_error& thrown) {
    error = thrown.code().value();
  }
  ::setrlimit(RLIMIT_AS, &limit);
  EXPECT_EQ(error, ENOMEM);
}

}  // namespace
