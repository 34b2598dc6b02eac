// Shared text and bytes as values: what arrives.
#include <cstddef>
#include <cstdint>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <drover/wire/body.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/detail/passing.hpp>
#include <drover/wire/shared.hpp>
#include <drover/wire/shared_blocks.hpp>

#include "support/descriptors.hpp"
#include "support/shared_memory.hpp"
#include "support/shared_message.hpp"

namespace {

using namespace support;
using drover::SharedBlocks;
using drover::detail::carries_descriptors;
using drover::detail::Sealing;
using drover::detail::SharedAccess;

struct Page {  // an aggregate
  std::string name;
  Text text;
  std::vector<Bytes> parts;
};

static_assert(carries_descriptors<Text>() && carries_descriptors<std::optional<Bytes>>() &&
              carries_descriptors<Page>());

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

}  // namespace
