// How the deaths of workers count.
#include <cstdint>
#include <gtest/gtest.h>
#include <signal.h>

#include <drover/pool/detail/worker/death_cause.hpp>

namespace {

using drover::ExitStatus;
using drover::WorkerDeaths;
using drover::detail::count_death;
using drover::detail::death_cause_of;
using drover::detail::DeathCause;
using drover::detail::ExitReason;

constexpr ExitStatus success{ExitStatus::Kind::exited, 0, false}, failure{ExitStatus::Kind::exited, 1, false},
    killed{ExitStatus::Kind::signaled, SIGKILL, false}, stolen{};

TEST(DeathCause, IsWhatDroverHasDoneIfItDidAnything) {
  for (const ExitStatus& exit : {success, failure, killed, stolen})
    for (const bool was_ready : {true, false}) {
      EXPECT_EQ(death_cause_of(ExitReason::stop, was_ready, exit), DeathCause::asked_for);
      EXPECT_EQ(death_cause_of(ExitReason::kill_after, was_ready, exit), DeathCause::killed_for_call);
      EXPECT_EQ(death_cause_of(ExitReason::stalled, was_ready, exit), DeathCause::stalled);
      EXPECT_EQ(death_cause_of(ExitReason::start_failed, was_ready, exit), DeathCause::failed_start);
      EXPECT_EQ(death_cause_of(ExitReason::protocol_error, was_ready, exit), DeathCause::protocol_error);
    }
}

TEST(DeathCause, IsTheExitStatusOtherwise) {
  EXPECT_EQ(death_cause_of(ExitReason::unexpected, true, killed), DeathCause::crashed);
  EXPECT_EQ(death_cause_of(ExitReason::unexpected, true, failure), DeathCause::exited);
  EXPECT_EQ(death_cause_of(ExitReason::unexpected, true, success), DeathCause::exited) << "nobody had asked for it";
  EXPECT_EQ(death_cause_of(ExitReason::unexpected, true, stolen), DeathCause::unknown);
}

TEST(DeathCause, IsAFailedStartBeforeTheWorkerIsReady) {
  for (const ExitStatus& exit : {success, failure, killed, stolen})
    EXPECT_EQ(death_cause_of(ExitReason::unexpected, false, exit), DeathCause::failed_start);
}

TEST(DeathCause, IsADrainOnlyIfThatSucceeds) {
  EXPECT_EQ(death_cause_of(ExitReason::drained, true, success), DeathCause::drained);
  EXPECT_EQ(death_cause_of(ExitReason::drained, true, failure), DeathCause::exited);
  EXPECT_EQ(death_cause_of(ExitReason::drained, true, killed), DeathCause::crashed);
}

TEST(DeathCause, CountsInItsPlace) {
  WorkerDeaths deaths;
  count_death(deaths, DeathCause::asked_for);
  EXPECT_EQ(deaths, WorkerDeaths{});
  const auto count = [&](DeathCause cause, int times) {
    for (int i = 0; i < times; ++i) count_death(deaths, cause);
  };
  count(DeathCause::crashed, 1);
  count(DeathCause::exited, 2);
  count(DeathCause::drained, 3);
  count(DeathCause::killed_for_call, 4);
  count(DeathCause::failed_start, 5);
  count(DeathCause::protocol_error, 6);
  count(DeathCause::unknown, 7);
  count(DeathCause::stalled, 8);
  EXPECT_EQ(deaths, (WorkerDeaths{.crashed = 1,
                                  .exited = 2,
                                  .drained = 3,
                                  .killed_for_call = 4,
                                  .stalled = 8,
                                  .failed_start = 5,
                                  .protocol_error = 6,
                                  .unknown = 7}));
}

}  // namespace
