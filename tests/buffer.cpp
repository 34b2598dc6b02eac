// The memory of messages: its growth, and the reuse of large blocks.
#include <cstring>
#include <gtest/gtest.h>
#include <thread>
#include <vector>

#include <drover/wire/buffer.hpp>

namespace {

using drover::detail::ByteBuffer;

constexpr std::size_t MiB = std::size_t{1} << 20;

TEST(ByteBuffer, KeepsEveryByteUpToManyMegabytes) {
  ByteBuffer buffer;
  for (std::uint32_t i = 0; buffer.size() < 5 * MiB; ++i) buffer.append(&i, sizeof i);
  for (std::uint32_t i = 0; i < buffer.size() / sizeof i; ++i)
    ASSERT_EQ(std::memcmp(buffer.data() + i * sizeof i, &i, sizeof i), 0) << i;
}

TEST(ByteBuffer, MoveTakesTheBytesAlong) {
  for (const std::size_t size : {std::size_t{10}, 3 * MiB}) {
    ByteBuffer first(size);
    std::memset(first.extend(size), 5, size);
    const std::byte* const place = first.data();
    ByteBuffer second(std::move(first));
    EXPECT_TRUE(first.empty());
    EXPECT_EQ(second.data(), place);
    first = std::move(second);
    EXPECT_EQ(first.data(), place);
    EXPECT_EQ(first.view().back(), std::byte{5});
    first.append("x", 1);  // a buffer that was assigned to is like any other
    second.append("y", 1);
    EXPECT_EQ(second.size(), 1u);
  }
}

TEST(ByteBuffer, RefusesImpossibleSizes) {
  const volatile std::size_t most = SIZE_MAX;  // volatile, because the compiler warns of constant sizes like these
  ByteBuffer buffer;
  buffer.append("x", 1);
  EXPECT_THROW(buffer.extend(most), std::bad_alloc);
  EXPECT_THROW(buffer.extend(most / 2), std::bad_alloc);
  EXPECT_THROW(ByteBuffer{most}, std::bad_alloc);
  EXPECT_EQ(buffer.size(), 1u);
}

TEST(ByteBuffer, ReusesALargeBlock) {
  const std::byte* place = nullptr;
  {
    ByteBuffer buffer(16 * MiB);
    place = buffer.data();
    EXPECT_GE(buffer.capacity(), 16 * MiB);
  }
  EXPECT_EQ(ByteBuffer(16 * MiB).data(), place);
  EXPECT_NE(ByteBuffer(1 * MiB).data(), place);  // but not for a much smaller buffer
}

TEST(ByteBuffer, ThreadsMayShareLargeBlocks) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t] {
      for (std::size_t round = 0; round < 200; ++round) {
        const std::size_t size = (1 + round % 12) * MiB;
        ByteBuffer buffer(size);
        buffer.extend(size);
        for (std::size_t at = 0; at < size; at += 65536) buffer.data()[at] = static_cast<std::byte>(t);
        for (std::size_t at = 0; at < size; at += 65536) ASSERT_EQ(buffer.data()[at], static_cast<std::byte>(t));
      }
    });
  for (auto& thread : threads) thread.join();
}

}  // namespace
