// Pools: their start, supervision, queue and choice of workers.
#include <gtest/gtest.h>
#include <map>
#include <set>

#include "support/calls.hpp"

namespace {

using namespace support;

class PoolStart : public CallsAnywhere {};
class Pool : public CallsAnywhere {};
class PoolQueue : public CallsAnywhere {};
class CancelledPoolStart : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, PoolStart, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);
INSTANTIATE_TEST_SUITE_P(On, Pool, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);
INSTANTIATE_TEST_SUITE_P(On, PoolQueue, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// If one worker fails to start, the pool's start fails and no worker is left.
TEST_P(PoolStart, StartsAllWorkersOrNone) {
  run_scenario([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = call_pool(4, {"exit-once", folder.file("failed")});
    options.worker.on_event = log.handler();
    const Failure failure = co_await failure_of(WorkerPool::start(options));
    EXPECT_TRUE(failure == Errc::start_failed) << failure;
    EXPECT_TRUE(failure.exit && failure.exit->value == 7) << failure;
    for (const Event& event : log.all()) EXPECT_TRUE(event.kind != Event::Kind::spawned || gone(event.pid));
    const bool told = co_await soon([&] { return log.count(Event::Kind::reaped) == log.count(Event::Kind::spawned); });
    EXPECT_TRUE(told);
    PoolOptions missing = call_pool(3);
    missing.worker.command.program = "/there/is/no/such/program";
    EXPECT_EQ((co_await failure_of(WorkerPool::start(missing))).code, std::errc::no_such_file_or_directory);
    PoolOptions none = call_pool(0);
    EXPECT_TRUE((co_await failure_of(WorkerPool::start(none))).argument);
  });
}

// A program that exits at once is a failed start with its exit status.
TEST_P(PoolStart, FailsIfAllProgramsExitAtOnce) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(4);
    options.worker.command.program = "true";
    for (int round = 0; round < 20; ++round) {
      const Failure failure = co_await failure_of(WorkerPool::start(options));
      EXPECT_TRUE(failure == Errc::start_failed) << failure;
      EXPECT_TRUE(failure.exit && failure.exit->success()) << failure;
    }
  });
}

// Four workers that take 700 ms each to get ready take 700 ms together.
TEST_P(PoolStart, StartsTheWorkersInParallel) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(4, {"sleep", "700"});
    const auto began = Clock::now();
    WorkerPool pool = co_await WorkerPool::start(options);
    EXPECT_GE(since(began), 700ms);
    EXPECT_LT(since(began), 700ms + slack);
    EXPECT_EQ(pool.workers().size(), 4u);
    EXPECT_EQ(pool.stats().ready, 4u);
    co_await pool.stop();
    EXPECT_EQ(pool.stats().workers, 0u);
  });
}

// A pool's start that is cancelled at any time returns when none of its processes is left.
TEST_F(CancelledPoolStart, LeavesNoProcess) {
  const Scenario scenario = []() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    for (const Duration delay : {0ms, 1ms, 50ms}) {
      EventLog log;
      PoolOptions options = call_pool(3, {"sleep", "30000"});
      options.worker.on_event = log.handler();
      options.worker.term_grace = 1s;
      Task starting(here, WorkerPool::start(options));
      co_await pause_for(delay);
      starting.cancel();
      EXPECT_TRUE((co_await starting.failure()).aborted());
      for (const Event& event : log.all()) EXPECT_TRUE(event.kind != Event::Kind::spawned || gone(event.pid));
    }
  };
  on_one_thread(scenario);
  on_four_threads([&] { return in_strand(scenario); });
}

