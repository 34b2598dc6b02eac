// StartQueue decides which workers of a pool may start when many are due at once; SlotQueue keeps their order.
#include <algorithm>
#include <array>
#include <cstddef>
#include <deque>
#include <gtest/gtest.h>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include <drover/pool/detail/slot_queue.hpp>
#include <drover/pool/detail/start_queue.hpp>

namespace {

using drover::detail::SlotQueue;
using drover::detail::StartQueue;

TEST(StartQueue, StartsALoneWorkerAtOnce) {
  StartQueue queue(4, 2);
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(queue.begin(3));
    EXPECT_EQ(queue.next(), std::nullopt);
    EXPECT_FALSE(queue.begin(3)) << "it starts already";
    EXPECT_FALSE(queue.settled(3));
    EXPECT_FALSE(queue.settled(3)) << "it was settled";
  }
}

TEST(StartQueue, StartsOneInEachTurnAndTheOthersInOrder) {
  StartQueue queue(5, 10);
  EXPECT_TRUE(queue.begin(4));
  constexpr std::array<std::size_t, 4> order{0, 3, 1, 2};
  for (const std::size_t slot : order) EXPECT_FALSE(queue.begin(slot));
  for (const std::size_t slot : order) EXPECT_EQ(queue.next(), slot);
  EXPECT_EQ(queue.next(), std::nullopt);
}

TEST(StartQueue, StartsNoMoreAtATimeThanItsLimit) {
  StartQueue queue(5, 2);
  EXPECT_TRUE(queue.begin(0));
  EXPECT_EQ(queue.next(), std::nullopt);
  EXPECT_TRUE(queue.begin(1));
  EXPECT_FALSE(queue.begin(2));
  EXPECT_FALSE(queue.begin(3));
  EXPECT_EQ(queue.next(), std::nullopt) << "two start already";
  EXPECT_FALSE(queue.begin(3)) << "it waits already";
  EXPECT_TRUE(queue.settled(0)) << "one of those that wait may start";
  EXPECT_EQ(queue.next(), 2u);
  EXPECT_FALSE(queue.settled(1)) << "after the turn that was taken next() is called in any case";
  EXPECT_EQ(queue.next(), 3u);
}

TEST(StartQueue, ForgoneTurnIsGivenByTheNextEnd) {
  StartQueue queue(3, 2);
  EXPECT_TRUE(queue.begin(0));
  EXPECT_FALSE(queue.begin(1));
  queue.forgo_turn();  // nobody could be told to call next()
  EXPECT_TRUE(queue.settled(0));
  EXPECT_EQ(queue.next(), 1u);
  queue.forgo_turn();
  EXPECT_TRUE(queue.begin(2));
}

// Slots that are removed neither wait nor start any more; the others keep their order.
TEST(StartQueue, MayBeResized) {
  StartQueue queue(5, 2);
  EXPECT_TRUE(queue.begin(4));
  for (const std::size_t slot : std::array<std::size_t, 4>{3, 0, 2, 1}) EXPECT_FALSE(queue.begin(slot));
  EXPECT_EQ(queue.next(), 3u);
  queue.resize(3);
  EXPECT_FALSE(queue.settled(4)) << "it is counted no more";
  EXPECT_EQ(queue.next(), 0u);
  EXPECT_EQ(queue.next(), 2u);
  EXPECT_EQ(queue.next(), std::nullopt) << "two start already";
  queue.resize(7);
  EXPECT_FALSE(queue.begin(6));
  EXPECT_TRUE(queue.settled(0));
  EXPECT_EQ(queue.next(), 1u);
  EXPECT_FALSE(queue.settled(2));
  EXPECT_EQ(queue.next(), 6u);
}

TEST(StartQueue, LimitGrowsWithTheCores) {
  EXPECT_EQ(StartQueue::limit(1), 16u);
  EXPECT_EQ(StartQueue::limit(64), 512u);
}

