// WorkerOptions::stall and WorkerOptions::kill_stalled: workers whose main loops do not turn, as their parent sees
// them.
#include <algorithm>
#include <gtest/gtest.h>
#include <optional>
#include <signal.h>
#include <string>
#include <utility>
#include <vector>

#include "support/life.hpp"
#include "support/streams.hpp"

namespace {

using namespace support;
using drover::WorkerDeaths;

class Stall : public Calls {};
class KillStalled : public Calls {};
class HostileStall : public Calls {};

constexpr Duration stall = 200ms;
constexpr int long_ms = 1200;  // of a stall that is reported for sure

WorkerOptions watched(EventLog& log, std::vector<std::string> steps = {}) {
  WorkerOptions options = life_worker(std::move(steps));
  options.name = "w";
  options.stall = stall;
  options.on_event = log.handler();
  return options;
}

std::vector<Event> stalls(const EventLog& log) {
  std::vector<Event> found = log.all();
  std::erase_if(found, [](const Event& event) { return event.kind != Event::Kind::stalled; });
  return found;
}

void expect_stall(const Event& event, const std::string& routine, pid_t pid) {
  EXPECT_EQ(event.worker, "w");
  EXPECT_EQ(event.pid, pid);
  EXPECT_EQ(event.routine, routine);
  EXPECT_GE(event.age, stall);
  EXPECT_LT(event.age, std::chrono::milliseconds(long_ms));
  EXPECT_FALSE(event.exit);
}

// ---- the event ------------------------------------------------------------------------------------------------------

// A plain routine and a coroutine that block: one event for each.
TEST_F(Stall, IsAnEventWithTheRoutine) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    LocalWorker worker(co_await asio::this_coro::executor, watched(log));
    co_await worker.start();
    const std::string worked = co_await worker.call<std::string>("work", long_ms);
    EXPECT_EQ(worked, "worked");
    co_await worker.call("block_after", 10, long_ms);
    const pid_t pid = worker.pid();
    co_await worker.stop();
    const std::vector<Event> events = stalls(log);
    EXPECT_EQ(events.size(), 2u);
    if (events.size() != 2) co_return;
    expect_stall(events[0], "work", pid);
    expect_stall(events[1], "block_after", pid);
    EXPECT_EQ(events[0].to_string(), "w (" + std::to_string(pid) + "): stalled for " +
                                         drover::detail::duration_text(events[0].age) + " in routine 'work'");
  });
}

// The event comes while the routine runs, though the parent asks for nothing.
TEST_F(Stall, IsReportedWhileItLasts) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    WorkerOptions options = watched(log);
    options.stop_margin = 500ms;
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    const auto began = Clock::now();
    const Task<void> call(co_await asio::this_coro::executor, worker.call("spin"));
    const bool told = co_await soon([&] { return !stalls(log).empty(); });
    EXPECT_TRUE(told);
    EXPECT_GE(since(began), stall);
    EXPECT_LT(since(began), stall * 5 / 4 + slack);
    EXPECT_FALSE(call.done());
    EXPECT_TRUE(worker.alive());
    co_await worker.stop(0s);
    co_await call.ended();
    EXPECT_EQ(stalls(log).size(), 1u);
  });
}

// What on_start() has left behind blocks the loop while a call waits unread: there is no routine to name.
TEST_F(Stall, OfAHandlerHasNoRoutine) {
  run_together({[]() -> asio::awaitable<void> {
    EventLog log;
    const WorkerOptions options = watched(log, {"start-block-later", std::to_string(long_ms)});
    const Started s = co_await started(options);
    co_await said(s.pipe, "blocking");
    const int square = co_await s.worker->call<int>("square", 3);
    EXPECT_EQ(square, 9);
    const pid_t pid = s.worker->pid();
    co_await s.worker->stop();
    const std::vector<Event> events = stalls(log);
    EXPECT_EQ(events.size(), 1u);
    for (const Event& event : events) {
      expect_stall(event, "", pid);
      EXPECT_EQ(event.to_string().find("routine"), std::string::npos) << event.to_string();
    }
  }});
}

