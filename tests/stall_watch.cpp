// When the main loop of a worker counts as stalled, and which reports of that the parent believes, as data.
#include <array>
#include <functional>
#include <gtest/gtest.h>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <drover/pool/detail/worker/stall_reports.hpp>
#include <drover/worker/detail/stall_watch.hpp>

namespace {

using namespace std::chrono_literals;
using drover::Clock;
using drover::Duration;
using drover::detail::Deadline;
using drover::detail::StallReports;
using drover::detail::StallWatch;
using Action = StallWatch::Action;
using Sight = StallWatch::Sight;
using State = StallWatch::State;

constexpr Clock::time_point now{1000s};
constexpr Duration stall = 400ms;
constexpr std::string_view states = "OIBPS";  // by the order of State
constexpr Sight nothing{}, arrived{.arrived = true}, busy{.busy = true}, busy_and_turned{.busy = true, .turned = true},
    turned{.turned = true};

// ---- the watch ------------------------------------------------------------------------------------------------------

/// Whose next look is due at `now`.
StallWatch in_state(State state) {
  StallWatch watch(stall);
  if (state == State::off) watch.end();
  if (state == State::off || state == State::idle) return watch;
  const int looks = state == State::busy ? 0 : state == State::probing ? 1 : 5;
  const Clock::time_point arrival = now - 100ms * (looks + 1);
  watch.calls_arrived(arrival);
  for (int i = 1; i <= looks; ++i) watch.look(arrival + i * 100ms, busy);
  return watch;
}

struct NamedEvent {
  std::string_view name;
  std::function<Action(StallWatch&)> apply;
  std::array<std::string_view, 5> expected;  ///< for each state: the next one, and 'p' for a probe, 'r' for a report
};

TEST(StallWatch, HandlesEachEventInEachState) {
  using Watch = StallWatch;
  const std::vector<NamedEvent> events{
      // clang-format off
      {"calls_arrived",    [](Watch& w) { return w.calls_arrived(now), Action::none; }, {"O", "B", "B", "P", "S"}},
      {"nothing",          [](Watch& w) { return w.look(now, nothing); },               {"O", "I", "I", "I", "I"}},
      {"arrived",          [](Watch& w) { return w.look(now, arrived); },               {"O", "I", "B", "B", "B"}},
      {"turned",           [](Watch& w) { return w.look(now, turned); },                {"O", "I", "I", "I", "I"}},
      {"busy",             [](Watch& w) { return w.look(now, busy); },                  {"O", "I", "Pp", "P", "S"}},
      {"busy and turned",  [](Watch& w) { return w.look(now, busy_and_turned); },       {"O", "I", "Pp", "Pp", "Pp"}},
      {"too early",        [](Watch& w) { return w.look(now - 1ms, busy_and_turned); }, {"O", "I", "B", "P", "S"}},
      {"end",              [](Watch& w) { return w.end(), Action::none; },              {"O", "O", "O", "O", "O"}},
      // clang-format on
  };
  for (const NamedEvent& event : events)
    for (std::size_t at = 0; at < states.size(); ++at) {
      StallWatch watch = in_state(static_cast<State>(at));
      ASSERT_EQ(watch.state(), static_cast<State>(at));
      ASSERT_EQ(watch.is_due(now), at >= 2);
      const Action action = event.apply(watch);
      std::string result(1, states[static_cast<std::size_t>(watch.state())]);
      if (action == Action::probe) result += 'p';
      if (action == Action::report) result += 'r';
      EXPECT_EQ(result, event.expected[at]) << event.name << " in state " << states[at];
    }
}

TEST(StallWatch, IsOffUnlessSomebodyWantsToKnow) {
  StallWatch watch{std::nullopt};
  EXPECT_EQ(watch.state(), State::off);
  EXPECT_FALSE(watch.waits_for_calls());
  watch.calls_arrived(now);
  EXPECT_EQ(watch.look_at(), Deadline{});
}

TEST(StallWatch, ReportsWithinOneAndAQuarter) {
  StallWatch watch(stall);
  EXPECT_TRUE(watch.waits_for_calls());
  EXPECT_EQ(watch.look_at(), Deadline{});
  watch.calls_arrived(now);
  EXPECT_FALSE(watch.waits_for_calls());
  EXPECT_EQ(watch.look_at(), now + 100ms);
  EXPECT_EQ(watch.look(now + 100ms, busy), Action::probe);
  for (int i = 2; i <= 4; ++i) EXPECT_EQ(watch.look(now + i * 100ms, busy), Action::none);
  EXPECT_EQ(watch.look_at(), now + 500ms);
  EXPECT_EQ(watch.look(now + 500ms, busy), Action::report);
  EXPECT_EQ(watch.unanswered(), stall);
  EXPECT_EQ(watch.look_at(), now + 600ms) << "for the end of the stall";
}

TEST(StallWatch, ReportsOneStallOnceAndTheNextOneAgain) {
  StallWatch watch = in_state(State::stalled);
  Clock::time_point at = now;
  for (int i = 0; i < 20; ++i, at += 100ms) EXPECT_EQ(watch.look(at, busy), Action::none);
  EXPECT_EQ(watch.look(at, busy_and_turned), Action::probe);
  for (int i = 1; i < 4; ++i) EXPECT_EQ(watch.look(at + i * 100ms, busy), Action::none);
  EXPECT_EQ(watch.look(at + 400ms, busy), Action::report);
  EXPECT_EQ(watch.unanswered(), stall);
}

TEST(StallWatch, NeverReportsALoopThatTurns) {
  StallWatch watch(stall);
  watch.calls_arrived(now);
  for (int i = 1; i < 100; ++i) EXPECT_EQ(watch.look(now + i * 100ms, busy_and_turned), Action::probe);
}

// A look that is late says nothing about the loop: both threads may not have run, as under SIGSTOP.
TEST(StallWatch, DoesNotCountTheTimeOfASuspension) {
  StallWatch watch(stall);
  watch.calls_arrived(now);
  EXPECT_EQ(watch.look(now + 100ms, busy), Action::probe);
  EXPECT_EQ(watch.look(now + 1h, busy), Action::none);
  EXPECT_EQ(watch.unanswered(), 100ms);
  EXPECT_EQ(watch.look(now + 1h + 100ms, busy), Action::none);
  EXPECT_EQ(watch.look(now + 1h + 200ms, busy), Action::none);
  EXPECT_EQ(watch.look(now + 1h + 300ms, busy), Action::report);
}

// Times that four does not divide, and the longest ones.
TEST(StallWatch, TakesAnyTime) {
  for (const Duration odd : {Duration(1ms), Duration(1'000'003ns), Duration(24h * 365 * 70)}) {
    StallWatch watch(odd);
    watch.calls_arrived(now);
    Clock::time_point at = *watch.look_at();
    EXPECT_EQ(watch.look(at, busy), Action::probe);
    int looks = 0;
    for (Action action{}; action != Action::report; ++looks) {
      ASSERT_LT(looks, 6);
      at = *watch.look_at();
      action = watch.look(at, busy);
    }
    EXPECT_EQ(watch.unanswered(), odd);
    EXPECT_LE(at - now, odd + odd / 4);
  }
}

// Random calls of random length: a stall of more than 1.25 times the bound is reported, one below it never is.
TEST(StallWatch, RandomSequencesKeepItsPromises) {
  std::mt19937 random(11);
  for (int round = 0; round < 2000; ++round) {
    StallWatch watch(stall);
    Clock::time_point time = now, last_turn = now;
    std::uint64_t probed = 0, answered = 0;
    bool in_call = false;
    for (int i = 0; i < 200; ++i) {
      if (in_call && random() % 8 == 0) last_turn = time, answered = probed, in_call = random() % 2 == 0;
      if (!in_call && random() % 4 == 0) last_turn = time, answered = probed, in_call = true;
      if (!in_call) last_turn = time, answered = probed;
      if (in_call && watch.waits_for_calls()) watch.calls_arrived(time);
      if (watch.is_due(time)) {
        const State before = watch.state();
        const Action action = watch.look(time, {.busy = in_call, .turned = probed == answered});
        if (action == Action::probe) ++probed;
        if (action == Action::report) {
          ASSERT_NE(before, State::stalled);
          ASSERT_GE(time - last_turn, stall);
        }
        ASSERT_TRUE(!in_call || time - last_turn < stall + stall / 4 || watch.state() == State::stalled);
      }
      time += 25ms;
    }
  }
}

// ---- what the parent believes ---------------------------------------------------------------------------------------

TEST(StallReports, AreRefusedIfNobodyAskedForThem) {
  StallReports reports{std::nullopt};
  reports.worker_ready(now);
  EXPECT_FALSE(reports.admit(now + 1h, 1s));
}

TEST(StallReports, HaveAnAgeThatIsPossible) {
  StallReports reports(stall);
  reports.worker_ready(now);
  for (const Duration age :
       {Duration::min(), Duration(-1ns), Duration(0ns), stall - 1ns, Duration(1s + 1ns), Duration::max()})
    EXPECT_FALSE(reports.admit(now + 1s, age)) << age.count();
  EXPECT_TRUE(reports.admit(now + 1s, 1s));
}

TEST(StallReports, AreAtMostOneInEachStall) {
  StallReports reports(stall);
  reports.worker_ready(now);
  EXPECT_FALSE(reports.admit(now + stall - 1ns, stall));
  EXPECT_TRUE(reports.admit(now + stall, stall));
  EXPECT_FALSE(reports.admit(now + stall, stall));
  EXPECT_FALSE(reports.admit(now + 2 * stall - 1ns, stall));
  EXPECT_TRUE(reports.admit(now + 2 * stall, stall));
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(reports.admit(now + 10 * stall, stall)) << "the parent was busy";
  EXPECT_FALSE(reports.admit(now + 10 * stall, stall));
}

}  // namespace