// A crashed worker is replaced after the backoff, its events tell the story, and only its own calls fail.
TEST_P(Pool, ReplacesCrashedWorkers) {
  run_scenario([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = call_pool(2);
    options.worker.on_event = log.handler();
    options.restart.backoff = 20ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    const pid_t idle = pool.workers().front().pid;
    const auto killed_at = Clock::now();
    ::kill(idle, SIGKILL);
    const bool replaced = co_await soon([&] { return pool.stats().restarts == 1 && pool.stats().ready == 2; });
    EXPECT_TRUE(replaced);
    EXPECT_GE(since(killed_at), 20ms);
    EXPECT_EQ(pool.stats().crashes, 1u);
    for (const auto& worker : pool.workers()) EXPECT_NE(worker.pid, idle);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(co_await pool.call<int>("square", i), i * i);
    std::vector<Event> about;
    for (const Event& event : log.all())
      if (event.pid == idle) about.push_back(event);
    EXPECT_EQ(about.size(), 4u);
    if (about.size() == 4) {
      EXPECT_EQ(about[0].kind, Event::Kind::spawned);
      EXPECT_EQ(about[1].kind, Event::Kind::ready);
      EXPECT_EQ(about[2].kind, Event::Kind::exited);
      EXPECT_FALSE(about[2].expected);
      EXPECT_EQ(about[2].exit->value, SIGKILL);
      EXPECT_EQ(about[3].kind, Event::Kind::reaped);
    }
    EXPECT_EQ(log.count(Event::Kind::restarting), 1u);
    // The crash of a busy worker fails only its own calls.
    std::vector<asio::awaitable<int>> fine;
    auto crash = pool.call("crash", SIGABRT);
    for (int i = 0; i < 20; ++i) fine.push_back(pool.call<int>("square", i));
    EXPECT_TRUE(co_await failure_of(std::move(crash)) == Errc::worker_exited);
    for (int i = 0; i < 20; ++i) EXPECT_EQ(co_await std::move(fine[std::size_t(i)]), i * i);
    co_await pool.stop();
  });
}

// While no worker can start, queued and new calls fail with the cause; once workers start again the pool works again.
TEST_P(Pool, RecoversOnceItsWorkersStartAgain) {
  run_scenario([]() -> asio::awaitable<void> {
    const Folder folder;
    const std::string broken = folder.file("broken");
    EventLog log;
    PoolOptions options = call_pool(2, {"exit-if", broken, "23"});
    options.worker.on_event = log.handler();
    options.restart.backoff = 1ms;
    options.restart.max_backoff = 300ms;
    options.restart.max_restarts = 4;
    WorkerPool pool = co_await WorkerPool::start(options);
    std::ofstream(broken).put('!');
    auto first = pool.call("exit", 1), second = pool.call("exit", 1);
    std::vector<asio::awaitable<int>> waiting;
    for (int i = 0; i < 3; ++i) waiting.push_back(pool.call<int>("square", i));
    EXPECT_TRUE(co_await failure_of(std::move(first)) == Errc::worker_exited);
    EXPECT_TRUE(co_await failure_of(std::move(second)) == Errc::worker_exited);
    for (auto& call : waiting) {
      const Failure failure = co_await failure_of(std::move(call));
      EXPECT_TRUE(failure == Errc::pool_failed) << failure;
      EXPECT_TRUE(failure.exit && failure.exit->value == 23) << failure;
    }
    const auto start = Clock::now();
    const Failure later = co_await failure_of(pool.call<int>("square", 3));
    EXPECT_TRUE(later == Errc::pool_failed) << later;
    EXPECT_TRUE(later.exit && later.exit->value == 23) << later;
    EXPECT_LT(since(start), 200ms);
    const bool told = co_await soon([&] { return log.count(Event::Kind::gave_up) == 2; });
    EXPECT_TRUE(told) << "each slot is given up once";
    EXPECT_EQ(log.count(Event::Kind::recovered), 0u);

    std::filesystem::remove(broken);
    const bool answered = co_await soon([&] { return pool.stats().ready == 2; });
    EXPECT_TRUE(answered);
    const int answer = co_await pool.call<int>("square", 4);
    EXPECT_EQ(answer, 16);
    for (int i = 0; i < 4; ++i) (void)co_await pool.call<int>("square", i);
    const bool recovered = co_await soon([&] { return log.count(Event::Kind::recovered) == 2; });
    EXPECT_TRUE(recovered) << log.count(Event::Kind::recovered);
    EXPECT_EQ(log.count(Event::Kind::gave_up), 2u);
    co_await pool.stop();
  });
}