// The call has ended, but neither is its result sent nor the next call read.
TEST_F(Stall, IsReportedBetweenTheEndOfACallAndItsResult) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    WorkerOptions options = watched(log);
    options.max_in_flight = 2;
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    co_await worker.call("leave_blocker", long_ms);
    const pid_t pid = worker.pid();
    co_await worker.stop();
    const std::vector<Event> events = stalls(log);
    EXPECT_EQ(events.size(), 1u);
    for (const Event& event : events) expect_stall(event, "", pid);
  });
}

// Plain routines that wait for their caller block the main thread, but answer for it.
TEST_F(Stall, IsNotReportedOfAStreamThatWaits) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    EventLog log;
    WorkerOptions options = stream_pool(1).worker;
    options.stall = stall;
    options.kill_stalled = true;
    options.on_event = log.handler();
    LocalWorker writer(here, options), reader(here, options);
    co_await writer.start();
    co_await reader.start();
    constexpr int items = 200'000;  // more than it may send ahead
    auto counted = writer.stream<long, int>("count_plain", items);
    auto summed = reader.stream<long, void, int>("sum_plain");
    const std::optional<int> first = co_await counted.next();
    EXPECT_EQ(first, 0);
    co_await summed.send(1);
    co_await pause_for(6 * stall);
    EXPECT_TRUE(stalls(log).empty());
    int read = 1;
    for (;; ++read) {
      const std::optional<int> item = co_await counted.next();
      if (!item) break;
    }
    EXPECT_EQ(read, items);
    summed.finish();
    const long one = co_await summed.result();
    EXPECT_EQ(one, 1);
    co_await writer.stop();
    co_await reader.stop();
    EXPECT_TRUE(stalls(log).empty());
  });
}

// Coroutines that wait, short routines one after another, and no calls at all.
TEST_F(Stall, IsNotReportedIfTheLoopTurns) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    EventLog log;
    WorkerOptions options = watched(log);
    options.stall = 1s;
    options.max_in_flight = 8;
    options.spin = 50us;
    LocalWorker worker(here, options);
    co_await worker.start();
    std::vector<Task<std::string>> naps;
    for (int i = 0; i < 4; ++i) naps.emplace_back(here, worker.call<std::string>("doze", 4500));
    for (int i = 0; i < 20; ++i) co_await worker.call<std::string>("work", 100);
    for (const auto& nap : naps) co_await nap.ended();
    co_await pause_for(1500ms);
    co_await worker.stop();
    EXPECT_TRUE(stalls(log).empty());
  });
}

// kill_stalled without stall, or a stall below 1 ms, fails the start; 1 ms and the longest time do not.
TEST_F(Stall, BadOptionsAreRefusedByName) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    WorkerOptions options = life_worker();
    const auto refused = [&](std::string text) -> asio::awaitable<void> {
      LocalWorker worker(here, options);
      const Failure failure = co_await failure_of(worker.start());
      EXPECT_TRUE(failure.argument) << failure;
      EXPECT_NE(failure.text.find(text), std::string::npos) << failure;
    };
    options.kill_stalled = true;
    co_await refused("WorkerOptions::kill_stalled needs WorkerOptions::stall");
    for (const Duration bad : {Duration(-1s), Duration(0s), Duration(1ms) - 1ns, Duration::min()}) {
      options.stall = bad;
      co_await refused("WorkerOptions::stall must be at least 1 ms");
    }
    for (const Duration good : {Duration(1ms), Duration::max()}) {
      options.stall = good;
      LocalWorker worker(here, options);
      co_await worker.start();
      co_await worker.stop();
    }
  });
}

// ---- kill_stalled ---------------------------------------------------------------------------------------------------

void expect_killed(const Failure& failure, const std::string& who, const std::string& why) {
  EXPECT_EQ(failure, Errc::worker_exited) << failure;
  EXPECT_EQ(failure.text.find(who), 0u) << failure;
  EXPECT_NE(failure.text.find(" was killed because it had stalled: " + why), std::string::npos) << failure;
  EXPECT_TRUE(failure.exit && failure.exit->value == SIGKILL) << failure;
}

