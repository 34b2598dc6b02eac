// How many workers an elastic pool has: tables, and random sequences with a clock of their own.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <gtest/gtest.h>
#include <random>
#include <string>
#include <vector>

#include <drover/pool/detail/elastic_size.hpp>

namespace {

using namespace std::chrono_literals;
using drover::Clock;
using drover::Duration;
using drover::detail::ElasticSize;
using Seen = ElasticSize::Seen;
using Worker = Seen::Worker;
using Slots = std::vector<std::size_t>;

const Clock::time_point start = Clock::time_point() + 1000h;

// ---- growth ---------------------------------------------------------------------------------------------------------

struct Growth {
  std::size_t per_worker;
  ElasticSize::Demand demand;
  std::size_t starts, covered;
};

// In a pool that may have eight workers.
TEST(ElasticSize, StartsAsManyAsAreMissing) {
  const std::size_t any = SIZE_MAX;
  const Growth table[] = {
      {1, {.waiting = 0, .active = 2, .starting = 0}, 0, 0},
      {1, {.waiting = 1, .active = 2, .starting = 0}, 1, 0},
      {1, {.waiting = 3, .active = 2, .starting = 0}, 3, 0},
      {1, {.waiting = 3, .active = 4, .starting = 2}, 1, 2},
      {1, {.waiting = 3, .active = 5, .starting = 3}, 0, 3},
      {1, {.waiting = 3, .active = 5, .starting = 4}, 0, 4},
      {1, {.waiting = 100, .active = 2, .starting = 0}, 6, 0},
      {1, {.waiting = 100, .active = 7, .starting = 5}, 1, 5},
      {1, {.waiting = 100, .active = 8, .starting = 6}, 0, any},
      {1, {.waiting = 100, .active = 9, .starting = 0}, 0, any},
      {4, {.waiting = 1, .active = 2, .starting = 0}, 1, 0},
      {4, {.waiting = 4, .active = 2, .starting = 0}, 1, 0},
      {4, {.waiting = 5, .active = 2, .starting = 0}, 2, 0},
      {4, {.waiting = 5, .active = 3, .starting = 1}, 1, 4},
      {4, {.waiting = 4, .active = 3, .starting = 1}, 0, 4},
      {any, {.waiting = any, .active = 2, .starting = 0}, 1, 0},
      {any, {.waiting = any, .active = 4, .starting = 2}, 0, any},
      {0, {.waiting = 2, .active = 2, .starting = 0}, 2, 0},
  };
  for (const Growth& row : table) {
    const ElasticSize size(8, row.per_worker, 1s, 1s);
    const std::string text = std::to_string(row.per_worker) + " calls each, " + std::to_string(row.demand.waiting) +
                             " waiting, " + std::to_string(row.demand.active) + " active, " +
                             std::to_string(row.demand.starting) + " starting";
    EXPECT_EQ(size.starts(row.demand), row.starts) << text;
    EXPECT_EQ(size.covered(row.demand), row.covered) << text;
  }
}

TEST(ElasticSize, MayBecomeLarger) {
  ElasticSize size(2, 1, 1s, 1s);
  const ElasticSize::Demand demand{.waiting = 9, .active = 2, .starting = 0};
  EXPECT_EQ(size.starts(demand), 0u);
  size.set_most(5);
  EXPECT_EQ(size.most(), 5u);
  EXPECT_EQ(size.starts(demand), 3u);
  size.set_most(3);
  EXPECT_EQ(size.most(), 5u);
}

// ---- shrinking ------------------------------------------------------------------------------------------------------

/// Looks at one worker at a time of its own choice, which is idle but for what the test does.
class ElasticLooks : public ::testing::Test {
 protected:
  static constexpr Duration idle_after = 4s, broken_after = 10s;

  ElasticLooks() : slots_{{.slot = 0}, {.slot = 1}, {.slot = 2}, {.slot = 3}} {
    for (std::size_t at = 0; at < slots_.size(); ++at) size_.changed(at, start);
  }
  Slots at(Duration time, std::size_t least = 1, std::size_t waiting = 0) {
    return size_.look(slots_, least, waiting, start + time);
  }

