// The turns of planned replacements, and random sequences in a pool of five slots.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <gtest/gtest.h>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include <drover/pool/detail/replacement_turns.hpp>
#include <drover/pool/detail/slot_state.hpp>

namespace {

using namespace std::chrono_literals;
using drover::Clock;
using drover::RestartPolicy;
using drover::detail::ReplacementTurns;
using drover::detail::SlotState;
using Actions = SlotState::Actions;
using Successor = SlotState::Successor;
using Worker = SlotState::Worker;

const RestartPolicy policy{.max_restarts = 1, .within = 10s, .backoff = 50ms, .max_backoff = 1s};

// ---- the turns ------------------------------------------------------------------------------------------------------

TEST(ReplacementTurns, AreGivenInOrderOneAtATime) {
  ReplacementTurns turns;
  EXPECT_EQ(turns.next(), std::nullopt);
  turns.ask(2);
  turns.ask(0);
  turns.ask(1);
  EXPECT_EQ(turns.next(), 2u);
  EXPECT_TRUE(turns.has_turn(2));
  EXPECT_EQ(turns.next(), std::nullopt);
  turns.withdraw(0);
  turns.end(0);  // it is not its turn
  EXPECT_EQ(turns.next(), std::nullopt);
  turns.ask(2);
  turns.withdraw(2);
  EXPECT_TRUE(turns.has_turn(2)) << "only the second one was withdrawn";
  turns.end(2);
  EXPECT_FALSE(turns.has_turn(2));
  EXPECT_EQ(turns.next(), 1u);
  turns.end(7);
  EXPECT_TRUE(turns.has_turn(1));
}

// ---- random sequences -----------------------------------------------------------------------------------------------

/// Five slots whose workers do as they like. Carries out what the slots decide, and checks it.
class Model {
 public:
  explicit Model(unsigned seed) : random_(seed) {
    for (std::size_t i = 0; i < size; ++i) slots_.emplace_back(i);
    for (SlotModel& slot : slots_) apply(slot, slot.state.replace(false));
  }

  void step() {
    now_ += std::chrono::milliseconds(random_() % 200);
    SlotModel& slot = slots_[random_() % size];
    SlotState& state = slot.state;
    switch (random_() % 12) {
      case 0:
      case 1: return start(slot);
      case 2:
      case 3:
        if (state.worker() == Worker::starting) apply(slot, state.worker_ready());
        return;
      case 4:
        if (state.worker() == Worker::ready) apply(slot, state.worker_answered());
        return;
      case 5:
        if (state.worker() == Worker::ready) apply(slot, state.worker_leaves(now_, random_() % 2 == 0));
        return;
      case 6:
        if (state.worker() != Worker::none) apply(slot, state.worker_exited(now_, {.served = random_() % 2 == 0}));
        return;
      case 7: return apply(slot, state.replace(random_() % 2 == 0));
      case 8: return successor_ready(slot);
      case 9:
        if (slot.has_successor) end_successor(slot);
        return;
      case 10: return end_predecessor(slot);
      case 11:
        if (random_() % 4 == 0) apply(slot, state.keep_worker());
    }
  }
  void check() const {
    std::size_t processes = 0, leavers = 0, with_turn = 0;
    for (const SlotModel& slot : slots_) {
      const SlotState& state = slot.state;
      processes += (state.worker() != Worker::none) + slot.has_successor + slot.leavers + slot.retired;
      leavers += slot.leavers + (state.worker() == Worker::leaving);
      with_turn += turns_.has_turn(slot.at);
      ASSERT_EQ(slot.has_successor, state.successor() == Successor::starting);
      ASSERT_TRUE(!slot.has_successor || turns_.has_turn(slot.at)) << "a successor out of turn";
      ASSERT_TRUE(slot.retired == 0 || turns_.has_turn(slot.at)) << "the turn has ended too early";
      ASSERT_LE(slot.leavers, 1u);
      ASSERT_LE(slot.retired, 1u);
      ASSERT_TRUE(state.worker() != Worker::none || slot.has_successor || slot.start_pending) << "nothing is to come";
    }
    ASSERT_LE(with_turn, 1u);
    ASSERT_LE(processes, size + 1 + leavers);
  }
  /// From now on all goes well. Every slot has to have a worker that is ready in the end.
  void settle() {
    for (int round = 0; round < 10; ++round)
      for (SlotModel& slot : slots_) {
        if (slot.state.worker() == Worker::leaving) apply(slot, slot.state.worker_exited(now_, {.graceful = true}));
        start(slot);
        if (slot.state.worker() == Worker::starting) apply(slot, slot.state.worker_ready());
        successor_ready(slot);
        end_predecessor(slot);
        end_predecessor(slot);
      }
    for (const SlotModel& slot : slots_) {
      EXPECT_EQ(slot.state.worker(), Worker::ready);
      EXPECT_EQ(slot.state.successor(), Successor::none);
      EXPECT_FALSE(turns_.has_turn(slot.at));
    }
  }