// All calls of the worker, a later one and status() fail with the routine's name. The kill is an expected exit.
TEST_F(KillStalled, FailsTheCallsOfTheWorkerWithTheReason) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    EventLog log;
    WorkerOptions options = watched(log);
    options.kill_stalled = true;
    options.max_in_flight = 2;
    LocalWorker worker(here, options);
    co_await worker.start();
    const std::string who = "worker 'w' (" + std::to_string(worker.pid()) + ")";
    const std::string why = "routine 'block_after' did not let its main loop turn for 2";  // hundred milliseconds
    const Task<std::string> beside(here, worker.call<std::string>("doze", 30000));
    const Failure blocking = co_await failure_of(worker.call("block_after", 10, 60000));
    const Failure other = co_await beside.failure();
    const Failure later = co_await failure_of(worker.call<int>("square", 3));
    const Failure status = co_await failure_of(worker.status());
    for (const Failure& failure : {blocking, other, later, status}) expect_killed(failure, who, why);
    const StopReport report = co_await worker.stop();
    EXPECT_EQ(report.rpc, make_error_code(Errc::worker_exited));
    std::vector<Event::Kind> kinds;
    for (const Event& event : log.all()) {
      kinds.push_back(event.kind);
      EXPECT_EQ(event.expected, event.kind == Event::Kind::exited || event.kind == Event::Kind::reaped)
          << event.to_string();
    }
    using enum Event::Kind;
    EXPECT_EQ(kinds, (std::vector{spawned, ready, stalled, kill_sent, exited, reaped}));
  });
}

// A pool replaces it at once and counts the cause. A call that waits goes to the replacement.
TEST_F(KillStalled, ReplacesTheWorkerOfAPool) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    EventLog log;
    PoolOptions options;
    options.size = 1;
    options.worker = watched(log);
    options.worker.kill_stalled = true;
    options.restart.backoff = 60s;  // that would be seen
    options.restart.max_backoff = 60s;
    options.restart.max_restarts = 1;
    WorkerPool pool = co_await WorkerPool::start(options);
    for (std::uint64_t round = 1; round <= 4; ++round) {
      const Task<void> stalls(here, pool.call("spin"));
      const Task<int> waits(here, pool.call<int>("square", 3));
      const Failure failure = co_await stalls.failure();
      expect_killed(failure, "worker 'w' (", "routine 'spin' did not let its main loop turn for ");
      const int square = co_await waits.result();
      EXPECT_EQ(square, 9);
      const WorkerDeaths expected{.stalled = round};
      const bool counted = co_await soon([&] { return pool.stats().deaths == expected; });
      EXPECT_TRUE(counted);
      EXPECT_EQ(pool.stats().restarts, round);
    }
    EXPECT_EQ(pool.stats().crashes, 0u);
    EXPECT_NE(pool.metrics().find("cause=\"stalled\"} 4"), std::string::npos);
    co_await pool.stop();
    EXPECT_EQ(log.count(Event::Kind::stalled), 4u);
    EXPECT_EQ(log.count(Event::Kind::gave_up), 0u);
  });
}

// Its deadlines count from then on, and a call that ends within them is drained.
TEST_F(KillStalled, LeavesAWorkerThatIsBeingStopped) {
  run_together({[]() -> asio::awaitable<void> {
    EventLog log;
    WorkerOptions options = watched(log);
    options.kill_stalled = true;
    const Started s = co_await started(options);
    const Task<std::string> call(co_await asio::this_coro::executor, s.worker->call<std::string>("work", long_ms));
    co_await said(s.pipe, "working");
    const StopReport report = co_await s.worker->stop();
    EXPECT_EQ(report.drained, 1u);
    EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
    const std::string worked = co_await call.result();
    EXPECT_EQ(worked, "worked");
    EXPECT_EQ(log.count(Event::Kind::stalled), 1u);
    EXPECT_EQ(log.count(Event::Kind::kill_sent), 0u);
  }});
}

