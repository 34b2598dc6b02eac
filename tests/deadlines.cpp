#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <gtest/gtest.h>
#include <new>
#include <random>
#include <vector>

#include <drover/detail/deadlines.hpp>
#include <drover/timeout.hpp>

namespace {

std::size_t allocations = 0;

void* counted(std::size_t size) {
  ++allocations;
  if (void* const memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using drover::Clock;
using drover::detail::DeadlineHook;
using drover::detail::Deadlines;

struct Item {
  DeadlineHook deadline;
};

TEST(Deadlines, BehaveLikeASortedList) {
  std::mt19937 random(11);
  const Clock::time_point zero{};
  std::vector<Item> items(64);
  Deadlines<Item> deadlines;
  std::vector<Item*> model;
  for (int round = 0; round < 10000; ++round) {
    Item& item = items[random() % items.size()];
    switch (random() % 4) {
      case 0:
      case 1: {
        deadlines.add(item, zero + std::chrono::milliseconds(random() % 50));
        if (std::find(model.begin(), model.end(), &item) == model.end()) model.push_back(&item);
        break;
      }
      case 2:
        deadlines.remove(item);
        std::erase(model, &item);
        break;
      default:
        if (!deadlines.empty()) {
          Item& first = deadlines.first();
          deadlines.remove(first);
          std::erase(model, &first);
        }
    }
    ASSERT_EQ(deadlines.empty(), model.empty());
    for (Item& each : items)
      ASSERT_EQ(each.deadline.queued(), std::find(model.begin(), model.end(), &each) != model.end());
    if (model.empty()) {
      ASSERT_FALSE(deadlines.next());
      continue;
    }
    const auto earliest =
        std::min_element(model.begin(), model.end(), [](Item* a, Item* b) { return a->deadline.at < b->deadline.at; });
    ASSERT_EQ(deadlines.first().deadline.at, (*earliest)->deadline.at);
    ASSERT_EQ(deadlines.next(), (*earliest)->deadline.at);
  }
}

TEST(Deadlines, AllocateOnlyWhenReserved) {
  std::vector<Item> items(1000);
  Deadlines<Item> deadlines;
  const std::size_t before = allocations;
  for (std::size_t count = 1; count <= items.size(); ++count) deadlines.reserve(count);
  const std::size_t reserved = allocations;
  EXPECT_LE(reserved - before, 11u);
  for (int round = 0; round < 2; ++round)
    for (Item& item : items) deadlines.add(item, Clock::time_point{});
  while (!deadlines.empty()) deadlines.remove(deadlines.first());
  for (Item& item : items) deadlines.add(item, Clock::time_point{});
  EXPECT_EQ(allocations, reserved);
}

TEST(Deadlines, ComeOutInOrder) {
  std::mt19937 random(13);
  std::vector<Item> items(1000);
  Deadlines<Item> deadlines;
  for (Item& item : items) deadlines.add(item, Clock::time_point{} + std::chrono::nanoseconds(random()));
  Clock::time_point last{};
  for (std::size_t i = 0; i < items.size(); ++i) {
    ASSERT_GE(deadlines.first().deadline.at, last);
    last = deadlines.first().deadline.at;
    deadlines.remove(deadlines.first());
  }
  EXPECT_TRUE(deadlines.empty());
}

}  // namespace
