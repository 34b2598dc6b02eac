#include <chrono>
#include <gtest/gtest.h>
#include <optional>
#include <vector>

#include <drover/os/detail/escalation.hpp>

// All tests use a clock that only they move.
namespace {

using namespace std::chrono_literals;
using drover::Clock;
using drover::Duration;
using drover::ReapPlan;
using drover::detail::Escalation;
using drover::detail::EscalationStep;

const Clock::time_point start = Clock::time_point(1000h);

std::vector<EscalationStep> all_due(Escalation& escalation, Clock::time_point now) {
  std::vector<EscalationStep> due;
  while (const auto step = escalation.take_due(now)) due.push_back(*step);
  return due;
}

TEST(Escalation, HasNoStepsBeforeAReap) {
  Escalation escalation;
  EXPECT_EQ(escalation.next(), std::nullopt);
  EXPECT_TRUE(all_due(escalation, Clock::time_point::max()).empty());
}

TEST(Escalation, TerminatesAfterPatienceAndKillsAfterTheGrace) {
  Escalation escalation;
  escalation.join({.patience = 10s, .term_grace = 5s}, start);
  EXPECT_TRUE(all_due(escalation, start + 10s - 1ns).empty());
  EXPECT_EQ(all_due(escalation, start + 10s), std::vector{EscalationStep::terminate});
  EXPECT_TRUE(escalation.taken(EscalationStep::terminate));
  EXPECT_FALSE(escalation.taken(EscalationStep::kill));
  EXPECT_EQ(escalation.next(), start + 15s);
  EXPECT_TRUE(all_due(escalation, start + 15s - 1ns).empty());
  EXPECT_EQ(all_due(escalation, start + 15s), std::vector{EscalationStep::kill});
  EXPECT_TRUE(escalation.taken(EscalationStep::kill));
}

TEST(Escalation, EachStepIsTakenOnce) {
  Escalation escalation;
  escalation.join({.patience = 0s, .term_grace = 0s}, start);
  EXPECT_EQ(all_due(escalation, start), (std::vector{EscalationStep::terminate, EscalationStep::kill}));
  escalation.join({.patience = 0s, .term_grace = 0s}, start + 1s);
  EXPECT_TRUE(all_due(escalation, Clock::time_point::max()).empty());
  EXPECT_EQ(escalation.next(), std::nullopt);
}

TEST(Escalation, GraceBeginsWhenSigtermIsDue) {
  Escalation escalation;
  escalation.join({.patience = 1s, .term_grace = 5s}, start);
  EXPECT_EQ(all_due(escalation, start + 3s), std::vector{EscalationStep::terminate});  // late
  EXPECT_EQ(escalation.next(), start + 6s);
}

TEST(Escalation, OverdueStepsComeInOrder) {
  Escalation escalation;
  escalation.join({.patience = 1s, .term_grace = 1s}, start);
  EXPECT_EQ(all_due(escalation, start + 1h), (std::vector{EscalationStep::terminate, EscalationStep::kill}));
}

TEST(Escalation, SecondReapShortens) {
  Escalation escalation;
  escalation.join({.patience = 30s, .term_grace = 5s}, start);
  escalation.join({.patience = 0s, .term_grace = 2s}, start + 1s);
  EXPECT_EQ(all_due(escalation, start + 1s), std::vector{EscalationStep::terminate});
  EXPECT_EQ(escalation.next(), start + 3s);
}

TEST(Escalation, SecondReapNeverLengthens) {
  Escalation escalation;
  escalation.join({.patience = 1s, .term_grace = 2s}, start);
  escalation.join({.patience = 30s, .term_grace = 60s}, start);
  escalation.join({.patience = std::nullopt, .term_grace = 60s}, start);
  EXPECT_EQ(escalation.next(), start + 1s);
  EXPECT_EQ(all_due(escalation, start + 1s), std::vector{EscalationStep::terminate});
  EXPECT_EQ(escalation.next(), start + 3s);
}

TEST(Escalation, GraceCanBeShortenedAfterSigterm) {
  Escalation escalation;
  escalation.join({.patience = 0s, .term_grace = 60s}, start);
  EXPECT_EQ(all_due(escalation, start), std::vector{EscalationStep::terminate});
  escalation.join({.patience = 0s, .term_grace = 1s}, start + 5s);
  EXPECT_EQ(escalation.next(), start + 6s);
  EXPECT_EQ(escalation.last(), start + 6s);
}

TEST(Escalation, UnboundedPatienceSendsNoSignal) {
  Escalation escalation;
  escalation.join({.patience = std::nullopt, .term_grace = 0s}, start);
  EXPECT_TRUE(all_due(escalation, Clock::time_point::max()).empty());
  escalation.join({.patience = 1s, .term_grace = 1s}, start);
  EXPECT_EQ(escalation.next(), start + 1s);
}

TEST(Escalation, BoundsBeyondTheClockMeanNever) {
  Escalation escalation;
  escalation.join({.patience = drover::Duration::max(), .term_grace = drover::Duration::max()}, start);
  EXPECT_EQ(escalation.next(), std::nullopt);
  escalation.join({.patience = 0s, .term_grace = drover::Duration::max()}, start);
  EXPECT_EQ(all_due(escalation, start), std::vector{EscalationStep::terminate});
  EXPECT_EQ(escalation.next(), std::nullopt);
}

// ---- the group of an exited leader ----------------------------------------------------------------------------------

using End = Escalation::End;

TEST(Escalation, GroupOfAnExitedLeaderIsKilledAtOnce) {
  Escalation escalation;
  escalation.join({.patience = 10s, .term_grace = 5s}, start);
  EXPECT_EQ(escalation.leader_ended(End::by_itself, 0s, start + 1s), EscalationStep::kill);
  EXPECT_EQ(escalation.next(), std::nullopt);
}

TEST(Escalation, GroupGraceBeginsWithTheLeadersExit) {
  Escalation escalation;
  escalation.join({.patience = 10s, .term_grace = 5s}, start);
  EXPECT_EQ(escalation.leader_ended(End::by_itself, 2s, start + 1s), EscalationStep::terminate);
  EXPECT_EQ(escalation.next(), start + 3s);
  EXPECT_EQ(all_due(escalation, start + 3s), std::vector{EscalationStep::kill});
}

TEST(Escalation, GroupOfATerminatedLeaderKeepsTheGrace) {
  Escalation escalation;
  escalation.join({.patience = 0s, .term_grace = 5s}, start);
  EXPECT_EQ(all_due(escalation, start), std::vector{EscalationStep::terminate});
  for (const Duration grace : {Duration(0s), Duration(1s), Duration(60s)}) {
    Escalation copy = escalation;
    EXPECT_EQ(copy.leader_ended(End::by_itself, grace, start + 1s), std::nullopt);
    EXPECT_EQ(copy.next(), start + 5s);
  }
}

TEST(Escalation, GroupOfACutOffLeaderKeepsTheBudget) {
  Escalation escalation;
  escalation.join({.patience = 10s, .term_grace = 5s}, start);
  EXPECT_EQ(escalation.leader_ended(End::cut, 3s, start + 1s), EscalationStep::terminate);
  EXPECT_EQ(escalation.next(), start + 4s);
  Escalation late;
  late.join({.patience = 10s, .term_grace = 5s}, start);
  EXPECT_EQ(late.leader_ended(End::cut, 30s, start + 9s), EscalationStep::terminate);
  EXPECT_EQ(late.next(), start + 15s) << "never later than before";
  Escalation unasked;
  EXPECT_EQ(unasked.leader_ended(End::cut, 3s, start), EscalationStep::terminate);
  EXPECT_EQ(unasked.next(), start + 3s);
}

// Every state with every exit: SIGKILL is never due later than before, and comes after SIGTERM or at once.
TEST(Escalation, DecidesEveryExitInEveryState) {
  for (int taken = 0; taken <= 2; ++taken)
    for (const End end : {End::by_itself, End::cut})
      for (const Duration grace : {Duration(0s), Duration(3s), Duration::max()}) {
        SCOPED_TRACE(testing::Message() << taken << " taken, cut " << (end == End::cut) << ", grace " << grace.count());
        Escalation escalation;
        escalation.join({.patience = 10s, .term_grace = 5s}, start);
        const auto now = start + (taken == 0 ? 1s : taken == 1 ? 11s : 16s);
        EXPECT_EQ(all_due(escalation, now).size(), std::size_t(taken));
        const auto before = escalation.next();
        const auto sent = escalation.leader_ended(end, grace, now);
        if (taken == 2 || (taken == 0 && end == End::by_itself && grace == 0s)) {
          EXPECT_EQ(sent, EscalationStep::kill);
          EXPECT_EQ(escalation.next(), std::nullopt);
        } else if (taken == 1) {
          EXPECT_EQ(sent, std::nullopt);
          EXPECT_EQ(escalation.next(), before);
        } else {
          EXPECT_EQ(sent, EscalationStep::terminate);
          EXPECT_TRUE(escalation.taken(EscalationStep::terminate));
          if (end == End::cut) {
            EXPECT_LE(*escalation.next(), start + 15s);
          }
        }
        escalation.join({.patience = 0s, .term_grace = 0s}, now);
        (void)all_due(escalation, now);
        EXPECT_TRUE(escalation.taken(EscalationStep::kill)) << "it can always be hurried";
      }
}

}  // namespace
