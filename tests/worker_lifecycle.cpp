// The life of a worker in the parent, as data: the budget of a stop, and the effect of each event in each state.
#include <array>
#include <functional>
#include <gtest/gtest.h>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <drover/pool/detail/worker/lifecycle.hpp>

namespace {

using namespace std::chrono_literals;
using drover::Clock;
using drover::Duration;
using drover::Errc;
using drover::Timeout;
using drover::detail::Deadline;
using drover::detail::ExitReason;
using drover::detail::StopRequest;
using drover::detail::WorkerLifecycle;
using Actions = WorkerLifecycle::Actions;
using State = WorkerLifecycle::State;

constexpr Clock::time_point now{1000s};
constexpr Duration margin = 5s, exit_grace = 10s;

// ---- the stop request -----------------------------------------------------------------------------------------------

StopRequest asked(Timeout grace, Duration with_margin = margin) {
  StopRequest stop;
  stop.begin(now, StopRequest::Process::running);
  stop.allow(now, grace, with_margin);
  return stop;
}

TEST(StopRequest, HasOneAbsoluteBudget) {
  StopRequest stop;
  EXPECT_FALSE(stop.begun());
  EXPECT_TRUE(stop.begin(now, StopRequest::Process::running));
  EXPECT_TRUE(stop.allow(now, 20s, margin));
  EXPECT_TRUE(stop.begun());
  EXPECT_EQ(stop.begun_at(), now);
  EXPECT_EQ(stop.drain_until(), now + 20s);
  EXPECT_EQ(stop.end_by(), now + 25s);
}

TEST(StopRequest, LaterRequestsOnlyShorten) {
  StopRequest stop = asked(20s);
  EXPECT_FALSE(stop.begin(now + 1s, StopRequest::Process::running));
  EXPECT_FALSE(stop.allow(now + 1s, 60s, margin));
  EXPECT_FALSE(stop.allow(now + 1s, std::nullopt, margin));
  EXPECT_EQ(stop.end_by(), now + 25s);
  EXPECT_TRUE(stop.allow(now + 2s, 0s, margin));
  EXPECT_EQ(stop.drain_until(), now + 2s);
  EXPECT_EQ(stop.end_by(), now + 7s);
  EXPECT_EQ(stop.begun_at(), now);
}

TEST(StopRequest, UnboundedGetsABudgetLater) {
  StopRequest asked_again = asked(std::nullopt);
  EXPECT_EQ(asked_again.end_by(), Deadline{});
  EXPECT_TRUE(asked_again.allow(now + 1s, 30s, margin));
  EXPECT_EQ(asked_again.end_by(), now + 36s);

  StopRequest acknowledged = asked(std::nullopt);
  acknowledged.acknowledged(now + 500s, exit_grace);
  EXPECT_EQ(acknowledged.end_by(), now + 510s);
  EXPECT_EQ(acknowledged.result(true, false), std::error_code{});

  StopRequest lost = asked(std::nullopt);
  lost.lost(now + 500s, exit_grace);
  EXPECT_EQ(lost.end_by(), now + 510s);
  EXPECT_EQ(lost.result(true, false), make_error_code(Errc::connection_lost));
}

TEST(StopRequest, AcknowledgementKeepsTheBudget) {
  StopRequest stop = asked(20s);
  stop.acknowledged(now + 1s, exit_grace);
  EXPECT_EQ(stop.end_by(), now + 25s);
}

TEST(StopRequest, IgnoresAcknowledgementAfterDeadline) {
  StopRequest stop = asked(0s);
  stop.acknowledged(now + 5001ms, exit_grace);
  EXPECT_EQ(stop.result(true, true), make_error_code(Errc::deadline_exceeded));
}

TEST(StopRequest, CutOnlyShortens) {
  StopRequest stop = asked(std::nullopt);
  EXPECT_FALSE(stop.was_cut_short());
  EXPECT_TRUE(stop.cut(now + 3s));
  EXPECT_FALSE(stop.cut(now + 4s));
  EXPECT_TRUE(stop.cut(now + 2s));
  EXPECT_EQ(stop.end_by(), now + 2s);
  EXPECT_EQ(stop.drain_until(), now + 2s);
  EXPECT_TRUE(stop.was_cut_short());
  StopRequest early = asked(1s);
  EXPECT_FALSE(early.cut(now + 7s)) << "the stop is over by then";
  EXPECT_FALSE(early.was_cut_short());
}

TEST(StopRequest, WithoutMarginIsCutShortFromTheBeginning) {
  EXPECT_TRUE(asked(2s, 0s).was_cut_short());
  EXPECT_FALSE(asked(std::nullopt, 0s).was_cut_short());
  EXPECT_FALSE(asked(2s).was_cut_short());
}

TEST(StopRequest, AbortEndsPatience) {
  StopRequest stop = asked(60s);
  stop.abort(now + 1s);
  EXPECT_EQ(stop.drain_until(), now + 1s);
  EXPECT_EQ(stop.end_by(), now + 1s);
  EXPECT_EQ(stop.result(true, true), asio::error::operation_aborted);
  stop.acknowledged(now + 2s, exit_grace);
  stop.lost(now + 2s, exit_grace);
  EXPECT_EQ(stop.result(true, true), asio::error::operation_aborted) << "the result was known by then";
}

TEST(StopRequest, AbortAfterAcknowledgementKeepsTheResult) {
  StopRequest stop = asked(60s);
  stop.acknowledged(now + 1s, exit_grace);
  stop.abort(now + 2s);
  EXPECT_EQ(stop.result(true, true), std::error_code{});
  EXPECT_EQ(stop.end_by(), now + 2s);
}

TEST(StopRequest, ExtremeGracesDoNotOverflow) {
  StopRequest stop = asked(Duration::max(), Duration::max());
  EXPECT_TRUE(!stop.end_by() || *stop.end_by() > now + 1h);
  stop.acknowledged(now, Duration::max());
  EXPECT_TRUE(!stop.end_by() || *stop.end_by() > now + 1h);
}

TEST(StopRequest, ResultReflectsTheStateOfTheProcess) {
  EXPECT_EQ(StopRequest().result(false, false), std::error_code{});
  EXPECT_EQ(asked(0s).result(false, true), make_error_code(Errc::not_running)) << "there was nobody to ask";
  for (const auto process : {StopRequest::Process::exited, StopRequest::Process::processed}) {
    StopRequest late;
    late.begin(now, process);
    EXPECT_TRUE(late.came_late());
    EXPECT_EQ(late.came_after_exit(), process == StopRequest::Process::processed);
    late.acknowledged(now, exit_grace);
    late.lost(now, exit_grace);
    late.abort(now);
    EXPECT_EQ(late.result(true, false), make_error_code(Errc::worker_exited));
  }
}

// ---- the lifecycle --------------------------------------------------------------------------------------------------

constexpr WorkerLifecycle::Limits limits{.stop_margin = margin, .shutdown_grace = exit_grace};
constexpr std::string_view states = "CTRLSXAO";  // by the order of State

WorkerLifecycle in_state(State state) {
  WorkerLifecycle life(limits);
  if (state == State::created) return life;
  life.start();
  life.spawned(now - 10s);
  if (state == State::starting) return life;
  life.hello();
  if (state == State::ready) return life;
  if (state == State::leaving) return life.draining(), life;
  if (state == State::stopping) return life.stop(now - 1s, 60s, true), life;
  life.exited();
  if (state == State::exited) return life;
  life.calls_answered();
  if (state == State::answered) return life;
  life.group_over();
  return life;
}

/// One letter for each action.
std::string letters(const Actions& actions) {
  std::string text;
  if (actions.open_calls) text += 'o';
  if (actions.close_calls) text += 'c';
  if (actions.report_stopping) text += 'e';
  if (actions.begin_stop) text += 'b';
  if (actions.send_stop) text += 's';
  if (actions.reap_by) text += 'r';
  if (actions.complete_start) text += 'S';
  if (actions.complete_end) text += 'E';
  return text;
}

struct NamedEvent {
  std::string_view name;
  std::function<Actions(WorkerLifecycle&)> apply;
  std::array<std::string_view, 8> expected;  ///< for each state: the next one, and the actions
};

const std::vector<NamedEvent>& events() {
  using Life = WorkerLifecycle;
  static const std::vector<NamedEvent> all{
      // clang-format off
      {"start",           [](Life& l) { return l.start(), Actions{}; },            {"T", "T", "R", "L", "S", "X", "A", "O"}},
      {"spawn_failed",    [](Life& l) { return l.spawn_failed(); },                {"C", "T", "R", "L", "S", "X", "A", "O"}},
      {"spawned",         [](Life& l) { return l.spawned(now); },                  {"C", "T", "R", "L", "Sr", "X", "A", "O"}},
      {"hello",           [](Life& l) { return l.hello(); },                       {"C", "RoS", "R", "L", "S", "X", "A", "O"}},
      {"start_failed",    [](Life& l) { return l.start_failed(now); },             {"C", "Tr", "R", "L", "S", "X", "A", "O"}},
      {"start_refused",   [](Life& l) { return l.start_refused(now); },            {"C", "Tr", "R", "L", "S", "X", "A", "O"}},
      {"stop",            [](Life& l) { return l.stop(now, 0s, true); },           {"C", "Scebr", "Scebsr", "Scebsr", "Ssr", "X", "A", "O"}},
      {"late stop",       [](Life& l) { return l.stop(now, 0s, false); },          {"C", "Scbr", "Scbr", "Scbr", "Ssr", "X", "A", "O"}},
      {"shorten",         [](Life& l) { return l.shorten(now + 1s); },             {"C", "T", "R", "L", "Ssr", "X", "A", "O"}},
      {"abort",           [](Life& l) { return l.abort(now, true); },              {"C", "Scebr", "Scebsr", "Scebsr", "Ssr", "X", "A", "O"}},
      {"reap",            [](Life& l) { return l.reap(now, 1s, true); },           {"C", "Scebr", "Scebr", "Scebr", "Sr", "X", "A", "O"}},
      {"acknowledged",    [](Life& l) { return l.acknowledged(now); },             {"C", "T", "R", "L", "S", "X", "A", "O"}},
      {"control_closed",  [](Life& l) { return l.control_closed(now); },     {"C", "Tr", "Lcr", "Lcr", "S", "X", "A", "O"}},
      {"data_closed",     [](Life& l) { return l.data_closed(now); },              {"C", "T", "Lcr", "Lcr", "Sc", "X", "A", "O"}},
      {"control_broken",  [](Life& l) { return l.control_broken(now); },           {"C", "T", "Lc", "Lc", "Sc", "X", "A", "O"}},
      {"data_broken",     [](Life& l) { return l.data_broken(); },                 {"C", "T", "Lc", "Lc", "Sc", "X", "A", "O"}},
      {"failed",          [](Life& l) { return l.failed(now); },                   {"C", "T", "Lcr", "Lcr", "Scr", "X", "A", "O"}},
      {"draining",        [](Life& l) { return l.draining(); },                    {"C", "T", "Lc", "Lc", "Sc", "X", "A", "O"}},
      {"killed_for_call", [](Life& l) { return l.killed_for_call(); },             {"C", "T", "Lc", "Lc", "Sc", "X", "A", "O"}},
      {"killed_for_stall",[](Life& l) { return l.killed_for_stall(); },            {"C", "T", "Lc", "Lc", "Sc", "X", "A", "O"}},
      {"exited",          [](Life& l) { return l.exited(); },                      {"C", "Xc", "Xc", "Xc", "Xc", "X", "A", "O"}},
      {"calls_answered",  [](Life& l) { return l.calls_answered(); },              {"C", "T", "R", "L", "S", "A", "A", "O"}},
      {"group_over",      [](Life& l) { return l.group_over(); },                  {"C", "T", "R", "L", "S", "X", "OE", "O"}},
      {"detached",        [](Life& l) { return l.detached(now); },                 {"CcSE", "TcSE", "RcE", "LcE", "ScE", "XcE", "AcE", "Oc"}},
      // clang-format on
  };
  return all;
}

TEST(WorkerLifecycle, HandlesEachEventInEachState) {
  for (const NamedEvent& event : events())
    for (std::size_t at = 0; at < states.size(); ++at) {
      WorkerLifecycle life = in_state(static_cast<State>(at));
      ASSERT_EQ(life.state(), static_cast<State>(at));
      const Actions actions = event.apply(life);
      EXPECT_EQ(states[static_cast<std::size_t>(life.state())] + letters(actions), event.expected[at])
          << event.name << " in state " << states[at];
    }
}

TEST(WorkerLifecycle, FailedSpawnFailsTheStartAtOnce) {
  for (const bool stopped : {false, true}) {
    WorkerLifecycle life(limits);
    life.start();
    if (stopped) life.stop(now, 5s, true);
    EXPECT_EQ(letters(life.spawn_failed()), "SE");
    EXPECT_EQ(life.state(), State::over);
  }
}

// stop() is called while the process is being spawned on another thread.
TEST(WorkerLifecycle, StopBeforeTheSpawnEndsTheNewProcess) {
  WorkerLifecycle life(limits);
  life.start();
  EXPECT_EQ(life.stop(now, 60s, true).reap_by, std::nullopt);
  EXPECT_EQ(life.spawned(now + 1s).reap_by, Deadline(now + 1s));
  EXPECT_EQ(letters(life.hello()), "");
  EXPECT_EQ(life.stop_request().result(life.was_ready(), true), make_error_code(Errc::not_running));

  WorkerLifecycle detached(limits);
  detached.start();
  detached.detached(now);
  EXPECT_EQ(detached.spawned(now + 1s).reap_by, Deadline(now + 1s));
}

TEST(WorkerLifecycle, StopReapsByTheEndOfItsBudget) {
  WorkerLifecycle life = in_state(State::ready);
  EXPECT_EQ(life.stop(now, 20s, true).reap_by, Deadline(now + 25s));
  EXPECT_EQ(letters(life.stop(now + 1s, 60s, true)), "") << "it is longer";
  EXPECT_EQ(life.stop(now + 1s, 2s, true).reap_by, Deadline(now + 8s));
  EXPECT_EQ(life.acknowledged(now + 2s).reap_by, std::nullopt) << "it asks the child once";
  EXPECT_EQ(life.shorten(now + 3s).reap_by, Deadline(now + 3s));
  EXPECT_EQ(life.exit_reason(), ExitReason::stop);
}

TEST(WorkerLifecycle, UnboundedStopReapsWithoutADeadline) {
  WorkerLifecycle life = in_state(State::ready);
  EXPECT_EQ(life.stop(now, std::nullopt, true).reap_by, std::make_optional(Deadline()));
  EXPECT_EQ(life.acknowledged(now + 100s).reap_by, Deadline(now + 110s)) << "shutdown_grace to exit";
}

TEST(WorkerLifecycle, ClosedSocketLeavesTimeToExit) {
  EXPECT_EQ(in_state(State::ready).control_closed(now).reap_by, Deadline(now + 10s));
  EXPECT_EQ(in_state(State::ready).data_closed(now).reap_by, Deadline(now + 10s));
  EXPECT_EQ(in_state(State::starting).control_closed(now).reap_by, Deadline(now + 500ms));
  WorkerLifecycle life = in_state(State::ready);
  life.stop(now, std::nullopt, true);
  EXPECT_EQ(life.control_closed(now + 1s).reap_by, Deadline(now + 11s)) << "no STOP_REPLY can arrive";
}

TEST(WorkerLifecycle, RefusedStartLeavesTimeToExit) {
  WorkerLifecycle life = in_state(State::starting);
  EXPECT_EQ(life.start_refused(now).reap_by, Deadline(now + 500ms));
  EXPECT_EQ(life.exit_reason(), ExitReason::start_failed);
  EXPECT_EQ(letters(life.start_refused(now + 1s)), "") << "the first one counts";
  EXPECT_EQ(letters(life.hello()), "");
  EXPECT_EQ(letters(life.control_closed(now + 1s)), "");
}

TEST(WorkerLifecycle, ExitReasonDecidesWhatIsExpected) {
  const auto reason = [](State state, const std::function<void(WorkerLifecycle&)>& event) {
    WorkerLifecycle life = in_state(state);
    event(life);
    return life.exit_reason();
  };
  const auto nothing = [](WorkerLifecycle&) {};
  EXPECT_EQ(reason(State::ready, nothing), ExitReason::unexpected);
  EXPECT_EQ(reason(State::leaving, nothing), ExitReason::drained);
  EXPECT_EQ(reason(State::leaving, [](auto& l) { l.stop(now, 0s, true); }), ExitReason::stop);
  EXPECT_EQ(reason(State::leaving, [](auto& l) { l.stop(now, 0s, false); }), ExitReason::drained);
  EXPECT_EQ(reason(State::starting, [](auto& l) { l.start_failed(now), l.stop(now, 0s, true); }),
            ExitReason::start_failed);
  EXPECT_EQ(reason(State::ready, [](auto& l) { l.failed(now); }), ExitReason::protocol_error);
  EXPECT_EQ(reason(State::stopping, [](auto& l) { l.failed(now); }), ExitReason::stop);
  EXPECT_EQ(reason(State::ready, [](auto& l) { l.killed_for_call(), l.stop(now, 0s, true); }), ExitReason::kill_after);
  EXPECT_EQ(reason(State::ready, [](auto& l) { l.killed_for_call(), l.failed(now); }), ExitReason::kill_after);
  EXPECT_EQ(reason(State::ready, [](auto& l) { l.killed_for_stall(), l.stop(now, 0s, true); }), ExitReason::stalled);
  EXPECT_EQ(reason(State::leaving, [](auto& l) { l.killed_for_stall(), l.failed(now); }), ExitReason::stalled);
  EXPECT_EQ(reason(State::ready, [](auto& l) { l.killed_for_stall(), l.killed_for_call(); }), ExitReason::stalled);
  EXPECT_EQ(reason(State::ready, [](auto& l) { l.killed_for_call(), l.killed_for_stall(); }), ExitReason::kill_after);

  EXPECT_FALSE(in_state(State::exited).expected(true));
  EXPECT_TRUE(in_state(State::leaving).expected(true));
  EXPECT_FALSE(in_state(State::leaving).expected(false));
  EXPECT_TRUE(in_state(State::stopping).expected(false));
}

// Random events in random order.
TEST(WorkerLifecycle, RandomSequencesKeepItsPromises) {
  std::mt19937 random(7);
  const auto pick = [&](std::size_t count) { return static_cast<std::size_t>(random() % count); };
  for (int round = 0; round < 20'000; ++round) {
    WorkerLifecycle life(limits);
    Clock::time_point time = now;
    int starts = 0, ends = 0;
    std::optional<Deadline> reap_by;
    const auto apply = [&](const std::function<Actions(WorkerLifecycle&)>& event) {
      const bool had_exited = life.has_exited();
      const auto before = life.state();
      const Deadline drain = life.stop_request().drain_until(), end = life.stop_request().end_by();
      const Actions actions = event(life);
      starts += actions.complete_start;
      ends += actions.complete_end;
      ASSERT_GE(life.state(), before) << "its life goes forward only";
      if (had_exited) {
        ASSERT_FALSE(actions.reap_by || actions.send_stop || actions.open_calls) << "after the exit";
      }
      if (actions.reap_by && reap_by) {
        ASSERT_TRUE(*actions.reap_by && (!*reap_by || **actions.reap_by < **reap_by)) << "a reap only moves forward";
      }
      if (actions.reap_by) reap_by = actions.reap_by;
      if (drain) {
        ASSERT_TRUE(life.stop_request().drain_until() && *life.stop_request().drain_until() <= *drain);
      }
      if (end) {
        ASSERT_TRUE(life.stop_request().end_by() && *life.stop_request().end_by() <= *end);
      }
      ASSERT_LE(starts, 1);
      ASSERT_LE(ends, 1);
    };
    for (int i = 0; i < 25 && !HasFatalFailure(); ++i) {
      time += std::chrono::milliseconds(pick(3000));
      const Timeout grace = pick(4) == 0 ? Timeout() : Timeout(std::chrono::seconds(pick(30)));
      const bool running = pick(4) != 0;
      switch (pick(8)) {
        case 0: apply([&](auto& l) { return l.stop(time, grace, running); }); break;
        case 1: apply([&](auto& l) { return l.reap(time, grace, running); }); break;
        case 2: apply([&](auto& l) { return l.shorten(time + std::chrono::seconds(pick(20))); }); break;
        case 3: apply([&](auto& l) { return l.acknowledged(time); }); break;
        case 4: apply([&](auto& l) { return l.control_closed(time); }); break;
        default: apply(events()[pick(events().size())].apply);
      }
    }
    if (HasFatalFailure()) return;
    apply([&](auto& l) { return l.detached(time); });
    ASSERT_EQ(starts, 1) << "whoever waits for the start is told";
    ASSERT_EQ(ends, 1) << "whoever waits for the end is told";
  }
}

}  // namespace