// Random lives of slots against a model: each worker that is due starts once, in order, never too many at a time.
TEST(StartQueue, RandomSequencesMatchAModel) {
  std::mt19937 random(11);
  for (int round = 0; round < 2000; ++round) {
    const std::size_t slots = 1 + random() % 9, most = 1 + random() % 4;
    StartQueue queue(slots, most);
    std::set<std::size_t> idle, starting;
    std::deque<std::size_t> waiting;
    for (std::size_t i = 0; i < slots; ++i) idle.insert(i);
    bool turn_taken = false;
    for (int step = 0; step < 60; ++step) {
      switch (random() % 4) {
        case 0:
          if (!idle.empty()) {
            const std::size_t slot = *std::next(idle.begin(), static_cast<std::ptrdiff_t>(random() % idle.size()));
            idle.erase(slot);
            const bool begins = !turn_taken && starting.size() < most;
            ASSERT_EQ(queue.begin(slot), begins);
            turn_taken = turn_taken || begins;
            if (begins)
              starting.insert(slot);
            else
              waiting.push_back(slot);
          }
          break;
        case 1: {
          const auto next = queue.next();
          turn_taken = !waiting.empty() && starting.size() < most;
          ASSERT_EQ(next.has_value(), turn_taken);
          if (!next) break;
          ASSERT_EQ(*next, waiting.front());
          waiting.pop_front();
          starting.insert(*next);
          break;
        }
        case 2: {
          const std::size_t slot = random() % slots;
          const bool starts = starting.erase(slot) != 0;
          if (starts || std::erase(waiting, slot) != 0) idle.insert(slot);
          ASSERT_EQ(queue.forget(slot), starts && !waiting.empty() && !turn_taken);
          break;
        }
        default:
          if (!starting.empty()) {
            const std::size_t slot = *starting.begin();
            idle.insert(slot);
            starting.erase(slot);
            ASSERT_EQ(queue.settled(slot), !waiting.empty() && !turn_taken);
          }
      }
      ASSERT_LE(starting.size(), most);
    }
  }
}

TEST(StartQueue, ForgetsSlotsThatAreNotDueAnyMore) {
  StartQueue queue(5, 4);
  EXPECT_TRUE(queue.begin(0));
  for (const std::size_t slot : {1u, 2u, 3u}) EXPECT_FALSE(queue.begin(slot));
  EXPECT_FALSE(queue.forget(2));
  EXPECT_FALSE(queue.forget(4)) << "it is not due";
  EXPECT_EQ(queue.next(), std::optional<std::size_t>(1));
  EXPECT_EQ(queue.next(), std::optional<std::size_t>(3));
  EXPECT_EQ(queue.next(), std::nullopt);
  EXPECT_TRUE(queue.begin(2)) << "it is due again";
}

// ---- the order ------------------------------------------------------------------------------------------------------

TEST(SlotQueue, RandomSequencesMatchAModel) {
  std::mt19937 random(13);
  SlotQueue queue;
  std::deque<std::size_t> model;
  std::size_t slots = 0;
  for (int step = 0; step < 20'000; ++step) {
    const std::size_t slot = random() % 12;
    switch (random() % 8) {
      case 0:
        slots = random() % 12;
        queue.resize(slots);
        std::erase_if(model, [&](std::size_t queued) { return queued >= slots; });
        break;
      case 1:
      case 2:
        queue.remove(slot);
        std::erase(model, slot);
        break;
      case 3:
        if (model.empty()) break;
        ASSERT_EQ(queue.pop(), model.front());
        model.pop_front();
        break;
      default:
        if (slot >= slots) break;
        queue.push(slot);
        if (std::find(model.begin(), model.end(), slot) == model.end()) model.push_back(slot);
    }
    ASSERT_EQ(queue.slots(), slots);
    ASSERT_EQ(queue.empty(), model.empty());
    ASSERT_EQ(queue.contains(slot), std::find(model.begin(), model.end(), slot) != model.end());
  }
}

}  // namespace
