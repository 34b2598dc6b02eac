// The decision how the next worker of a pool with Launch::fork comes to be: every state times every event, and what
// happens over time.
#include <chrono>
#include <gtest/gtest.h>
#include <random>
#include <string>

#include <drover/pool/detail/fork_server_state.hpp>

namespace {

using namespace std::chrono_literals;
using drover::Clock;
using drover::RestartPolicy;
using drover::detail::ForkServerState;
using State = ForkServerState::State;
using Launch = ForkServerState::Launch;

constexpr Clock::time_point start{1h};

RestartPolicy policy() { return {.max_restarts = 2, .within = 10s, .backoff = 100ms, .max_backoff = 2s}; }

ForkServerState in(State state) {
  ForkServerState server(policy());
  if (state == State::none) return server;
  (void)server.worker_due(start);
  if (state == State::ready) server.server_ready(start);
  if (state == State::resting) (void)server.server_ended(start);
  if (state == State::unfit) (void)server.server_unfit();
  return server;
}

enum class Happens { worker_due, server_ready, server_ended, server_hung, server_unfit };

struct Row {
  State from;
  Happens event;
  State to;
  ForkServerState::Decision decision{};  // worker_due
  bool news = false;                     // server_ended, server_unfit
};

TEST(ForkServerState, DecidesByStateAndEvent) {
  const Row table[] = {
      {State::none, Happens::worker_due, State::starting, {Launch::wait, true}},
      {State::none, Happens::server_ready, State::none},
      {State::none, Happens::server_ended, State::none},
      {State::none, Happens::server_hung, State::none},
      {State::none, Happens::server_unfit, State::unfit, {}, true},
      {State::starting, Happens::worker_due, State::starting, {Launch::wait}},
      {State::starting, Happens::server_ready, State::ready},
      {State::starting, Happens::server_ended, State::resting, {}, true},
      {State::starting, Happens::server_hung, State::resting, {}, true},
      {State::starting, Happens::server_unfit, State::unfit, {}, true},
      {State::ready, Happens::worker_due, State::ready, {Launch::fork}},
      {State::ready, Happens::server_ready, State::ready},
      {State::ready, Happens::server_ended, State::none, {}, true},
      {State::ready, Happens::server_hung, State::resting, {}, true},
      {State::ready, Happens::server_unfit, State::unfit, {}, true},
      {State::resting, Happens::worker_due, State::resting, {Launch::execute}},
      {State::resting, Happens::server_ready, State::resting},
      {State::resting, Happens::server_ended, State::resting},
      {State::resting, Happens::server_hung, State::resting},
      {State::resting, Happens::server_unfit, State::unfit, {}, true},
      {State::unfit, Happens::worker_due, State::unfit, {Launch::execute}},
      {State::unfit, Happens::server_ready, State::unfit},
      {State::unfit, Happens::server_ended, State::unfit},
      {State::unfit, Happens::server_hung, State::unfit},
      {State::unfit, Happens::server_unfit, State::unfit},
  };
  for (const Row& row : table) {
    SCOPED_TRACE(std::to_string(static_cast<int>(row.from)) + " " + std::to_string(static_cast<int>(row.event)));
    ForkServerState server = in(row.from);
    ASSERT_EQ(server.state(), row.from);
    switch (row.event) {
      case Happens::worker_due: EXPECT_EQ(server.worker_due(start), row.decision); break;
      case Happens::server_ready: server.server_ready(start); break;
      case Happens::server_ended: EXPECT_EQ(server.server_ended(start), row.news); break;
      case Happens::server_hung: EXPECT_EQ(server.server_hung(start), row.news); break;
      case Happens::server_unfit: EXPECT_EQ(server.server_unfit(), row.news); break;
    }
    EXPECT_EQ(server.state(), row.to);
  }
}

TEST(ForkServerState, IsTriedAgainAfterARest) {
  ForkServerState server = in(State::resting);
  EXPECT_EQ(server.worker_due(start + 99ms), (ForkServerState::Decision{Launch::execute}));
  EXPECT_EQ(server.worker_due(start + 100ms), (ForkServerState::Decision{Launch::wait, true}));
  EXPECT_EQ(server.state(), State::starting);
  EXPECT_TRUE(server.server_ended(start + 100ms));  // longer this time
  EXPECT_EQ(server.worker_due(start + 299ms), (ForkServerState::Decision{Launch::execute}));
  EXPECT_EQ(server.worker_due(start + 300ms), (ForkServerState::Decision{Launch::wait, true}));
}

TEST(ForkServerState, RestsForLongerIfAServerHasHung) {
  ForkServerState server = in(State::ready);
  EXPECT_TRUE(server.server_hung(start));
  EXPECT_EQ(server.worker_due(start + 1999ms), (ForkServerState::Decision{Launch::execute}));
  EXPECT_EQ(server.worker_due(start + 2s), (ForkServerState::Decision{Launch::wait, true}));
}

TEST(ForkServerState, RestsIfServersThatWereReadyEndTooOften) {
  ForkServerState server(policy());
  for (int death = 0; death < 2; ++death) {
    (void)server.worker_due(start);
    server.server_ready(start);
    EXPECT_TRUE(server.server_ended(start));
    EXPECT_EQ(server.state(), State::none);
  }
  (void)server.worker_due(start);
  server.server_ready(start);
  EXPECT_TRUE(server.server_ended(start));
  EXPECT_EQ(server.state(), State::resting);
  EXPECT_EQ(server.worker_due(start + 1999ms), (ForkServerState::Decision{Launch::execute}));
  EXPECT_EQ(server.worker_due(start + 2s), (ForkServerState::Decision{Launch::wait, true}));
}

TEST(ForkServerState, ForgetsEarlierEndsOnceAServerHasLived) {
  ForkServerState server(policy());
  auto now = start;
  for (int death = 0; death < 20; ++death, now += 10s) {
    EXPECT_EQ(server.worker_due(now), (ForkServerState::Decision{Launch::wait, true}));
    server.server_ready(now);
    EXPECT_TRUE(server.server_ended(now + 10s));
    EXPECT_EQ(server.state(), State::none);
  }
}

TEST(ForkServerState, StartsAtMostOneServerAtATime) {
  for (unsigned seed = 0; seed < 500; ++seed) {
    std::mt19937 random(seed);
    ForkServerState server(policy());
    auto now = start;
    int running = 0;
    bool unfit = false;
    for (int step = 0; step < 200; ++step) {
      now += std::chrono::milliseconds(random() % 300);
      switch (random() % 8) {
        case 0:
        case 1:
          if (running != 0) server.server_ready(now);
          break;
        case 2:
          if (random() % 2 == 0 ? server.server_ended(now) : server.server_hung(now)) --running;
          break;
        case 3:
          if (random() % 20 == 0 && running != 0 && server.server_unfit()) --running, unfit = true;
          break;
        default: {
          const auto decision = server.worker_due(now);
          if (decision.start_server) ++running;
          EXPECT_TRUE(!decision.start_server || decision.launch == Launch::wait);
          EXPECT_TRUE(decision.launch == Launch::execute || running == 1);  // nobody waits for none
          EXPECT_TRUE(!unfit || decision.launch == Launch::execute);
        }
      }
      ASSERT_GE(running, 0);
      ASSERT_LE(running, 1);
    }
  }
}

}  // namespace
