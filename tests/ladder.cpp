#include <chrono>
#include <gtest/gtest.h>
#include <optional>
#include <vector>

#include <drover/os/detail/escalation.hpp>

// all of it on a clock that only the tests move.
namespace {

using namespace std::chrono_literals;
using drover::Clock;
using drover::Duration;
using drover::ReapPlan;
using drover::detail::Ladder;
using drover::detail::Rung;

const Clock::time_point start = Clock::time_point(1000h);

std::vector<Rung> all_due(Ladder& ladder, Clock::time_point now) {
  std::vector<Rung> due;
  while (const auto rung = ladder.take_due(now)) due.push_back(*rung);
  return due;
}

TEST(Ladder, HasNothingToDoBeforeAReapIsAskedFor) {
  Ladder ladder;
  EXPECT_EQ(ladder.next(), std::nullopt);
  EXPECT_TRUE(all_due(ladder, Clock::time_point::max()).empty());
}

TEST(Ladder, TerminatesAfterPatienceAndKillsAfterTheGrace) {
  Ladder ladder;
  ladder.join({.patience = 10s, .term_grace = 5s}, start);
  EXPECT_TRUE(all_due(ladder, start + 10s - 1ns).empty());
  EXPECT_EQ(all_due(ladder, start + 10s), std::vector{Rung::terminate});
  EXPECT_TRUE(ladder.taken(Rung::terminate));
  EXPECT_FALSE(ladder.taken(Rung::kill));
  EXPECT_EQ(ladder.next(), start + 15s);
  EXPECT_TRUE(all_due(ladder, start + 15s - 1ns).empty());
  EXPECT_EQ(all_due(ladder, start + 15s), std::vector{Rung::kill});
  EXPECT_TRUE(ladder.taken(Rung::kill));
}

TEST(Ladder, EachStepIsTakenOnce) {
  Ladder ladder;
  ladder.join({.patience = 0s, .term_grace = 0s}, start);
  EXPECT_EQ(all_due(ladder, start), (std::vector{Rung::terminate, Rung::kill}));
  ladder.join({.patience = 0s, .term_grace = 0s}, start + 1s);
  EXPECT_TRUE(all_due(ladder, Clock::time_point::max()).empty());
  EXPECT_EQ(ladder.next(), std::nullopt);
}

TEST(Ladder, TheGraceIsCountedFromWhenSigtermWasDueNotFromWhenItWasSent) {
  Ladder ladder;
  ladder.join({.patience = 1s, .term_grace = 5s}, start);
  EXPECT_EQ(all_due(ladder, start + 3s), std::vector{Rung::terminate});  // late
  EXPECT_EQ(ladder.next(), start + 6s);
}

TEST(Ladder, StepsThatWereSleptThroughComeInOrder) {
  Ladder ladder;
  ladder.join({.patience = 1s, .term_grace = 1s}, start);
  EXPECT_EQ(all_due(ladder, start + 1h), (std::vector{Rung::terminate, Rung::kill}));
}

TEST(Ladder, ASecondReapShortens) {
  Ladder ladder;
  ladder.join({.patience = 30s, .term_grace = 5s}, start);
  ladder.join({.patience = 0s, .term_grace = 2s}, start + 1s);
  EXPECT_EQ(all_due(ladder, start + 1s), std::vector{Rung::terminate});
  EXPECT_EQ(ladder.next(), start + 3s);
}

TEST(Ladder, ASecondReapNeverLengthens) {
  Ladder ladder;
  ladder.join({.patience = 1s, .term_grace = 2s}, start);
  ladder.join({.patience = 30s, .term_grace = 60s}, start);
  ladder.join({.patience = std::nullopt, .term_grace = 60s}, start);
  EXPECT_EQ(ladder.next(), start + 1s);
  EXPECT_EQ(all_due(ladder, start + 1s), std::vector{Rung::terminate});
  EXPECT_EQ(ladder.next(), start + 3s);
}

TEST(Ladder, TheGraceAloneCanBeShortenedAfterSigterm) {
  Ladder ladder;
  ladder.join({.patience = 0s, .term_grace = 60s}, start);
  EXPECT_EQ(all_due(ladder, start), std::vector{Rung::terminate});
  ladder.join({.patience = 0s, .term_grace = 1s}, start + 5s);
  EXPECT_EQ(ladder.next(), start + 6s);
  EXPECT_EQ(ladder.last(), start + 6s);
}

TEST(Ladder, NoBoundMeansNoSignalUntilABoundIsGiven) {
  Ladder ladder;
  ladder.join({.patience = std::nullopt, .term_grace = 0s}, start);
  EXPECT_TRUE(all_due(ladder, Clock::time_point::max()).empty());
  ladder.join({.patience = 1s, .term_grace = 1s}, start);
  EXPECT_EQ(ladder.next(), start + 1s);
}

TEST(Ladder, BoundsBeyondTheClockAreNoBounds) {
  Ladder ladder;
  ladder.join({.patience = drover::Duration::max(), .term_grace = drover::Duration::max()}, start);
  EXPECT_EQ(ladder.next(), std::nullopt);
  ladder.join({.patience = 0s, .term_grace = drover::Duration::max()}, start);
  EXPECT_EQ(all_due(ladder, start), std::vector{Rung::terminate});
  EXPECT_EQ(ladder.next(), std::nullopt);
}

// ---- what outlasts the leader ---------------------------------------------------------------------------------------

using End = Ladder::End;

TEST(Ladder, WhatOutlastsALeaderIsKilledAtOnce) {
  Ladder ladder;
  ladder.join({.patience = 10s, .term_grace = 5s}, start);
  EXPECT_EQ(ladder.leader_ended(End::by_itself, 0s, start + 1s), Rung::kill);
  EXPECT_EQ(ladder.next(), std::nullopt);
}

TEST(Ladder, GroupGraceIsCountedFromTheLeadersEnd) {
  Ladder ladder;
  ladder.join({.patience = 10s, .term_grace = 5s}, start);
  EXPECT_EQ(ladder.leader_ended(End::by_itself, 2s, start + 1s), Rung::terminate);
  EXPECT_EQ(ladder.next(), start + 3s);
  EXPECT_EQ(all_due(ladder, start + 3s), std::vector{Rung::kill});
}

TEST(Ladder, WhatOutlastsATerminatedLeaderHasTheRest) {
  Ladder ladder;
  ladder.join({.patience = 0s, .term_grace = 5s}, start);
  EXPECT_EQ(all_due(ladder, start), std::vector{Rung::terminate});
  for (const Duration grace : {Duration(0s), Duration(1s), Duration(60s)}) {
    Ladder copy = ladder;
    EXPECT_EQ(copy.leader_ended(End::by_itself, grace, start + 1s), std::nullopt);
    EXPECT_EQ(copy.next(), start + 5s);
  }
}

TEST(Ladder, ACutLeadersGroupHasTheRestOfTheBudget) {
  Ladder ladder;
  ladder.join({.patience = 10s, .term_grace = 5s}, start);
  EXPECT_EQ(ladder.leader_ended(End::cut, 3s, start + 1s), Rung::terminate);
  EXPECT_EQ(ladder.next(), start + 4s);
  Ladder late;
  late.join({.patience = 10s, .term_grace = 5s}, start);
  EXPECT_EQ(late.leader_ended(End::cut, 30s, start + 9s), Rung::terminate);
  EXPECT_EQ(late.next(), start + 15s) << "never later than before";
  Ladder unasked;
  EXPECT_EQ(unasked.leader_ended(End::cut, 3s, start), Rung::terminate);
  EXPECT_EQ(unasked.next(), start + 3s);
}

// Every state with every end: SIGKILL is due later than before in none, and comes after SIGTERM or at once.
TEST(Ladder, DecidesEveryEndInEveryState) {
  for (int taken = 0; taken <= 2; ++taken)
    for (const End end : {End::by_itself, End::cut})
      for (const Duration grace : {Duration(0s), Duration(3s), Duration::max()}) {
        SCOPED_TRACE(testing::Message() << taken << " taken, cut " << (end == End::cut) << ", grace " << grace.count());
        Ladder ladder;
        ladder.join({.patience = 10s, .term_grace = 5s}, start);
        const auto now = start + (taken == 0 ? 1s : taken == 1 ? 11s : 16s);
        EXPECT_EQ(all_due(ladder, now).size(), std::size_t(taken));
        const auto before = ladder.next();
        const auto sent = ladder.leader_ended(end, grace, now);
        if (taken == 2 || (taken == 0 && end == End::by_itself && grace == 0s)) {
          EXPECT_EQ(sent, Rung::kill);
          EXPECT_EQ(ladder.next(), std::nullopt);
        } else if (taken == 1) {
          EXPECT_EQ(sent, std::nullopt);
          EXPECT_EQ(ladder.next(), before);
        } else {
          EXPECT_EQ(sent, Rung::terminate);
          EXPECT_TRUE(ladder.taken(Rung::terminate));
          if (end == End::cut) {
            EXPECT_LE(*ladder.next(), start + 15s);
          }
        }
        ladder.join({.patience = 0s, .term_grace = 0s}, now);
        (void)all_due(ladder, now);
        EXPECT_TRUE(ladder.taken(Rung::kill)) << "it can always be hurried";
      }
}

}  // namespace