 private:
  static constexpr std::size_t size = 5;

  struct SlotModel {
    explicit SlotModel(std::size_t number) : at(number) {}
    std::size_t at;
    SlotState state{policy};
    bool start_pending = false, has_successor = false;
    std::size_t leavers = 0, retired = 0;
  };

  std::size_t ready() const {
    return static_cast<std::size_t>(std::count_if(
        slots_.begin(), slots_.end(), [](const SlotModel& slot) { return slot.state.worker() == Worker::ready; }));
  }
  void start(SlotModel& slot) {
    if (!std::exchange(slot.start_pending, false) || !slot.state.awaits_start()) return;
    slot.leavers += slot.state.worker() == Worker::leaving;
    slot.state.launched();
    ASSERT_EQ(slot.state.worker(), Worker::starting);
  }
  void successor_ready(SlotModel& slot) {
    if (!slot.has_successor) return;
    const std::size_t ready_before = ready();
    slot.has_successor = false;
    const Actions actions = slot.state.successor_ready();
    ASSERT_TRUE(actions.promote);
    ASSERT_GE(ready(), ready_before) << "a planned replacement has cost a worker";
    slot.retired += actions.retire;
    apply(slot, actions);
  }
  void end_successor(SlotModel& slot) {
    slot.has_successor = false;
    apply(slot, slot.state.successor_exited(now_));
  }
  void end_predecessor(SlotModel& slot) {
    if (slot.leavers + slot.retired == 0) return;
    const bool retired = slot.leavers == 0 || (slot.retired != 0 && random_() % 2 == 0);
    --(retired ? slot.retired : slot.leavers);
    apply(slot, slot.state.predecessor_exited(now_, retired));
  }
  void apply(SlotModel& slot, const Actions& actions) {
    slot.start_pending = slot.start_pending || actions.start_in.has_value();
    if (actions.ask_for_turn) turns_.ask(slot.at);
    if (actions.withdraw) turns_.withdraw(slot.at);
    if (actions.end_turn) turns_.end(slot.at);
    while (const auto next = turns_.next()) {
      const Actions turn = slots_[*next].state.turn_came();
      if (turn.end_turn) turns_.end(*next);
      slots_[*next].has_successor = turn.start_successor;
    }
    if (actions.drop_successor && slot.has_successor) end_successor(slot);
  }

  std::mt19937 random_;
  Clock::time_point now_{1000s};
  std::vector<SlotModel> slots_;
  ReplacementTurns turns_;
};

TEST(Slots, KeepTheirPromisesInRandomSequences) {
  for (unsigned seed = 0; seed < 2000 && !::testing::Test::HasFatalFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Model model(seed);
    for (int i = 0; i < 200 && !::testing::Test::HasFatalFailure(); ++i) {
      model.step();
      model.check();
    }
    model.settle();
  }
}

}  // namespace
