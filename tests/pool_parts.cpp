// The decisions in the parent, as data: which worker, which replacement; and the checks of the options.
#include <array>
#include <concepts>
#include <cstddef>
#include <functional>
#include <gtest/gtest.h>
#include <limits>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <drover/pool/balancer.hpp>
#include <drover/pool/detail/call/link_chooser.hpp>
#include <drover/pool/options.hpp>
#include <drover/pool/supervisor.hpp>

namespace {

using namespace std::chrono_literals;
using drover::Clock;
using drover::Duration;
using drover::least_loaded;
using drover::Load;
using drover::RestartPolicy;
using drover::Supervisor;

constexpr Clock::time_point zero{};

// ---- the balancer ---------------------------------------------------------------------------------------------------

TEST(Balancer, ChoosesNothingFromAnEmptyList) {
  EXPECT_EQ(least_loaded({}), std::nullopt);
  EXPECT_EQ(least_loaded({}, 5), std::nullopt);
}

TEST(Balancer, SkipsWorkersThatAreFullOrNotReady) {
  const std::array loads{Load{.ready = false, .in_flight = 0, .capacity = 4},
                         Load{.ready = true, .in_flight = 1, .capacity = 1},
                         Load{.ready = true, .in_flight = 3, .capacity = 4}};
  for (std::size_t start = 0; start < 5; ++start) EXPECT_EQ(least_loaded(loads, start), 2U);
  EXPECT_EQ(least_loaded(std::span(loads).first(2)), std::nullopt);
}

TEST(Balancer, EquallyLoadedWorkersTakeTurns) {
  const std::vector<Load> loads(3, Load{.ready = true, .in_flight = 2, .capacity = 4});
  EXPECT_EQ(least_loaded(loads, 0), 0U);
  EXPECT_EQ(least_loaded(loads, 1), 1U);
  EXPECT_EQ(least_loaded(loads, 2), 2U);
  EXPECT_EQ(least_loaded(loads, 3), 0U);
}

TEST(Balancer, AlwaysChoosesOneOfTheLeastLoaded) {
  std::mt19937 random(3);
  for (int round = 0; round < 20000; ++round) {
    std::vector<Load> loads(random() % 7);
    for (Load& load : loads)
      load = {.ready = random() % 3 != 0, .in_flight = random() % 4, .capacity = 1 + random() % 4};
    const auto chosen = least_loaded(loads, random() % 16);
    std::size_t least = std::numeric_limits<std::size_t>::max();
    for (const Load& load : loads)
      if (load.ready && load.in_flight < load.capacity) least = std::min(least, load.in_flight);
    if (least == std::numeric_limits<std::size_t>::max()) {
      ASSERT_FALSE(chosen);
      continue;
    }
    ASSERT_TRUE(chosen);
    ASSERT_TRUE(loads[*chosen].ready);
    ASSERT_LT(loads[*chosen].in_flight, loads[*chosen].capacity);
    ASSERT_EQ(loads[*chosen].in_flight, least);
  }
}

// ---- the choice of a link, in constant time -------------------------------------------------------------------------

struct FakeLink {
  std::size_t in_flight = 0, capacity = 4;
  bool ready = true, quick = false;
  drover::detail::ChooserHook<FakeLink> chooser_hook{};

