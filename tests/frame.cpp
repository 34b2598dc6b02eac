// Bytes to frames and back, however the bytes are split, and malformed headers.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <drover/error.hpp>
#include <drover/wire/frame.hpp>

namespace {

using namespace drover::detail;
using Bytes = std::vector<std::byte>;

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }
std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

FrameHeader call(std::uint64_t id) {
  return {.type = FrameType::call, .slot = static_cast<std::uint32_t>(id), .id = id};
}

Bytes written(FrameWriter& writer, std::size_t at_most = SIZE_MAX) {
  Bytes out;
  while (!writer.empty() && at_most != 0) {
    iovec stretches[3];
    const std::size_t count = writer.gather(stretches, 3);
    EXPECT_GT(count, 0u);
    const std::size_t take = std::min(at_most, stretches[0].iov_len);
    const auto* const from = static_cast<const std::byte*>(stretches[0].iov_base);
    out.insert(out.end(), from, from + take);
    writer.consumed(take);
    at_most -= take;
  }
  return out;
}

void feed(FrameReader& reader, std::span<const std::byte> bytes) {
  const auto room = reader.prepare();
  ASSERT_GE(room.size(), bytes.size());
  if (!bytes.empty()) std::memcpy(room.data(), bytes.data(), bytes.size());
  reader.commit(bytes.size());
}

std::string pattern(std::size_t size, char seed) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(seed + static_cast<char>(i % 61));
  return text;
}

/// The bodies that arrive if the bytes come in pieces of at most this size.
std::vector<std::string> transferred(FrameWriter& writer, std::size_t piece) {
  FrameReader reader(1 << 20);
  std::vector<std::string> arrived;
  while (!writer.empty()) {
    const auto room = reader.prepare();
    const Bytes part = written(writer, std::min(piece, room.size()));
    std::memcpy(room.data(), part.data(), part.size());
    reader.commit(part.size());
    while (const auto frame = reader.next()) arrived.push_back(text_of(frame->body));
  }
  EXPECT_FALSE(reader.mid_frame());
  return arrived;
}

TEST(Frame, SplitAtAnyByteArrivesWhole) {
  FrameWriter writer;
  const std::string bodies[] = {"first", "", "the third one"};
  for (std::uint64_t i = 0; i < 3; ++i) writer.queue(call(i), bytes_of(bodies[i]));
  const Bytes stream = written(writer);
  for (std::size_t cut = 0; cut <= stream.size(); ++cut) {
    FrameReader reader(1000);
    std::uint64_t arrived = 0;
    for (const auto part : {std::span(stream).first(cut), std::span(stream).subspan(cut)}) {
      feed(reader, part);
      while (const auto frame = reader.next()) {
        EXPECT_EQ(frame->header.id, arrived);
        EXPECT_EQ(frame->header.slot, arrived);
        EXPECT_EQ(text_of(frame->body), bodies[arrived]);
        ++arrived;
      }
    }
    EXPECT_EQ(arrived, 3u);
    EXPECT_FALSE(reader.mid_frame());
  }
}

TEST(Frame, ArrivesByteByByte) {
  FrameWriter writer;
  writer.queue(call(1), bytes_of("body"));
  FrameReader reader(1000);
  const Bytes stream = written(writer, 28);
  for (std::size_t i = 0; i < stream.size(); ++i) {
    EXPECT_EQ(reader.mid_frame(), i != 0);
    EXPECT_FALSE(reader.next());
    feed(reader, std::span(stream).subspan(i, 1));
  }
  EXPECT_EQ(text_of(reader.next()->body), "body");
}