// A call that kills each worker is the fault of one caller: other calls wait their turn and the pool does not give up.
TEST_P(Pool, SurvivesCallsThatKillTheirWorkers) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.restart.backoff = 1ms;
    options.restart.max_restarts = 2;
    WorkerPool pool = co_await WorkerPool::start(options);
    for (int i = 0; i < 8; ++i) {
      const int good = co_await pool.call<int>("square", i);
      EXPECT_EQ(good, i * i);
      const Failure failure = co_await failure_of(pool.call("crash", SIGKILL));
      EXPECT_TRUE(failure == Errc::worker_exited) << failure;
    }
    const bool counted = co_await soon([&] { return pool.stats().crashes == 8; });  // callers know first
    EXPECT_TRUE(counted) << pool.stats().crashes;
    co_await pool.stop();
  });
}

// The simultaneous crash of all workers counts as one crash for each pool slot, and all are replaced.
TEST_P(Pool, SurvivesTheCrashOfAllWorkersAtOnce) {
  run_scenario([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = call_pool(8);
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    for (const auto& worker : pool.workers()) ::kill(worker.pid, SIGKILL);
    const bool back = co_await soon([&] { return pool.stats().restarts == 8 && pool.stats().ready == 8; }, 30s);
    EXPECT_TRUE(back);
    const int nine = co_await pool.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    EXPECT_EQ(log.count(Event::Kind::gave_up), 0u);
    co_await pool.stop();
  });
}

// More workers than may start at a time: at the first start, and when all of them die at once.
TEST_P(Pool, OfManyWorkersStartsAndReplacesThemAll) {
  run_scenario([]() -> asio::awaitable<void> {
    constexpr std::size_t size = 40;
    PoolOptions options = call_pool(size, {"sleep", "20"});
    options.restart.backoff = 1ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    EXPECT_EQ(pool.stats().ready, size);
    for (const auto& worker : pool.workers()) ::kill(worker.pid, SIGKILL);
    const auto all_back = [&] { return pool.stats().restarts == size && pool.stats().ready == size; };
    const bool back = co_await soon(all_back, 60s);
    EXPECT_TRUE(back) << pool.stats().restarts << " restarts, " << pool.stats().ready << " ready";
    const auto reports = co_await pool.stop();
    EXPECT_EQ(reports.size(), size);
  });
}

// A full queue refuses further calls at once, and the queued calls run in order.
TEST_P(PoolQueue, IfFullRefusesCallsAndKeepsItsOrder) {
  run_scenario([]() -> asio::awaitable<void> {
    const Folder folder;
    const std::string file = folder.file("order");
    auto told = std::make_shared<ReadPipe>();
    PoolOptions options = call_pool(1);
    options.worker.command.out = told->stdio();
    options.max_queued = 5;
    WorkerPool pool = co_await WorkerPool::start(options);
    auto busy = pool.call<std::string>("work", 300);
    co_await said(told, "working");
    std::vector<asio::awaitable<void>> waiting;
    for (int i = 0; i < 5; ++i) waiting.push_back(pool.call("append", file, i));
    EXPECT_EQ(pool.stats().queued, 5u);
    EXPECT_EQ(pool.stats().in_flight, 1u);
    const auto began = Clock::now();
    EXPECT_TRUE(co_await failure_of(pool.call("append", file, 99)) == Errc::overloaded);
    EXPECT_LT(since(began), 200ms) << "at once";
    {
      const auto leaving = std::move(waiting[1]);
    }  // a call that leaves the queue makes room for another one
    waiting.erase(waiting.begin() + 1);
    EXPECT_EQ(pool.stats().queued, 4u);
    waiting.push_back(pool.call("append", file, 5));
    EXPECT_TRUE(co_await failure_of(pool.call("append", file, 99)) == Errc::overloaded);
    EXPECT_EQ(co_await std::move(busy), "worked");
    for (auto& call : waiting) co_await std::move(call);
    EXPECT_EQ(folder.numbers("order"), (std::vector<int>{0, 2, 3, 4, 5}));
    co_await pool.stop();
  });
}

