// The calls that wait for a worker: by priority, with a key, for a second attempt, for one certain worker.
#include <algorithm>
#include <array>
#include <cstdint>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <drover/pool/detail/call/call_keys.hpp>
#include <drover/pool/detail/call/priority_shares.hpp>
#include <drover/pool/detail/call/waiting_calls.hpp>

#include "support/fake_worker.hpp"

namespace {

using namespace support;
using drover::detail::CallKey;
using drover::detail::CallKeys;
using drover::detail::PriorityShares;
using drover::detail::WaitingCalls;

// ---- priorities -----------------------------------------------------------------------------------------------------

TEST(PriorityShares, MostUrgentIsNextUntilEnoughHaveOvertaken) {
  PriorityShares shares;
  const PriorityShares::Waiting all{true, true, true, true};
  std::array<int, PriorityShares::levels> turns{};
  std::vector<std::size_t> order;
  for (int i = 0; i < 400; ++i) {
    const std::size_t next = shares.next(all);
    shares.took(next, all);
    ++turns[next];
    order.push_back(next);
  }
  EXPECT_TRUE(std::all_of(order.begin(), order.begin() + PriorityShares::most_overtaking,
                          [](std::size_t level) { return level == 3; }));
  for (const int of_level : turns) EXPECT_GE(of_level, 400 / 20);
  EXPECT_GT(turns[3], 300);
}

TEST(PriorityShares, NobodyIsOvertakenWhileNobodyWaits) {
  PriorityShares shares;
  const PriorityShares::Waiting urgent{false, false, false, true}, both{true, false, false, true};
  for (int i = 0; i < 1000; ++i) shares.took(3, urgent);
  for (unsigned i = 0; i < PriorityShares::most_overtaking; ++i) {
    EXPECT_EQ(shares.next(both), 3u) << i;
    shares.took(3, both);
  }
  EXPECT_EQ(shares.next(both), 0u);
}

TEST(PriorityShares, WaitOfEachLevelIsBounded) {
  std::mt19937 random(3);
  PriorityShares shares;
  std::array<unsigned, PriorityShares::levels> overtaken{};
  for (int round = 0; round < 50'000; ++round) {
    PriorityShares::Waiting waiting{};
    for (auto& level : waiting) level = random() % 8 != 0;
    if (std::none_of(waiting.begin(), waiting.end(), [](bool level) { return level; })) continue;
    const std::size_t next = shares.next(waiting);
    ASSERT_TRUE(waiting[next]);
    shares.took(next, waiting);
    for (std::size_t level = 0; level < waiting.size(); ++level) {
      overtaken[level] = waiting[level] && level < next     ? overtaken[level] + 1
                         : level == next || !waiting[level] ? 0
                                                            : overtaken[level];
      ASSERT_LE(overtaken[level], PriorityShares::most_overtaking + PriorityShares::levels);
    }
  }
}

TEST(WaitingCalls, LoseAndReorderNoneOfAPriority) {
  std::mt19937 random(5);
  WaitingCalls waiting;
  std::array<std::vector<Call*>, 4> model;
  for (int round = 0; round < 20'000; ++round) {
    const auto level = random() % 4;
    auto& expected = model[level];
    if (random() % 2 == 0 && waiting.size() < 100) {
      auto call = std::make_shared<Call>();
      call->priority = static_cast<std::uint8_t>(level);
      const bool back = random() % 4 != 0;
      expected.insert(back ? expected.end() : expected.begin(), call.get());
      back ? waiting.push(call) : waiting.push_front(call);
    } else if (!expected.empty() && random() % 4 == 0) {
      const auto at = expected.begin() + static_cast<std::ptrdiff_t>(random() % expected.size());
      waiting.remove(**at);
      expected.erase(at);
    } else if (!waiting.empty()) {
      Call& front = waiting.front();
      auto& queue = model[front.priority];
      ASSERT_EQ(&front, queue.front());
      ASSERT_EQ(waiting.pop().get(), &front);
      queue.erase(queue.begin());
    }
    std::size_t size = 0;
    for (const auto& queue : model) size += queue.size();
    ASSERT_EQ(waiting.size(), size);
    ASSERT_EQ(waiting.empty(), size == 0);
  }
  while (waiting.take_any()) {
  }
  EXPECT_TRUE(waiting.empty());
}

// ---- keys -----------------------------------------------------------------------------------------------------------

TEST(CallKeys, AreForgottenInTheOrderOfTheirLastUse) {
  CallKeys keys({}, 2);
  const auto use = [&](const std::string& name) { keys.end_call(keys.begin_call(name)); };
  const auto link_of = [&](const std::string& name) {
    CallKey& key = keys.begin_call(name);
    const auto link = key.link;
    keys.end_call(key);
    return link;
  };
  for (const std::string name : {"a", "b"}) {
    CallKey& key = keys.begin_call(name);
    key.link = name == "a" ? 1 : 2;
    keys.end_call(key);
  }
  use("a");
  use("c");  // and b goes
  EXPECT_EQ(keys.size(), 2u);
  EXPECT_EQ(link_of("a"), 1u);
  EXPECT_EQ(link_of("b"), 0u);
}

TEST(CallKeys, WithCallsAreNeverForgotten) {
  CallKeys keys({}, 1);
  CallKey& first = keys.begin_call("first");
  first.link = 7;
  CallKey& again = keys.begin_call("first");
  EXPECT_EQ(&again, &first);
  for (int i = 0; i < 100; ++i) keys.end_call(keys.begin_call(std::to_string(i)));
  keys.end_call(first);
  EXPECT_EQ(keys.begin_call("first").link, 7u);
}

TEST(CallKeys, RandomCallsMatchAModel) {
  constexpr std::size_t most = 50;
  std::mt19937 random(19);
  CallKeys keys({}, most);
  struct KnownKey {
    std::uint64_t link = 0;
    std::vector<CallKey*> calls;
  };
  std::map<std::string, KnownKey> model;
  std::vector<std::string> idle;  // the one used least recently first
  std::size_t largest = 0;
  for (std::uint64_t step = 1; step <= 20'000; ++step) {
    const std::string name = "key " + std::to_string(random() % 300);
    const bool grows = step / 1000 % 2 == 0;
    if (random() % 4 < (grows ? 3U : 1U)) {
      CallKey& key = keys.begin_call(name);
      KnownKey& known = model[name];
      std::erase(idle, name);
      known.calls.push_back(&key);
      ASSERT_EQ(key.link, known.link) << name;
      ASSERT_EQ(key.calls, known.calls.size());
      key.link = known.link = step;
    } else if (const auto found = model.find(name); found != model.end() && !found->second.calls.empty()) {
      keys.end_call(*found->second.calls.back());
      found->second.calls.pop_back();
      if (!found->second.calls.empty()) continue;
      idle.push_back(name);
      if (model.size() > most) {
        model.erase(idle.front());
        idle.erase(idle.begin());
      }
    }
    ASSERT_EQ(keys.size(), model.size());
    ASSERT_EQ(keys.in_use(), model.size() - idle.size());
    largest = std::max(largest, keys.size());
  }
  EXPECT_GT(largest, 2 * most) << "keys with calls are not forgotten";
}

TEST(CallKeys, ArePoisonedByDeathsInARow) {
  using namespace std::chrono_literals;
  CallKeys keys({.after = 3, .span = 10s}, 10);
  const auto now = drover::Clock::now();
  CallKey& key = keys.begin_call("key");
  keys.died(key, 1, now);
  keys.died(key, 2, now);
  EXPECT_TRUE(keys.death_poisons(key, 3, now));
  CallKeys::answered(key);
  EXPECT_FALSE(keys.death_poisons(key, 3, now));
  for (const std::uint64_t link : {3u, 4u}) keys.died(key, link, now);
  EXPECT_FALSE(CallKeys::poisoned(key, now));
  keys.died(key, 5, now);
  EXPECT_TRUE(CallKeys::poisoned(key, now + 9s));
  EXPECT_FALSE(CallKeys::poisoned(key, now + 10s));
  keys.died(key, 6, now + 10s);
  EXPECT_FALSE(CallKeys::poisoned(key, now + 10s)) << "the deaths are counted anew";
}

TEST(CallKeys, CountAWorkerThatDiesUnderSeveralCallsOnce) {
  using namespace std::chrono_literals;
  CallKeys keys({.after = 2, .span = 10s}, 10);
  const auto now = drover::Clock::now();
  CallKey& key = keys.begin_call("key");
  for (int i = 0; i < 5; ++i) keys.died(key, 1, now);
  EXPECT_FALSE(CallKeys::poisoned(key, now));
  EXPECT_FALSE(keys.death_poisons(key, 1, now)) << "it is counted already";
  EXPECT_TRUE(keys.death_poisons(key, 2, now));
  keys.died(key, 2, now);
  EXPECT_TRUE(CallKeys::poisoned(key, now));
  EXPECT_TRUE(keys.death_poisons(key, 2, now)) << "under the other calls of that worker, too";
}

TEST(CallKeys, AreNotPoisonedWithoutAPolicy) {
  CallKeys keys({}, 10);
  CallKey& key = keys.begin_call("key");
  for (std::uint64_t link = 1; link < 100; ++link) keys.died(key, link, drover::Clock::now());
  EXPECT_FALSE(CallKeys::poisoned(key, drover::Clock::now()));
  EXPECT_FALSE(keys.death_poisons(key, 100, drover::Clock::now()));
}

}  // namespace