TEST(Frame, MovedInBytesAreSentWithoutACopy) {
  std::string text = pattern(100000, 'a');
  std::vector<std::byte> bytes(70000, std::byte{7});
  const std::string expected = "before" + text + "between" + std::string(70000, '\7') + text + "behind";
  const void* const places[] = {text.data(), bytes.data()};
  std::string again = text;

  FrameWriter writer;
  writer.queue(call(1), bytes_of("small"));
  FrameBody body;
  body.buffer().append(bytes_of("before"));
  body.insert(std::move(text));
  body.buffer().append(bytes_of("between"));
  body.insert(std::move(bytes));
  body.insert(std::move(again));
  body.buffer().append(bytes_of("behind"));
  EXPECT_EQ(body.size(), expected.size());
  writer.queue(call(2), body);
  EXPECT_EQ(body.size(), expected.size());
  writer.queue(call(3), bytes_of("small"));
  EXPECT_EQ(writer.pending(), 3 * sizeof(FrameHeader) + expected.size() + 10);

  iovec stretches[16];
  const std::size_t count = writer.gather(stretches, std::size(stretches));
  for (const void* place : places)
    EXPECT_TRUE(std::any_of(stretches, stretches + count, [place](const iovec& s) { return s.iov_base == place; }));

  EXPECT_TRUE(transferred(writer, 997) == (std::vector<std::string>{"small", expected, "small"}));
}

TEST(Frame, InsertDoesNotCopyLargeNeighbours) {
  FrameBody body;
  const std::string before = pattern(300000, 'a'), between = pattern(90000, 'b'), text = pattern(70000, 'c');
  body.buffer().append(bytes_of(before));
  const void* const place_of_before = body.buffer().data();
  body.insert(std::string(text));
  body.buffer().append(bytes_of(between));
  const void* const place_of_between = body.buffer().data();
  body.insert(std::string());
  body.buffer().append(bytes_of("behind"));
  FrameWriter writer;
  writer.queue(call(1), body);
  iovec stretches[16];
  const std::size_t count = writer.gather(stretches, std::size(stretches));
  for (const void* place : {place_of_before, place_of_between})
    EXPECT_TRUE(std::any_of(stretches, stretches + count, [place](const iovec& s) { return s.iov_base == place; }));
  EXPECT_TRUE(transferred(writer, 50000) == std::vector<std::string>{before + text + between + "behind"});
}

TEST(Frame, BodyMayConsistOfMovedInBytesOnly) {
  FrameWriter writer;
  FrameBody body;
  body.insert(pattern(80000, 'x'));
  writer.queue(call(1), body);
  FrameBody cleared;
  cleared.insert(pattern(80000, 'y'));
  cleared.clear();
  cleared.buffer().append(bytes_of("y"));
  writer.queue(call(2), cleared);
  EXPECT_TRUE(transferred(writer, 1 << 20) == (std::vector<std::string>{pattern(80000, 'x'), "y"}));
}

// A call that its worker has not begun is sent to another worker while the first frame may still be in its writer.
TEST(Frame, BodyCanBeSentTwiceWithoutACopy) {
  for (const std::size_t size : {std::size_t{10}, std::size_t{200000}}) {
    FrameBody body;
    body.buffer().append(bytes_of("name"));
    body.insert(pattern(size, 'x'));
    body.buffer().append(bytes_of(pattern(size, 'y')));
    const std::string expected = "name" + pattern(size, 'x') + pattern(size, 'y');
    FrameWriter first, second;
    first.queue(call(1), body);
    second.queue(call(7), body);
    body.clear();
    EXPECT_TRUE(transferred(first, 50000) == std::vector<std::string>{expected});
    EXPECT_TRUE(transferred(second, 50000) == std::vector<std::string>{expected});
  }
}