// ---- STALLED of a hostile worker ------------------------------------------------------------------------------------

struct Frames {
  int count = 1;
  std::uint64_t call = 2;
  std::int64_t nanoseconds = 1'000'000;
  std::size_t size = 8;
};

/// How the call ends in which the worker sends them.
asio::awaitable<Failure> after(Frames frames, drover::Timeout bound, std::shared_ptr<EventLog> log) {
  using std::to_string;
  WorkerOptions options = call_worker({"stalled", to_string(frames.count), to_string(frames.call),
                                       to_string(frames.nanoseconds), to_string(frames.size)});
  options.command.program = DROVER_HELPER_HOSTILE_WORKER;
  options.term_grace = 500ms;
  options.stop_margin = 0s;
  options.stall = bound;
  options.on_event = log->handler();
  const auto here = co_await asio::this_coro::executor;
  LocalWorker worker(here, options);
  co_await worker.start();
  (void)co_await worker.call<int>("first");
  const Task<int> call(here, worker.call<int>("second"));
  const Task<drover::WorkerStatus> status(here, worker.status());
  const Failure failure = co_await call.failure();
  co_await status.ended();
  co_await worker.stop(0s);
  co_return failure;
}

// A report that may be true is an event, without a routine if its call has ended. The call has its result.
TEST_F(HostileStall, OneThatIsPossibleIsBelieved) {
  const auto believed = [](Frames frames, std::string routine) -> asio::awaitable<void> {
    const auto log = std::make_shared<EventLog>();
    const Failure failure = co_await after(frames, 1ms, log);
    EXPECT_EQ(failure.text, "") << "the call was answered";
    EXPECT_EQ(log->count(Event::Kind::stalled), static_cast<std::size_t>(frames.count));
    for (const Event& event : stalls(*log)) {
      EXPECT_EQ(event.routine, routine);
      EXPECT_EQ(event.age, std::chrono::nanoseconds(frames.nanoseconds));
    }
  };
  run_together({
      [&] { return believed({}, "second"); }, [&] { return believed({.call = 1}, ""); },  // it has ended
      [&] { return believed({.call = 0}, ""); },
      [&] { return believed({.count = 40, .nanoseconds = 20'000'000}, "second"); },  // the parent may read late
  });
}

// A report that nobody has asked for, or that cannot be true, ends the worker with Errc::protocol_error.
TEST_F(HostileStall, OneThatIsImpossibleIsAProtocolError) {
  const auto refused = [](Frames frames, drover::Timeout bound = 1ms,
                          std::size_t believed = 0) -> asio::awaitable<void> {
    const auto log = std::make_shared<EventLog>();
    const Failure failure = co_await after(frames, bound, log);
    EXPECT_EQ(failure, Errc::protocol_error) << failure;
    EXPECT_NE(failure.text.find("does not belong on the control socket"), std::string::npos) << failure;
    EXPECT_GE(log->count(Event::Kind::stalled), believed);
    EXPECT_LT(log->count(Event::Kind::stalled), static_cast<std::size_t>(frames.count));
  };
  run_together({
      [&] { return refused({}, std::nullopt); },          // nobody has asked for it
      [&] { return refused({.nanoseconds = 999'999}); },  // too early
      [&] { return refused({.nanoseconds = -1}); },
      [&] { return refused({.nanoseconds = std::numeric_limits<std::int64_t>::max()}); },
      [&] { return refused({.nanoseconds = 3600'000'000'000}); },  // longer than it lives
      [&] { return refused({.call = 3}); },                        // was never sent
      [&] { return refused({.call = ~std::uint64_t{0}}); }, [&] { return refused({.size = 0}); },
      [&] { return refused({.size = 7}); }, [&] { return refused({.size = 24}); },
      [&] { return refused({.count = 1000, .nanoseconds = 40'000'000}, 40ms, 1); },  // at a time
  });
}

}  // namespace