  Load load() const { return {.ready = ready, .in_flight = in_flight, .capacity = capacity}; }
  bool has_room_ahead() const { return ready && quick && in_flight == capacity; }
};
using Chooser = drover::detail::LinkChooser<FakeLink>;

void use(Chooser& chooser, FakeLink& link) {
  chooser.reserve(link);
  ++link.in_flight;
  chooser.changed(link);
}
void release(Chooser& chooser, FakeLink& link) {
  --link.in_flight;
  chooser.changed(link);
}

TEST(LinkChooser, PrefersTheLinkUsedLastWhileCoresAreIdle) {
  Chooser chooser(2);
  std::array<FakeLink, 8> links;
  for (FakeLink& link : links) chooser.add(link);
  for (FakeLink& link : links) {  // each has a first call
    ASSERT_EQ(chooser.choose(), &link);
    use(chooser, link);
    release(chooser, link);
  }
  FakeLink* const first = chooser.choose();
  EXPECT_EQ(first, &links.back());
  for (int i = 0; i < 10; ++i) {
    FakeLink* const chosen = chooser.choose();
    ASSERT_EQ(chosen, first);
    use(chooser, *chosen);
    FakeLink* const second = chooser.choose();  // one core is left
    ASSERT_NE(second, first);
    use(chooser, *second);
    release(chooser, *second);
    release(chooser, *chosen);
  }
}

TEST(LinkChooser, LetsLinksTakeTurnsWhenAllCoresAreBusy) {
  Chooser chooser(1);
  std::array<FakeLink, 5> links;
  for (FakeLink& link : links) chooser.add(link);
  use(chooser, *chooser.choose());
  std::vector<FakeLink*> chosen;
  for (int i = 0; i < 8; ++i) {
    chosen.push_back(chooser.choose());
    use(chooser, *chosen.back());
    release(chooser, *chosen.back());
  }
  for (int i = 0; i < 4; ++i)
    for (int j = i + 1; j < i + 4; ++j)
      EXPECT_NE(chosen[static_cast<std::size_t>(i)], chosen[static_cast<std::size_t>(j)]);
}

TEST(LinkChooser, ForgetsRemovedLinksAndTheirCalls) {
  Chooser chooser(1);
  std::array<FakeLink, 2> links;
  for (FakeLink& link : links) chooser.add(link);
  use(chooser, links[0]);
  use(chooser, links[1]);
  EXPECT_EQ(chooser.in_flight(), 2u);
  chooser.remove(links[0]);
  release(chooser, links[0]);
  chooser.remove(links[0]);
  EXPECT_EQ(chooser.in_flight(), 1u);
  EXPECT_EQ(chooser.size(), 1u);
  EXPECT_EQ(chooser.choose(), &links[1]);
  chooser.remove(links[1]);
  EXPECT_EQ(chooser.choose(), nullptr);
}

TEST(LinkChooser, OffersTheBusyLinkThatWasUsedLastForACallAhead) {
  Chooser chooser(1);
  std::array<FakeLink, 4> links;
  for (FakeLink& link : links) {
    link.capacity = 1;
    chooser.add(link);
  }
  EXPECT_EQ(chooser.choose_ahead(), nullptr) << "an idle link takes the call itself";
  for (const std::size_t i : std::array<std::size_t, 4>{2, 0, 3, 1}) {
    links[i].quick = i != 0;
    use(chooser, links[i]);
  }
  EXPECT_EQ(chooser.choose(), nullptr);
  EXPECT_EQ(chooser.choose_ahead(), &links[1]);
  links[1].quick = false;  // it has its call ahead
  chooser.changed(links[1]);
  EXPECT_EQ(chooser.choose_ahead(), &links[3]);
  links[3].ready = false;
  EXPECT_EQ(chooser.choose_ahead(), &links[2]);
  chooser.remove(links[2]);
  EXPECT_EQ(chooser.choose_ahead(), nullptr) << "the rest is not quick";
  EXPECT_EQ(chooser.in_flight(), 3u);
  release(chooser, links[1]);
  EXPECT_EQ(chooser.choose(), &links[1]) << "a link with room for calls is chosen for them again";
}

// Random lives of links: the choice is always one of those that least_loaded() could choose.
TEST(LinkChooser, AgreesWithLeastLoaded) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    Chooser chooser(random() % 6);
    std::vector<FakeLink> links(1 + random() % 7);
    for (FakeLink& link : links) link.capacity = 1 + random() % 4, link.quick = random() % 2 == 0;
    for (int step = 0; step < 200; ++step) {
      FakeLink& link = links[random() % links.size()];
      switch (random() % 8) {
        case 0: link.ready = false; break;
        case 1:
          chooser.remove(link);
          link.ready = true;
          link.in_flight = 0;
          chooser.add(link);
          break;
        case 2:
        case 3:
          if (link.in_flight != 0) release(chooser, link);
          break;
        default: break;
      }
      std::vector<Load> loads;
      std::size_t in_flight = 0;
      for (const FakeLink& each : links) {
        loads.push_back(each.load());
        loads.back().ready &= each.chooser_hook.known;
        if (each.chooser_hook.known) in_flight += each.in_flight;
      }
      ASSERT_EQ(chooser.in_flight(), in_flight);
      FakeLink* const chosen = chooser.choose();
      const auto least = least_loaded(loads);
      ASSERT_EQ(chosen != nullptr, least.has_value());
      if (!chosen) {
        FakeLink* const busy = chooser.choose_ahead();
        ASSERT_TRUE(busy == nullptr || busy->has_room_ahead());
        continue;
      }
      ASSERT_TRUE(chosen->ready);
      ASSERT_EQ(chosen->in_flight, links[*least].in_flight);
      ASSERT_LT(chosen->in_flight, chosen->capacity);
      use(chooser, *chosen);
    }
  }
}

// ---- the supervisor -------------------------------------------------------------------------------------------------

RestartPolicy policy(std::size_t max, Duration within, Duration backoff, Duration max_backoff) {
  return {.max_restarts = max, .within = within, .backoff = backoff, .max_backoff = max_backoff};
}

using Death = Supervisor::Death;
using Decision = Supervisor::Decision;

