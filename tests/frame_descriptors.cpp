// Descriptors of frames: to which bytes they belong, and which of them are refused.
#include <cstring>
#include <gtest/gtest.h>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <drover/error.hpp>
#include <drover/wire/frame.hpp>

#include "support/descriptors.hpp"

namespace {

using namespace drover::detail;
using namespace support;

FrameHeader result(std::uint64_t id, std::uint16_t descriptors = 0) {
  return {.type = FrameType::result, .descriptors = descriptors, .id = id};
}

FrameBody body_with(std::size_t descriptors, const std::string& text = "body") {
  FrameBody body;
  body.buffer().append(text.data(), text.size());
  for (std::size_t i = 0; i < descriptors; ++i) body.attach(pipe_with("x"));
  return body;
}

/// Takes what one sendmsg(2) would: the bytes, and the number of descriptors.
std::pair<std::string, std::size_t> one_message(FrameWriter& writer, std::size_t at_most = SIZE_MAX) {
  iovec stretches[16];
  const std::size_t count = writer.gather(stretches, std::size(stretches));
  const std::size_t descriptors = writer.descriptors() == nullptr ? 0 : writer.descriptors()->size();
  std::string bytes;
  for (std::size_t i = 0; i < count; ++i)
    bytes.append(static_cast<const char*>(stretches[i].iov_base), stretches[i].iov_len);
  bytes.resize(std::min(bytes.size(), at_most));
  writer.consumed(bytes.size());
  return {bytes, descriptors};
}

DescriptorList list_of(std::size_t count) {
  DescriptorList list;
  for (std::size_t i = 0; i < count; ++i) list.add(pipe_with("x"));
  return list;
}

void feed(FrameReader& reader, const std::string& bytes) {
  std::memcpy(reader.prepare().data(), bytes.data(), bytes.size());
  reader.commit(bytes.size());
}

std::string bytes_of(const FrameHeader& header) { return {reinterpret_cast<const char*>(&header), sizeof header}; }

std::string refusal_of_next(FrameReader& reader) {
  try {
    (void)reader.next();
  } catch (const drover::Error& error) {
    EXPECT_EQ(error.code(), drover::Errc::protocol_error);
    return error.what();
  }
  return "accepted";
}

// ---- writing --------------------------------------------------------------------------------------------------------

TEST(FrameDescriptors, GoWithTheFirstByteOfTheirFrame) {
  for (const bool large : {false, true}) {
    SCOPED_TRACE(large);
    FrameWriter writer;
    writer.queue(result(1), std::as_bytes(std::span("before", 6)));
    FrameBody body = body_with(2);
    if (large) body.insert(std::string(100'000, 'x'));
    writer.queue(result(2), body);
    writer.queue(result(3), std::as_bytes(std::span("behind", 6)));
    FrameBody other = body_with(1);
    writer.queue(result(4), other);
    EXPECT_TRUE(writer.contiguous().empty());

    const auto first = one_message(writer);
    EXPECT_EQ(first.first.size(), sizeof(FrameHeader) + 6);
    EXPECT_EQ(first.second, 0u);
    const auto second = one_message(writer);
    EXPECT_EQ(second.second, 2u);
    EXPECT_EQ(second.first.size(), 2 * sizeof(FrameHeader) + 10 + (large ? 100'000 : 0));
    FrameHeader header;
    std::memcpy(&header, second.first.data(), sizeof header);
    EXPECT_EQ(header.descriptors, 2);
    const auto third = one_message(writer);
    EXPECT_EQ(third.second, 1u);
    EXPECT_TRUE(writer.empty());
  }
}

TEST(FrameDescriptors, AreSentOnceHoweverTheBytesAreSplit) {
  FrameWriter writer;
  FrameBody body = body_with(1);
  writer.queue(result(1), body);
  EXPECT_EQ(one_message(writer, 0).second, 1u);  // the socket was full
  EXPECT_EQ(one_message(writer, 1).second, 1u);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(one_message(writer, 1).second, 0u);
  one_message(writer);
  EXPECT_TRUE(writer.empty());
  EXPECT_TRUE(writer.contiguous().empty());
}

TEST(FrameDescriptors, LeaveTheWriterAsItWas) {
  FrameWriter writer;
  for (int round = 0; round < 3; ++round) {
    FrameBody body = body_with(1);
    writer.queue(result(1), body);
    EXPECT_EQ(one_message(writer).second, 1u);
    writer.queue(result(2), std::as_bytes(std::span("plain", 5)));
    EXPECT_EQ(writer.contiguous().size(), sizeof(FrameHeader) + 5);
    writer.consumed(writer.pending());
  }
  for (int i = 0; i < 200; ++i) {
    FrameBody body = body_with(1);
    writer.queue(result(1), body);
    if (i % 2 == 0) one_message(writer);
  }
  for (int i = 0; i < 100; ++i) EXPECT_EQ(one_message(writer).second, 1u);
  EXPECT_TRUE(writer.empty());
}

TEST(FrameDescriptors, AreOpenWhileTheBodyOrAFrameHasThem) {
  auto [reading, writing] = pipe_ends();
  FrameBody body;
  body.buffer().append("x", 1);
  body.attach(std::move(writing));
  FrameWriter first, second;
  first.queue(result(1), body);
  second.queue(result(1), body);  // to another worker
  one_message(first);
  body.clear();
  EXPECT_FALSE(ends_within(reading, 0));
  second.clear();
  EXPECT_TRUE(ends_within(reading, 0));
}

TEST(FrameDescriptors, ThatTheKernelRefusesAreLeftOut) {
  FrameWriter writer;
  FrameBody body = body_with(3);
  writer.queue(result(7), body);
  EXPECT_TRUE(writer.drop_descriptors());
  EXPECT_FALSE(writer.drop_descriptors());
  const auto [bytes, descriptors] = one_message(writer);
  EXPECT_EQ(descriptors, 0u);
  EXPECT_EQ(bytes, bytes_of({.size = 4, .type = FrameType::result, .id = 7}) + "body");
}

TEST(FrameDescriptors, AreLimitedInNumber) {
  FrameBody body;
  for (std::size_t i = 0; i < most_descriptors; ++i) body.attach(pipe_with(""));
  EXPECT_THROW(body.attach(pipe_with("")), std::invalid_argument);
  FrameBody refusing;
  refusing.allow_descriptors(false);
  EXPECT_THROW(refusing.attach(pipe_with("")), UnwantedDescriptor);
}

// ---- reading --------------------------------------------------------------------------------------------------------

class FrameDescriptorsRead : public testing::Test {
 protected:
  FrameDescriptorsRead() { reader.check_descriptors(); }
  FrameReader reader{1 << 20};
};

TEST_F(FrameDescriptorsRead, BelongToTheFrameThatNamesThem) {
  reader.add_descriptors(list_of(2));
  feed(reader, bytes_of(result(1)) + bytes_of(result(2, 2)) + bytes_of(result(3)));
  EXPECT_EQ(reader.next()->header.id, 1u);
  EXPECT_TRUE(reader.descriptors().empty());
  EXPECT_EQ(reader.next()->header.id, 2u);
  EXPECT_EQ(reader.descriptors().size(), 2u);
  EXPECT_EQ(reader.next()->header.id, 3u);
  EXPECT_TRUE(reader.descriptors().empty()) << "they are closed, since nobody took them";
  EXPECT_FALSE(reader.next());
  EXPECT_FALSE(reader.holds_descriptors());
}

TEST_F(FrameDescriptorsRead, WaitForTheRestOfTheirFrame) {
  FrameHeader header = result(1, 1);
  header.size = 70'000;
  const std::string bytes = bytes_of(header) + std::string(header.size, 'x');
  reader.add_descriptors(list_of(1));
  std::size_t sent = 0;
  for (const std::size_t part : {std::size_t{10}, std::size_t{14}, std::size_t{100}, std::size_t{60'000}}) {
    feed(reader, bytes.substr(sent, part));
    sent += part;
    EXPECT_FALSE(reader.next());
    EXPECT_TRUE(reader.holds_descriptors());
  }
  feed(reader, bytes.substr(sent));
  EXPECT_TRUE(reader.next());
  EXPECT_EQ(reader.descriptors().size(), 1u);
}

TEST_F(FrameDescriptorsRead, OfAnotherNumberAreRefused) {
  for (const std::size_t attached : {0U, 1U, 3U}) {
    FrameReader other(1 << 20);
    other.check_descriptors();
    if (attached != 0) other.add_descriptors(list_of(attached));
    feed(other, bytes_of(result(1, 2)));
    const std::string text = refusal_of_next(other);
    EXPECT_NE(text.find("should have 2 descriptors attached has " + std::to_string(attached)), std::string::npos)
        << text;
  }
}

TEST_F(FrameDescriptorsRead, WithoutAFrameAreRefused) {
  reader.add_descriptors(list_of(1));
  feed(reader, bytes_of(result(1)));
  EXPECT_TRUE(reader.next());
  EXPECT_NE(refusal_of_next(reader).find("should have 0"), std::string::npos);
}

TEST_F(FrameDescriptorsRead, OfAFrameThatHasNoneAreRefusedBeforeItsEnd) {
  FrameHeader header = result(1);
  header.size = 100;
  reader.add_descriptors(list_of(1));
  feed(reader, bytes_of(header) + "a part");
  EXPECT_NE(refusal_of_next(reader).find("should have 0"), std::string::npos);
}

TEST_F(FrameDescriptorsRead, InAnotherNumberAreRefusedBeforeTheEndOfTheFrame) {
  FrameHeader header = result(1, 1);
  header.size = 100;
  reader.add_descriptors(list_of(2));
  feed(reader, bytes_of(header) + "a part");
  EXPECT_NE(refusal_of_next(reader).find("should have 1"), std::string::npos);
}

TEST_F(FrameDescriptorsRead, TwiceForOneFrameAreRefused) {
  FrameHeader header = result(1, 1);
  header.size = 100;
  reader.add_descriptors(list_of(1));
  feed(reader, bytes_of(header));
  EXPECT_FALSE(reader.next());
  reader.add_descriptors(list_of(1));
  feed(reader, "a part");
  EXPECT_NE(refusal_of_next(reader).find("more than one message"), std::string::npos);
}

// The end of one frame and the beginning of the next one come together.
TEST_F(FrameDescriptorsRead, OfTwoFramesMayWaitTogether) {
  FrameHeader header = result(1, 1);
  header.size = 100;
  reader.add_descriptors(list_of(1));
  feed(reader, bytes_of(header) + "a part");
  EXPECT_FALSE(reader.next());
  reader.add_descriptors(list_of(2));
  FrameHeader next = result(2, 2);
  next.size = 100;
  feed(reader, std::string(94, 'x') + bytes_of(next));
  EXPECT_TRUE(reader.next());
  EXPECT_EQ(reader.descriptors().size(), 1u);
  EXPECT_FALSE(reader.next());
  EXPECT_TRUE(reader.holds_descriptors());
  feed(reader, std::string(100, 'x'));
  EXPECT_TRUE(reader.next());
  EXPECT_EQ(reader.descriptors().size(), 2u);
}

TEST_F(FrameDescriptorsRead, ThatTheKernelCouldNotGiveAreNoFaultOfThePeer) {
  DescriptorList list = list_of(1);
  list.set_incomplete();
  reader.add_descriptors(std::move(list));
  feed(reader, bytes_of(result(1, 2)));
  EXPECT_TRUE(reader.next());
  EXPECT_EQ(reader.descriptors().size(), 1u);
  EXPECT_TRUE(reader.descriptors().incomplete());
  DescriptorList none;
  none.set_incomplete();
  reader.add_descriptors(std::move(none));
  feed(reader, bytes_of(result(2, 2)));
  EXPECT_TRUE(reader.next());
  EXPECT_TRUE(reader.descriptors().incomplete());
  EXPECT_TRUE(reader.holds_descriptors());
}

TEST(FrameDescriptorsUnread, AreIgnoredByAReaderThatTakesNone) {
  FrameReader reader(1 << 20);
  feed(reader, bytes_of(result(1, 2)));
  EXPECT_TRUE(reader.next());
  EXPECT_TRUE(reader.descriptors().empty());
}

TEST(FrameDescriptorsUnread, AreAllowedInCallsAndResultsOnly) {
  const auto refused = [](FrameHeader header) {
    FrameReader reader(1 << 20);
    feed(reader, bytes_of(header));
    return refusal_of_next(reader);
  };
  EXPECT_EQ(refused({.type = FrameType::call, .descriptors = most_descriptors}), "accepted");
  EXPECT_EQ(refused({.type = FrameType::result, .descriptors = 1}), "accepted");
  EXPECT_NE(refused({.type = FrameType::status, .descriptors = 1}).find("with descriptors"), std::string::npos);
  EXPECT_NE(refused({.type = FrameType::call, .descriptors = most_descriptors + 1}).find("at most 64"),
            std::string::npos);
}

}  // namespace
