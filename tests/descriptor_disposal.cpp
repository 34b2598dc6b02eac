// Descriptors whose closing may block are closed on threads of their own.
#include <cerrno>
#include <chrono>
#include <gtest/gtest.h>
#include <utility>
#include <vector>

#include <drover/os/detail/descriptor_disposal.hpp>
#include <drover/os/detail/descriptor_list.hpp>

#include "support/descriptors.hpp"

namespace {

using namespace std::chrono_literals;
using namespace support;
using drover::detail::CloseElsewhere;
using drover::detail::DescriptorDisposal;
using drover::detail::DescriptorList;
using Clock = std::chrono::steady_clock;

constexpr int patience = 10'000;  // milliseconds

void dispose(UniqueFd descriptor) {
  const int number = descriptor.release();
  DescriptorDisposal::close({&number, 1});
}

TEST(DescriptorDisposal, ClosesWhatItGets) {
  for (int round = 0; round < 100; ++round) {
    auto [reading, writing] = pipe_ends();
    auto [other_reading, other_writing] = pipe_ends();
    const int both[] = {writing.release(), other_writing.release()};
    errno = ENOENT;
    DescriptorDisposal::close(both);
    EXPECT_EQ(errno, ENOENT);
    EXPECT_TRUE(ends_within(reading, patience));
    EXPECT_TRUE(ends_within(other_reading, patience));
  }
}

TEST(DescriptorDisposal, GroupThatBlocksHoldsUpNoOther) {
  const auto start = Clock::now();
  for (int blocked = 0; blocked < 3; ++blocked) dispose(UniqueFd(lingering_socket(3)));
  auto [reading, writing] = pipe_ends();
  dispose(std::move(writing));
  EXPECT_TRUE(ends_within(reading, 2000));
  EXPECT_LT(Clock::now() - start, 2s);
}

TEST(CloseElsewhere, KeepsADestructorFromBlocking) {
  auto [reading, writing] = pipe_ends();
  const auto start = Clock::now();
  {
    const CloseElsewhere closing;
    std::vector<UniqueFd> values;
    values.emplace_back(lingering_socket(3));
    values.push_back(std::move(writing));
  }
  EXPECT_LT(Clock::now() - start, 2s);
  EXPECT_TRUE(ends_within(reading, patience));
}

TEST(CloseElsewhere, LastsForItsScopeOnly) {
  auto [reading, writing] = pipe_ends();
  {
    const CloseElsewhere closing;
  }
  writing.reset();
  EXPECT_TRUE(ends_within(reading, 0));
}

// ---- lists ----------------------------------------------------------------------------------------------------------

TEST(DescriptorList, ClosesWhatIsNotTaken) {
  for (const auto close : {DescriptorList::Close::here, DescriptorList::Close::elsewhere}) {
    auto [reading, writing] = pipe_ends();
    auto [other_reading, other_writing] = pipe_ends();
    const int first = writing.get();
    UniqueFd taken;
    {
      DescriptorList list(close);
      list.add(std::move(writing));
      list.add(std::move(other_writing));
      EXPECT_EQ(list.size(), 2u);
      taken = list.take();
      EXPECT_EQ(taken.get(), first);
      EXPECT_EQ(list.size(), 1u);
    }
    EXPECT_TRUE(ends_within(other_reading, close == DescriptorList::Close::here ? 0 : patience));
    EXPECT_TRUE(is_open(first));
    taken.reset();
    EXPECT_TRUE(ends_within(reading, 0));
  }
}

TEST(DescriptorList, MovesWithWhatItOwns) {
  auto [reading, writing] = pipe_ends();
  auto [other_reading, other_writing] = pipe_ends();
  DescriptorList list;
  list.add(std::move(writing));
  list.set_incomplete();
  DescriptorList moved(std::move(list));
  EXPECT_TRUE(list.empty());
  EXPECT_FALSE(list.incomplete());
  EXPECT_TRUE(moved.incomplete());
  DescriptorList other;
  other.add(std::move(other_writing));
  moved = std::move(other);
  EXPECT_FALSE(moved.incomplete());
  EXPECT_TRUE(ends_within(reading, 0));  // what it had before is closed
  EXPECT_EQ(moved.size(), 1u);
  moved.clear();
  EXPECT_TRUE(ends_within(other_reading, 0));
}

}  // namespace