TEST(Supervisor, GivesUpAfterTooManyCrashes) {
  Supervisor supervisor(policy(3, 10s, 50ms, 5s));
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(supervisor.died(zero + i * 1s, {}).gives_up);
  EXPECT_FALSE(supervisor.gave_up());
  EXPECT_EQ(supervisor.died(zero + 9999ms, {}), (Decision{.delay = 5s, .gives_up = true}));
  EXPECT_TRUE(supervisor.gave_up());
}

TEST(Supervisor, KeepsTryingAfterItHasGivenUp) {
  Supervisor supervisor(policy(0, 10s, 50ms, 5s));
  EXPECT_TRUE(supervisor.died(zero, {}).gives_up);
  for (const Death death : {Death{}, Death{.graceful = true}, Death{.asked_for = true}})
    EXPECT_EQ(supervisor.died(zero + 1h, death), (Decision{.delay = 5s}));
  EXPECT_TRUE(supervisor.gave_up());
}

TEST(Supervisor, RecoversWhenAWorkerProvesItself) {
  Supervisor supervisor(policy(1, 10s, 50ms, 5s));
  EXPECT_FALSE(supervisor.proved_itself());
  supervisor.died(zero, {});
  EXPECT_TRUE(supervisor.died(zero, {}).gives_up);
  EXPECT_TRUE(supervisor.proved_itself());
  EXPECT_FALSE(supervisor.gave_up());
  EXPECT_FALSE(supervisor.proved_itself()) << "it recovers once";
  EXPECT_EQ(supervisor.died(zero, {}), (Decision{.delay = 50ms})) << "it counts anew";
}

TEST(Supervisor, IgnoresCrashesOfWorkersThatHadServed) {
  Supervisor supervisor(policy(1, 10s, 50ms, 5s));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(supervisor.died(zero, {.served = true}), (Decision{.delay = 50ms}));
  EXPECT_FALSE(supervisor.gave_up());
}

TEST(Supervisor, IgnoresRequestedAndGracefulExits) {
  Supervisor supervisor(policy(0, 10s, 50ms, 5s));
  EXPECT_EQ(supervisor.died(zero, {.asked_for = true}), Decision{});
  EXPECT_EQ(supervisor.died(zero, {.served = true, .asked_for = true}), Decision{});
  EXPECT_EQ(supervisor.died(zero, {.served = true, .graceful = true}), Decision{});
  // A worker that exits as soon as it is ready must not be replaced in a busy loop.
  EXPECT_EQ(supervisor.died(zero, {.graceful = true}), (Decision{.delay = 50ms}));
  EXPECT_FALSE(supervisor.gave_up());
}

TEST(Supervisor, ForgetsOldCrashes) {
  Supervisor supervisor(policy(2, 10s, 50ms, 5s));
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(supervisor.died(zero + i * 5s, {}).gives_up) << i;
}

TEST(Supervisor, DoublesTheBackoffUpToItsBound) {
  Supervisor supervisor(policy(100, 10s, 50ms, 300ms));
  for (const Duration delay : {50ms, 100ms, 200ms, 300ms, 300ms}) EXPECT_EQ(supervisor.died(zero, {}).delay, delay);
  EXPECT_EQ(supervisor.died(zero + 10s, {}).delay, 50ms) << "after a quiet time it starts anew";
}

TEST(Supervisor, DoesNotSpinWithoutABackoff) {
  Supervisor supervisor(policy(0, 10s, 0s, 0s));
  EXPECT_EQ(supervisor.died(zero, {}), (Decision{.delay = 100ms, .gives_up = true}));
  EXPECT_EQ(supervisor.died(zero, {}), (Decision{.delay = 100ms}));
}

TEST(Supervisor, DoesNotOverflowWithExtremeDelays) {
  Supervisor forever(policy(1000, Duration::max(), Duration::max() / 3, Duration::max()));
  Duration last{};
  for (int i = 0; i < 500; ++i) {
    const Decision decision = forever.died(zero + i * 1s, {});
    ASSERT_FALSE(decision.gives_up);
    ASSERT_GE(decision.delay, last);
    last = decision.delay;
  }
  EXPECT_EQ(last, Duration::max());
  Supervisor none(policy(10, 0s, 0s, 0s));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(none.died(zero, {}), Decision{}) << "nothing is ever within no time";
}