// With max_queued = 0 a call is sent at once or fails with overloaded.
TEST_P(PoolQueue, OfLengthZeroSendsOrRefusesACall) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.max_queued = 0;
    WorkerPool pool = co_await WorkerPool::start(options);
    auto busy = pool.call<std::string>("doze", 50);
    EXPECT_TRUE(co_await failure_of(pool.call<int>("square", 3)) == Errc::overloaded);
    EXPECT_EQ(co_await std::move(busy), "slept");
    EXPECT_EQ(co_await pool.call<int>("square", 3), 9);
    co_await pool.stop();
  });
}

// A call goes to the least loaded worker that has its tags, and fails if no worker has them.
TEST_P(Pool, SendsACallToTheLeastLoadedTaggedWorker) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(3);
    options.worker.max_in_flight = 4;
    options.worker.tags = {"gpu", "fast"};
    WorkerPool pool = co_await WorkerPool::start(options);
    // Nine long calls are spread evenly, so that three more find all workers equally loaded.
    std::vector<asio::awaitable<std::string>> staying;
    for (int i = 0; i < 9; ++i) staying.push_back(pool.call<std::string>("doze", 300));
    std::set<pid_t> pids;
    for (int i = 0; i < 3; ++i) pids.insert(co_await pool.call<int>("pid"));
    EXPECT_EQ(pids.size(), 3u) << "equals take turns";
    EXPECT_EQ(pool.stats().in_flight, 9u);
    for (auto& call : staying) EXPECT_EQ(co_await std::move(call), "slept");
    const CallOptions both{.tags = {"fast", "gpu"}}, other{.tags = {"gpu", "tpu"}};
    EXPECT_EQ(co_await pool.call<int>(both, "square", 3), 9);
    const Failure nobody = co_await failure_of(pool.call<int>(other, "square", 3));
    EXPECT_TRUE(nobody == Errc::no_such_worker) << nobody;
    EXPECT_NE(nobody.text.find("tpu"), std::string::npos) << nobody;
    co_await pool.stop();
  });
}

// Event handlers that are slow and throw do no harm: events come one at a time, in order and completely.
TEST_P(Pool, StandsEventHandlersThatAreSlowAndThrow) {
  run_scenario([]() -> asio::awaitable<void> {
    std::mutex mutex;
    std::map<pid_t, std::vector<Event>> events;
    std::atomic<int> running{0}, overlaps{0};
    PoolOptions options = call_pool(2);
    options.restart.backoff = 1ms;
    options.worker.on_event = [&](const Event& event) {
      if (++running > 1) ++overlaps;
      {
        const std::lock_guard held(mutex);
        events[event.pid].push_back(event);
      }
      std::this_thread::sleep_for(5ms);
      --running;
      throw std::runtime_error("from an event handler");
    };
    std::size_t workers = 0;
    {
      WorkerPool pool = co_await WorkerPool::start(options);
      auto crash = pool.call("crash", SIGSEGV);
      for (int i = 0; i < 50; ++i) EXPECT_EQ(co_await pool.call<int>("square", i), i * i);
      EXPECT_TRUE(co_await failure_of(std::move(crash)) == Errc::worker_exited);
      const bool whole = co_await soon([&] { return pool.stats().ready == 2; });
      EXPECT_TRUE(whole);
      co_await pool.stop();
      const auto all_reaped = [&] {
        const std::lock_guard held(mutex);
        workers = events.size() - events.count(0);
        for (const auto& [pid, log] : events)
          if (pid != 0 && log.back().kind != Event::Kind::reaped) return false;
        return workers == 3 && running == 0;
      };
      const bool told = co_await soon(all_reaped);
      EXPECT_TRUE(told) << workers;
    }
    EXPECT_EQ(overlaps, 0) << "one at a time";
    int crashed = 0;
    for (const auto& [pid, log] : events) {
      if (pid == 0) continue;
      std::vector<Event::Kind> kinds;
      for (const Event& event : log) kinds.push_back(event.kind);
      using enum Event::Kind;
      const std::vector asked{spawned, ready, stopping, exited, reaped}, died{spawned, ready, exited, reaped};
      EXPECT_TRUE(kinds == asked || kinds == died);
      if (kinds == died) ++crashed;
      EXPECT_TRUE(std::is_sorted(log.begin(), log.end(), [](auto& a, auto& b) { return a.at < b.at; }));
    }
    EXPECT_EQ(crashed, 1);
  });
}

}  // namespace
