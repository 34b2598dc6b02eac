#include <algorithm>
#include <chrono>
#include <cstddef>
#include <gtest/gtest.h>
#include <random>
#include <vector>

#include <drover/detail/deadlines.hpp>
#include <drover/timeout.hpp>

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