  ElasticSize size_{4, 1, idle_after, broken_after};
  std::vector<Seen> slots_;
};

TEST_F(ElasticLooks, WorkerGoesOnceItHasBeenIdleForLong) {
  EXPECT_EQ(at(idle_after - 1ns), Slots{});
  EXPECT_EQ(at(idle_after), (Slots{3, 2, 1})) << "one stays";
}

TEST_F(ElasticLooks, NoneGoesBelowTheLeast) {
  EXPECT_EQ(at(1h, 4), Slots{});
  EXPECT_EQ(at(1h, 3), (Slots{3}));
  EXPECT_EQ(at(1h, 9), Slots{});
}

TEST_F(ElasticLooks, LongestIdleOneGoesFirst) {
  slots_[2].answers = 1;
  slots_[3].answers = 1;
  EXPECT_EQ(at(1s), Slots{});
  slots_[1].answers = 1;
  slots_[3].answers = 2;
  EXPECT_EQ(at(2s), Slots{});
  EXPECT_EQ(at(10s, 0), (Slots{0, 2, 3, 1}));
  EXPECT_EQ(at(10s, 2), (Slots{0, 2}));
}

TEST_F(ElasticLooks, WorkerWithACallStays) {
  slots_[3].busy = true;
  EXPECT_EQ(at(4s, 0), (Slots{2, 1, 0}));
  EXPECT_EQ(at(400s, 0), (Slots{2, 1, 0}));
  slots_[3].busy = false;
  EXPECT_EQ(at(403s, 0), (Slots{2, 1, 0})) << "its call may have just ended";
  EXPECT_EQ(at(404s, 0), (Slots{2, 1, 0, 3}));
}

TEST_F(ElasticLooks, AnswerCountsFromTheNextLook) {
  EXPECT_EQ(at(3s), Slots{});
  for (Seen& each : slots_) each.answers = 7;
  EXPECT_EQ(at(4s), Slots{});
  EXPECT_EQ(at(8s - 1ns), Slots{});
  EXPECT_EQ(at(8s), (Slots{3, 2, 1}));
}

TEST_F(ElasticLooks, NewWorkerOfASlotStaysAsLong) {
  size_.changed(2, start + 3s);
  EXPECT_EQ(at(5s, 0), (Slots{3, 1, 0}));
  EXPECT_EQ(at(7s, 0), (Slots{3, 1, 0, 2}));
}

TEST_F(ElasticLooks, SuccessorIsAsIdleAsTheWorkerBefore) {
  slots_[2].answers = 5;
  EXPECT_EQ(at(3s), Slots{});
  slots_[2].answers = 0;
  size_.replaced(2);
  EXPECT_EQ(at(5s, 0), (Slots{3, 1, 0}));
  EXPECT_EQ(at(7s, 0), (Slots{3, 1, 0, 2}));
}

TEST_F(ElasticLooks, NoneGoesWhileCallsWait) {
  EXPECT_EQ(at(5s, 1, 1), Slots{});
  EXPECT_EQ(at(9s - 1ns), Slots{}) << "as if all had been used";
  EXPECT_EQ(at(9s), (Slots{3, 2, 1}));
}

TEST_F(ElasticLooks, SlotWithoutAWorkerGoesFirstButLater) {
  slots_[1].worker = Worker::none;
  EXPECT_EQ(at(4s), (Slots{3, 2})) << "it has its RestartPolicy";
  EXPECT_EQ(at(10s - 1ns), (Slots{3, 2}));
  EXPECT_EQ(at(10s), (Slots{1, 3, 2}));
  EXPECT_EQ(at(10s, 2), (Slots{1, 3}));
  EXPECT_EQ(at(10s, 3), (Slots{1}));
}

// The pool would have no worker that takes calls.
TEST_F(ElasticLooks, AsManyThatAreReadyStay) {
  slots_[0].worker = Worker::none;
  slots_[1].worker = Worker::none;
  EXPECT_EQ(at(4s, 2), Slots{});
  EXPECT_EQ(at(4s, 1), (Slots{3}));
  EXPECT_EQ(at(10s, 2), (Slots{1, 0}));
  slots_[2].worker = Worker::none;
  slots_[3].worker = Worker::starting;
  EXPECT_EQ(at(10s, 1), (Slots{2, 1, 0}));
}

TEST_F(ElasticLooks, SlotStaysWhileSomethingElseIsDoneToIt) {
  slots_[3].kept = true;
  slots_[2].worker = Worker::starting;
  EXPECT_EQ(at(100s, 0), (Slots{1, 0}));
}

TEST(ElasticPause, IsAQuarterAndNeverBusy) {
  EXPECT_EQ(ElasticSize(1, 1, 60s, 1s).pause(), 15s + 1ns);
  EXPECT_EQ(ElasticSize(1, 1, 1ns, 1s).pause(), 1ms);
  EXPECT_EQ(ElasticSize(1, 1, Duration::max(), 1s).pause(), Duration::max() / 4 + 1ns);
  const Duration odd = 101ms + 3ns;
  EXPECT_GE(4 * ElasticSize(1, 1, odd, 1s).pause(), odd) << "the fourth look may not come too early";
}

// ---- random sequences -----------------------------------------------------------------------------------------------

/// A pool whose workers start, work and break as they like. Carries out the decisions, and checks them.
class ElasticModel {
 public:
  explicit ElasticModel(unsigned seed) : random_(seed), least_(1 + random_() % 3), slots_(most) {
    for (std::size_t at = 0; at < least_; ++at) {
      slots_[at].active = true;
      make_ready(at);
    }
  }