TEST(Frame, SmallAndLargeBodiesArriveInAnyPieces) {
  const std::size_t sizes[] = {10, 70000, 0, 65512, 65513, 200000, 1, 65536, 3000, 1 << 20};
  for (const std::size_t piece : {std::size_t{997}, std::size_t{30000}, std::size_t{65536}, std::size_t{1} << 21}) {
    FrameWriter writer;
    char seed = 'a';
    for (const std::size_t size : sizes) {
      const std::string text = pattern(size, seed++);
      ByteBuffer body;
      body.append(bytes_of(text));
      if (size % 3 == 0)
        writer.queue(call(size), body.view());
      else
        writer.queue(call(size), std::move(body));
    }
    FrameReader reader(1 << 20);
    std::size_t arrived = 0;
    while (!writer.empty()) {
      const auto room = reader.prepare();
      const Bytes part = written(writer, std::min(piece, room.size()));
      std::memcpy(room.data(), part.data(), part.size());
      reader.commit(part.size());
      while (const auto frame = reader.next()) {
        ASSERT_EQ(frame->header.size, sizes[arrived]);
        const std::string expected = pattern(sizes[arrived], static_cast<char>('a' + static_cast<int>(arrived)));
        ASSERT_TRUE(text_of(frame->body) == expected);
        if (arrived % 2 == 0) {
          const ByteBuffer taken = reader.take_body();
          ASSERT_TRUE(text_of(taken.view()) == expected);
        }
        ++arrived;
      }
    }
    EXPECT_EQ(arrived, std::size(sizes));
    EXPECT_FALSE(reader.mid_frame());
  }
}

TEST(Frame, LargeBodyIsReceivedWithoutACopy) {
  FrameWriter writer;
  ByteBuffer body;
  body.extend(1 << 20);
  std::memset(body.data(), 1, body.size());
  const std::byte* const memory = body.data();
  writer.queue(call(1), std::move(body));
  EXPECT_TRUE(body.empty());
  iovec stretches[4];
  ASSERT_EQ(writer.gather(stretches, 4), 2u);
  EXPECT_EQ(stretches[1].iov_base, memory);

  FrameReader reader(1 << 20);
  feed(reader, written(writer, 100));
  EXPECT_FALSE(reader.next());
  const auto room = reader.prepare();
  EXPECT_EQ(room.size(), (1u << 20) + 24 - 100);
  const Bytes rest = written(writer);
  std::memcpy(room.data(), rest.data(), rest.size());
  reader.commit(rest.size());
  const auto frame = reader.next();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->body.data() + 100 - 24, room.data());
  const std::byte* const place = frame->body.data();
  const ByteBuffer taken = reader.take_body();
  EXPECT_EQ(taken.data(), place);
  EXPECT_EQ(reader.prepare().size(), FrameReader::usual_buffer_size);
}

TEST(Frame, UntakenFramesDoNotStopTheReader) {
  FrameReader reader(1000, 64);
  FrameWriter writer;
  for (std::uint64_t i = 0; i < 100; ++i) writer.queue(call(i), bytes_of("12345678"));
  while (!writer.empty()) feed(reader, written(writer, reader.prepare().size()));
  for (std::uint64_t i = 0; i < 100; ++i) EXPECT_EQ(reader.next()->header.id, i);
  EXPECT_FALSE(reader.next());
}

TEST(Frame, ReaderKnowsWhetherAFrameIsIncomplete) {
  FrameReader reader(1 << 20);
  EXPECT_FALSE(reader.mid_frame());
  FrameWriter writer;
  writer.queue(call(1), bytes_of("body"));
  writer.queue(call(2), bytes_of(pattern(100000, 'x')));
  feed(reader, written(writer, 28));
  EXPECT_TRUE(reader.next());
  EXPECT_FALSE(reader.mid_frame());
  feed(reader, written(writer, 60));
  EXPECT_FALSE(reader.next());
  EXPECT_TRUE(reader.mid_frame());
}

std::string refusal(const FrameHeader& header, std::size_t max_body = 1000) {
  FrameReader reader(max_body);
  feed(reader, std::as_bytes(std::span(&header, 1)));
  for (int again = 0; again < 2; ++again) {
    try {
      reader.next();
      return "accepted";
    } catch (const drover::Error& error) {
      EXPECT_EQ(error.code(), drover::Errc::protocol_error);
      if (again == 1) return error.what();
    }
  }
  return "";
}