// Every state with every kind of exit: which exits count, which ones delay the replacement, which one gives up.
TEST(Supervisor, DecidesEveryExitInEveryState) {
  for (const bool given_up : {false, true})
    for (const bool last_one : {false, true})
      for (unsigned kind = 0; kind < 8; ++kind) {
        Supervisor supervisor(policy(2, 10s, 50ms, 5s));
        for (int i = 0; i < (given_up ? 3 : last_one ? 2 : 0); ++i) supervisor.died(zero, {});
        ASSERT_EQ(supervisor.gave_up(), given_up);
        const Death death{.served = (kind & 1) != 0, .graceful = (kind & 2) != 0, .asked_for = (kind & 4) != 0};
        const Decision decision = supervisor.died(zero, death);
        const bool counts = kind == 0;
        SCOPED_TRACE(testing::Message() << given_up << last_one << kind);
        EXPECT_EQ(decision.gives_up, counts && last_one && !given_up);
        EXPECT_EQ(supervisor.gave_up(), given_up ? !death.served : counts && last_one);
        EXPECT_EQ(decision.delay == 5s, supervisor.gave_up());
      }
}

// ---- the options ----------------------------------------------------------------------------------------------------

template <class Options>
std::string refusal(const std::function<void(Options&)>& spoil) {
  Options options;
  spoil(options);
  try {
    drover::detail::check(options);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

TEST(WorkerOptions, ErrorNamesTheInvalidOption) {
  using Worker = drover::WorkerOptions;
  const auto names = [](const char* option, const std::function<void(Worker&)>& spoil) {
    EXPECT_NE(refusal<Worker>(spoil).find(option), std::string::npos) << option << ": " << refusal<Worker>(spoil);
  };
  EXPECT_EQ(refusal<Worker>([](Worker&) {}), "");
  names("command", [](Worker& o) { o.command.program.clear(); });
  names("max_in_flight", [](Worker& o) { o.max_in_flight = 0; });
  names("max_message_size", [](Worker& o) { o.max_message_size = 0; });
  names("max_message_size", [](Worker& o) { o.max_message_size = std::numeric_limits<std::size_t>::max(); });
  names("shutdown_grace", [](Worker& o) { o.shutdown_grace = -1ns; });
  names("term_grace", [](Worker& o) { o.term_grace = -1s; });
  names("stop_margin", [](Worker& o) { o.stop_margin = Duration::min(); });
  names("spin", [](Worker& o) { o.spin = -1ns; });
  names("WorkerOptions::stall", [](Worker& o) { o.stall = 1ms - 1ns; });
  names("WorkerOptions::kill_stalled", [](Worker& o) { o.kill_stalled = true; });
  EXPECT_EQ(refusal<Worker>([](Worker& o) { o.stall = 1ms, o.kill_stalled = true; }), "");
}

TEST(PoolOptions, ErrorNamesTheInvalidOption) {
  using Pool = drover::PoolOptions;
  const auto names = [](const char* option, const std::function<void(Pool&)>& spoil) {
    EXPECT_NE(refusal<Pool>(spoil).find(option), std::string::npos) << option << ": " << refusal<Pool>(spoil);
  };
  EXPECT_EQ(refusal<Pool>([](Pool& o) { o.start_timeout = std::nullopt; }), "");
  names("size", [](Pool& o) { o.size = 0; });
  names("start_timeout", [](Pool& o) { o.start_timeout = 0s; });
  names("shutdown_grace", [](Pool& o) { o.shutdown_grace = -1s; });
  names("shutdown_timeout", [](Pool& o) { o.shutdown_timeout = -1s; });
  names("within", [](Pool& o) { o.restart.within = -1s; });
  names("backoff", [](Pool& o) { o.restart.backoff = -1s; });
  names("max_backoff", [](Pool& o) { o.restart.max_backoff = -1s; });
  names("max_in_flight", [](Pool& o) { o.worker.max_in_flight = 0; });
  names("PoolOptions::spin", [](Pool& o) { o.spin = -1ns; });
}

TEST(CallOptions, RefuseNegativeTimes) {
  EXPECT_EQ(refusal<drover::CallOptions>([](drover::CallOptions&) {}), "");
  EXPECT_NE(refusal<drover::CallOptions>([](drover::CallOptions& o) { o.deadline = -1ms; }), "");
  EXPECT_NE(refusal<drover::CallOptions>([](drover::CallOptions& o) { o.kill_after = -1ms; }), "");
}

TEST(RoutineName, RefusesANullPointer) {
  const char* const none = nullptr;
  EXPECT_THROW(drover::RoutineName{none}, std::invalid_argument);
}

TEST(RoutineName, ConvertsFromStringsOnly) {
  static_assert(std::convertible_to<const char*, drover::RoutineName>);
  static_assert(std::convertible_to<std::string, drover::RoutineName>);
  static_assert(std::convertible_to<std::string_view, drover::RoutineName>);
  static_assert(!std::convertible_to<std::nullptr_t, drover::RoutineName>);
  static_assert(!std::convertible_to<int, drover::RoutineName>);
  static_assert(!std::convertible_to<drover::CallOptions, drover::RoutineName>);
  EXPECT_EQ(drover::RoutineName("square").view(), "square");
}

}  // namespace