  void step() {
    now_ += std::chrono::milliseconds(random_() % 40);
    if (now_ >= next_look_) look();
    SlotModel& slot = slots_[random_() % most];
    const auto at = static_cast<std::size_t>(&slot - slots_.data());
    switch (random_() % 8) {
      case 0: waiting_ += random_() % 3; break;
      case 1:
        if (slot.active && slot.worker != Worker::ready) make_ready(at);
        break;
      case 2:
        if (slot.active && slot.worker == Worker::starting) slot.worker = Worker::none;
        break;
      case 3:
        if (slot.active && !slot.busy) slot.worker = random_() % 2 == 0 ? Worker::none : Worker::starting;
        break;
      case 4:
        if (slot.active && slot.worker == Worker::none) slot.worker = Worker::starting;
        break;
      case 5: waiting_ -= std::min<std::size_t>(waiting_, random_() % 3); break;
      case 6: take_call(slot); break;
      case 7: end_call(slot); break;
    }
    grow();
  }
  /// Nobody calls any more. The pool has its least size in the end, and workers that are ready.
  void settle() {
    waiting_ = 0;
    for (std::size_t at = 0; at < most; ++at) {
      end_call(slots_[at]);
      if (slots_[at].active && slots_[at].worker != Worker::ready) make_ready(at);
    }
    const auto until = now_ + idle_after + idle_after / 4 + 2 * step_bound;
    while (now_ < until) {
      now_ += 10ms;
      if (now_ >= next_look_) look();
    }
    EXPECT_EQ(active(), least_) << "not later than a quarter after idle_after";
  }

 private:
  static constexpr std::size_t most = 6;
  static constexpr Duration idle_after = 200ms, broken_after = 500ms, step_bound = 40ms;

  struct SlotModel {
    bool active = false, busy = false;
    Worker worker = Worker::none;
    std::uint64_t answers = 0;
    Clock::time_point used{};  // the last call has ended, or it became ready
  };

  std::size_t active() const {
    return static_cast<std::size_t>(
        std::count_if(slots_.begin(), slots_.end(), [](const SlotModel& slot) { return slot.active; }));
  }
  std::size_t count(Worker worker) const {
    return static_cast<std::size_t>(std::count_if(
        slots_.begin(), slots_.end(), [&](const SlotModel& slot) { return slot.active && slot.worker == worker; }));
  }
  void make_ready(std::size_t at) {
    SlotModel& slot = slots_[at];
    slot.worker = Worker::ready;
    slot.busy = false;
    slot.answers = 0;
    slot.used = now_;
    size_.changed(at, now_);
  }
  void take_call(SlotModel& slot) {
    if (!slot.active || slot.worker != Worker::ready || slot.busy || waiting_ == 0) return;
    slot.busy = true;
    --waiting_;
  }
  void end_call(SlotModel& slot) {
    if (!slot.busy) return;
    slot.busy = false;
    ++slot.answers;
    slot.used = now_;
  }
  void grow() {
    const std::size_t before = active(), starting = count(Worker::starting);
    const ElasticSize::Demand demand{.waiting = waiting_, .active = before, .starting = starting};
    const std::size_t starts = size_.starts(demand);
    ASSERT_LE(before + starts, most);
    ASSERT_TRUE(starts == 0 || waiting_ >= starting + starts) << "more than there are calls for";
    ASSERT_TRUE(waiting_ > size_.covered(demand) || starts == 0) << "the caller would not have asked";
    std::size_t left = starts;
    for (std::size_t at = 0; at < most && left != 0; ++at) {
      if (slots_[at].active) continue;
      slots_[at] = {.active = true, .busy = false, .worker = Worker::starting, .answers = 0, .used = now_};
      size_.changed(at, now_);
      --left;
    }
    ASSERT_EQ(left, 0u);
  }
  void look() {
    std::vector<Seen> seen;
    for (std::size_t at = 0; at < most; ++at) {
      const SlotModel& slot = slots_[at];
      if (slot.active)
        seen.push_back({.slot = at, .worker = slot.worker, .answers = slot.answers, .busy = slot.busy, .kept = false});
    }
    const std::size_t ready = count(Worker::ready);
    for (const std::size_t at : size_.look(seen, least_, waiting_, now_)) {
      SlotModel& slot = slots_[at];
      ASSERT_TRUE(slot.active);
      ASSERT_FALSE(slot.busy) << "a worker that has a call";
      ASSERT_EQ(waiting_, 0u);
      ASSERT_NE(slot.worker, Worker::starting);
      ASSERT_TRUE(now_ - slot.used >= (slot.worker == Worker::ready ? idle_after : broken_after)) << "too early";
      slot.active = false;
    }
    ASSERT_GE(active(), least_);
    ASSERT_GE(count(Worker::ready), std::min(ready, least_));
    next_look_ = now_ + size_.pause();
  }

  std::minstd_rand random_;
  const std::size_t least_;
  ElasticSize size_{most, 1, idle_after, broken_after};
  std::vector<SlotModel> slots_;
  std::size_t waiting_ = 0;
  Clock::time_point now_ = start, next_look_ = start;
};

TEST(ElasticSize, KeepsItsPromisesInRandomSequences) {
  for (unsigned seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    ElasticModel model(seed);
    for (int i = 0; i < 2000; ++i) {
      model.step();
      if (HasFatalFailure()) return;
    }
    model.settle();
    if (HasFailure()) return;
  }
}

}  // namespace