TEST(Frame, MalformedHeaderIsRefused) {
  const FrameHeader good = call(1);
  const auto with = [&](auto change) {
    FrameHeader bad = good;
    change(bad);
    return refusal(bad);
  };
  EXPECT_EQ(refusal(good), "accepted");
  EXPECT_NE(with([](auto& h) { h.type = static_cast<FrameType>(0); }).find("type 0"), std::string::npos);
  EXPECT_NE(with([](auto& h) { h.type = static_cast<FrameType>(20); }).find("type 20"), std::string::npos);
  EXPECT_EQ(with([](auto& h) { h.attempt = 1; }), "accepted");
  EXPECT_NE(with([](auto& h) { h.attempt = 1, h.type = FrameType::result; }).find("an attempt"), std::string::npos);
  EXPECT_NE(with([](auto& h) { h.status = 1; }).find("status 1"), std::string::npos);  // all other bits are flags
  EXPECT_EQ(with([](auto& h) { h.status = 0xfe; }), "accepted");
  EXPECT_NE(with([](auto& h) { h = {.size = 0, .type = FrameType::begun, .status = 2}; }).find("status 2"),
            std::string::npos);
  EXPECT_EQ(with([](auto& h) { h = {.size = 0, .type = FrameType::cancel, .status = 2}; }), "accepted");
  EXPECT_NE(with([](auto& h) { h = {.size = 0, .type = FrameType::cancel, .status = 3}; }).find("status 3"),
            std::string::npos);
  EXPECT_NE(with([](auto& h) { h = {.size = 0, .type = FrameType::result, .status = facts_flag}; }).find("status 32"),
            std::string::npos);
  EXPECT_NE(with([](auto& h) { h = {.size = 0, .type = FrameType::stop, .status = 1}; }).find("status 1"),
            std::string::npos);
  EXPECT_NE(with([](auto& h) { h.size = 1001; }).find("1001 bytes"), std::string::npos);
  EXPECT_NE(with([](auto& h) { h = {.size = 0, .type = FrameType::result, .status = 6}; }).find("status 6"),
            std::string::npos);
  EXPECT_EQ(with([](auto& h) { h = {.size = 0, .type = FrameType::result, .status = 5}; }), "accepted");
  EXPECT_NE(with([](auto& h) { std::memcpy(static_cast<void*>(&h), "HTTP/1.1 400 Bad Request\r\n", sizeof h); }),
            "accepted");
}

TEST(Frame, TooLargeSizeIsRefusedBeforeItIsAllocated) {
  FrameHeader huge = call(1);
  huge.size = 1u << 31;
  const auto address_space = [] {
    std::size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  };
  FrameReader reader(64u << 20);
  feed(reader, std::as_bytes(std::span(&huge, 1)));
  const std::size_t before = address_space();
  EXPECT_THROW(reader.next(), drover::Error);
  EXPECT_LT(address_space(), before + (1u << 30));
  EXPECT_NE(refusal(huge).find("2147483648 bytes"), std::string::npos);
}

TEST(Frame, WriterForgetsWhatIsWritten) {
  FrameWriter writer;
  EXPECT_TRUE(writer.empty());
  for (int round = 0; round < 1000; ++round) {
    writer.queue(call(1), bytes_of("small"));
    writer.queue(call(2), bytes_of(pattern(70000, 'y')));
    // The writer never becomes empty, so its list of written pieces has to be shortened meanwhile.
    const std::size_t before = writer.pending();
    const Bytes out = written(writer, before - 10);
    EXPECT_EQ(out.size(), before - 10);
    EXPECT_EQ(writer.pending(), 10u);
  }
  writer.clear();
  EXPECT_TRUE(writer.empty());
  iovec stretch;
  EXPECT_EQ(writer.gather(&stretch, 1), 0u);
}

}  // namespace
