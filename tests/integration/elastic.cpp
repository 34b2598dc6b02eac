// An elastic pool: it grows while calls wait, and goes back when its workers are idle.
#include "support/elastic.hpp"

#include <gtest/gtest.h>
#include <map>
#include <set>
#include <signal.h>
#include <vector>

#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/os/detail/cpu.hpp>
#include <drover/pool/detail/start_queue.hpp>

namespace {

using namespace support;
using drover::detail::StartQueue;

class Elastic : public CallsAnywhere {};
class OneElastic : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, Elastic, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// ---- growth ---------------------------------------------------------------------------------------------------------

// A worker is started for each call that waits, up to max_size: nine calls have four workers.
TEST_P(Elastic, GrowsWhileCallsWaitAndNoFurther) {
  run_in_strand([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = elastic_pool(1, 4, 60s);
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    EXPECT_EQ(pool.stats().size, 1u);
    EXPECT_EQ(pool.stats().max_size, 4u);
    const auto here = co_await asio::this_coro::executor;
    Blockers two(here, pool, 2);
    co_await until_ready(pool, 2);
    Blockers one(here, pool, 1);
    co_await until_ready(pool, 3);
    Blockers six(here, pool, 6);
    co_await until_ready(pool, 4);
    co_await two.release_all();
    co_await one.release_all();
    co_await six.release_all();
    EXPECT_EQ(log.count(Event::Kind::spawned), 4u);
    EXPECT_EQ(pool.stats().restarts, 0u);
    std::set<std::size_t> slots;
    for (const auto& worker : pool.workers()) slots.insert(worker.slot);
    EXPECT_EQ(slots, (std::set<std::size_t>{0, 1, 2, 3}));
    const auto reports = co_await pool.stop();
    EXPECT_EQ(reports.size(), 4u);
  });
}

// A worker that takes many calls at a time is started for as many that wait.
TEST_F(OneElastic, StartsNoMoreWorkersThanTheCallsNeed) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = elastic_pool(1, 8, 60s);
    options.worker.max_in_flight = 4;
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    std::vector<Task<std::string>> naps;
    for (int i = 0; i < 12; ++i) naps.emplace_back(here, pool.call<std::string>("doze", 60000));
    const bool all_run = co_await soon([&] { return pool.stats().in_flight == 12; });
    EXPECT_TRUE(all_run);
    for (const auto& nap : naps) nap.cancel();
    for (const auto& nap : naps) co_await nap.failure();
    EXPECT_EQ(log.count(Event::Kind::spawned), 3u);
    co_await pool.stop();
  });
}

// Calls that are made one after another need no second worker.
TEST_P(Elastic, IsNotGrownByOneCallAfterAnother) {
  run_scenario([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = elastic_pool(1, 4, 60s);
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    for (int i = 0; i < 300; ++i) {
      const int square = co_await pool.call<int>("square", i);
      EXPECT_EQ(square, i * i);
    }
    for (int i = 0; i < 5; ++i) co_await pool.call<std::string>("doze", 3);
    EXPECT_EQ(log.count(Event::Kind::spawned), 1u);
    co_await pool.stop();
  });
}

// The call was sent ahead to the only worker, behind a call that turns out to be long.
TEST_F(OneElastic, GrowsForACallThatWaitsInAWorker) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(elastic_pool(1, 2, 60s));
    for (int i = 0; i < 50; ++i) co_await pool.call("nothing");
    const auto here = co_await asio::this_coro::executor;
    Blockers blocker(here, pool, 1);
    const int nine = co_await pool.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    EXPECT_FALSE(blocker.done(0));
    EXPECT_EQ(pool.stats().ready, 2u);
    co_await blocker.release_all();
    co_await pool.stop();
  });
}

// Workers that cannot start harm no call. They are tried again while calls wait, and no longer.
TEST_F(OneElastic, OutlivesAProgramThatDoesNotStart) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = elastic_pool(1, 3, 50ms, {"exit-if", folder.file("broken"), "9"});
    options.restart = {.max_restarts = 1, .within = 10s, .backoff = 1ms, .max_backoff = 100ms};
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    std::ofstream(folder.file("broken")).close();
    const auto here = co_await asio::this_coro::executor;
    Blockers two(here, pool, 2);
    const bool gave_up = co_await soon([&] { return log.count(Event::Kind::gave_up) == 2; });
    EXPECT_TRUE(gave_up) << "the next slot has been tried, too";
    const std::size_t tried = log.count(Event::Kind::spawned);
    const bool tries_on = co_await soon([&] { return log.count(Event::Kind::spawned) > tried + 2; });
    EXPECT_TRUE(tries_on) << "a call still waits";
    co_await two.release_all();
    bool quiet = false;
    for (int round = 0; round < 20 && !quiet; ++round) {
      const std::size_t before = log.count(Event::Kind::spawned);
      co_await pause_for(5 * options.restart.max_backoff);
      quiet = log.count(Event::Kind::spawned) == before;
    }
    EXPECT_TRUE(quiet) << "no call waits any more";
    EXPECT_EQ(pool.stats().ready, 1u);

    std::filesystem::remove(folder.file("broken"));
    Blockers again(here, pool, 3);
    co_await until_ready(pool, 3);
    co_await again.release_all();
    co_await until_ready(pool, 1);
    const auto reports = co_await pool.stop();
    EXPECT_EQ(reports.size(), 1u);
  });
}

// A call waits for a worker that is being replaced, until that is given up.
TEST_F(OneElastic, GrowsInPlaceOfASlotThatIsGivenUp) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    PoolOptions options = elastic_pool(2, 3, 60s, {"exit-if", folder.file("broken"), "9"});
    options.restart = {.max_restarts = 1, .within = 60s, .backoff = 200ms, .max_backoff = 60s};
    options.worker.on_event = [broken = folder.file("broken")](const Event& event) {
      if (event.kind == Event::Kind::gave_up) std::filesystem::remove(broken);
    };
    WorkerPool pool = co_await WorkerPool::start(options);
    std::ofstream(folder.file("broken")).close();
    ::kill(pids(pool).front(), SIGKILL);
    co_await until_ready(pool, 1);
    const auto here = co_await asio::this_coro::executor;
    Blockers two(here, pool, 2);
    co_await until_ready(pool, 2);
    co_await two.release_all();
    co_await pool.stop();
  });
}

// Slots that are dormant are no hope for the calls.
TEST_F(OneElastic, FailsWhileAllItsWorkersAreDown) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = elastic_pool(1, 3, 50ms, {"exit-if", folder.file("broken"), "9"});
    options.restart = {.max_restarts = 0, .within = 10s, .backoff = 1ms, .max_backoff = 100ms};
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    std::ofstream(folder.file("broken")).close();
    ::kill(pids(pool).front(), SIGKILL);
    const bool gave_up = co_await soon([&] { return log.count(Event::Kind::gave_up) == 1; });
    EXPECT_TRUE(gave_up);
    const Failure failure = co_await failure_of(pool.call("nothing"));
    EXPECT_EQ(failure, Errc::pool_failed) << failure;
    EXPECT_EQ(log.count(Event::Kind::gave_up), 1u) << "no other slot has been tried";
    std::filesystem::remove(folder.file("broken"));
    co_await until_ready(pool, 1);
    co_await pool.call("nothing");
    co_await pool.stop();
  });
}

// More workers are due than may start at a time, and the calls end before their turns come.
TEST_F(OneElastic, StartsNoWorkerThatNoCallWaitsForAnyMore) {
  on_one_thread([]() -> asio::awaitable<void> {
    const std::size_t most = 4 * StartQueue::limit(drover::detail::available_cores());
    EventLog log;
    PoolOptions options = elastic_pool(1, most, 20ms);
    options.max_queued = most;
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    std::vector<Task<int>> calls;
    for (std::size_t i = 0; i < most; ++i) calls.emplace_back(here, pool.call<int>("square", 3));
    for (const auto& call : calls) co_await call.result();
    co_await until_ready(pool, 1);
    const bool over = co_await soon([&] { return pool.stats().workers == 1; });
    EXPECT_TRUE(over);
    EXPECT_LT(log.count(Event::Kind::spawned), most);
    Blockers three(here, pool, 3);
    co_await until_ready(pool, 3);
    co_await three.release_all();
    co_await pool.stop();
  });
}

// A worker was about to be started for the first call, which is cancelled then.
TEST_F(OneElastic, GrowsForACallAfterOneThatWasCancelled) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(elastic_pool(1, 2, 60s));
    const auto here = co_await asio::this_coro::executor;
    Blockers one(here, pool, 1);
    const Task<std::string> cancelled(here, pool.call<std::string>("doze", 60000));
    for (int i = 0; i < 2; ++i) co_await asio::post(here, asio::use_awaitable);
    cancelled.cancel();
    co_await cancelled.failure();
    for (int i = 0; i < 20; ++i) co_await asio::post(here, asio::use_awaitable);
    Blockers another(here, pool, 1);
    co_await until_ready(pool, 2);
    co_await one.release_all();
    co_await another.release_all();
    co_await pool.stop();
  });
}

// Sizes, queues and times of no elastic pool are errors that name the option.
TEST_F(OneElastic, RefusesNonsense) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto refusal = [](PoolOptions options) -> asio::awaitable<Failure> {
      Failure failure = co_await failure_of(WorkerPool::start(std::move(options)));
      co_return failure;
    };
    const auto names = [](const Failure& failure, const char* option) {
      return failure.argument && failure.text.find(option) != std::string::npos;
    };
    const Failure small = co_await refusal(elastic_pool(3, 2, 1s));
    EXPECT_TRUE(names(small, "PoolOptions::max_size")) << small;
    const Failure huge = co_await refusal(elastic_pool(3, (std::size_t{1} << 20) + 1, 1s));
    EXPECT_TRUE(names(huge, "PoolOptions::max_size")) << huge;
    PoolOptions without_queue = elastic_pool(1, 2, 60s);
    without_queue.max_queued = 0;
    const Failure queueless = co_await failure_of(WorkerPool::start(without_queue));
    EXPECT_TRUE(names(queueless, "PoolOptions::max_queued")) << queueless;
    const Failure zero = co_await refusal(elastic_pool(1, 2, 0s));
    EXPECT_TRUE(names(zero, "PoolOptions::idle_after")) << zero;
    const Failure negative = co_await refusal(elastic_pool(1, 0, -1s));
    EXPECT_TRUE(names(negative, "PoolOptions::idle_after")) << negative;
    PoolOptions without_port = elastic_pool(1, 3, 1s);
    without_port.slot_env = [](std::size_t slot) -> std::map<std::string, std::string> {
      if (slot == 2) throw std::runtime_error("no port is left");
      return {{"DROVER_TEST_PORT", std::to_string(slot)}};
    };
    const Failure of_environment = co_await refusal(without_port);
    EXPECT_EQ(of_environment.text, "no port is left");
  });
}

// slot_env is called once for each slot, however often the slot has a worker again.
TEST_F(OneElastic, AsksForTheVariablesOfEachSlotOnce) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = elastic_pool(1, 2, 20ms);
    const auto asked = std::make_shared<std::vector<std::size_t>>();
    options.slot_env = [asked](std::size_t slot) {
      asked->push_back(slot);
      return std::map<std::string, std::string>{{"DROVER_TEST_PORT", std::to_string(8000 + slot)}};
    };
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    for (int round = 0; round < 3; ++round) {
      Blockers blocker(here, pool, 1);
      const std::string seen = co_await pool.call<std::string>("in_shell", "echo $DROVER_SLOT $DROVER_TEST_PORT");
      EXPECT_TRUE(seen == "0 8000\n" || seen == "1 8001\n") << seen;
      co_await blocker.release_all();
      co_await until_ready(pool, 1);
    }
    EXPECT_EQ(*asked, (std::vector<std::size_t>{0, 1}));
    co_await pool.stop();
  });
}

// ---- shrinking ------------------------------------------------------------------------------------------------------

// Two of four workers exit with code 0, and not before idle_after has passed.
TEST_P(Elastic, GoesBackOnceItsWorkersHaveBeenIdle) {
  run_in_strand([]() -> asio::awaitable<void> {
    constexpr Duration idle_after = 200ms;
    EventLog log;
    PoolOptions options = elastic_pool(2, 4, idle_after);
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    for (int round = 0; round < 2; ++round) {
      Blockers four(here, pool, 4);
      co_await until_ready(pool, 4);
      const auto released_at = Clock::now();
      co_await four.release_all();
      co_await until_ready(pool, 2);
      EXPECT_GE(Clock::now() - released_at, idle_after);
    }
    const bool over = co_await soon([&] { return log.count(Event::Kind::reaped) == 4; });
    EXPECT_TRUE(over);
    for (const Event& event : log.all()) {
      EXPECT_TRUE(event.kind != Event::Kind::exited || (event.expected && event.exit && event.exit->success()));
    }
    EXPECT_EQ(log.count(Event::Kind::spawned), 6u);
    EXPECT_EQ(pool.stats().crashes, 0u);
    EXPECT_EQ(pool.stats().restarts, 0u);
    const auto reports = co_await pool.stop();
    EXPECT_EQ(reports.size(), 2u);
  });
}

// The worker that is used stays, in whatever slot it is.
TEST_F(OneElastic, LetsTheIdleWorkersGo) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(elastic_pool(1, 3, 100ms));
    const auto here = co_await asio::this_coro::executor;
    Blockers three(here, pool, 3);
    const bool all_run = co_await soon([&] { return pool.stats().in_flight == 3; });
    EXPECT_TRUE(all_run);
    const auto before = pids(pool);
    for (std::size_t i = 0; i < 3; ++i) co_await three.release(i);  // the first one has the first slot
    const int used = co_await pool.call<int>("pid");
    for (const auto until = Clock::now() + 10s; pool.stats().ready != 1 && Clock::now() < until;) {
      const int pid = co_await pool.call<int>("pid");
      EXPECT_EQ(pid, used);
      co_await pause_for(5ms);
    }
    EXPECT_EQ(pids(pool), std::vector<pid_t>{used});
    EXPECT_NE(pool.workers().front().slot, 0u);
    for (const pid_t pid : before) {
      const bool ended = pid == used || co_await sees_gone(pid);
      EXPECT_TRUE(ended);
    }
    co_await pool.stop();
  });
}

// The idle workers exit, while the one that has a call stays.
TEST_F(OneElastic, TakesNoWorkerThatHasACall) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(elastic_pool(1, 3, 20ms));
    const auto here = co_await asio::this_coro::executor;
    Blockers three(here, pool, 3);
    co_await until_ready(pool, 3);
    co_await three.release(0);
    co_await until_ready(pool, 2);
    co_await three.release(2);
    co_await until_ready(pool, 1);
    EXPECT_FALSE(three.done(1));
    EXPECT_EQ(pool.stats().in_flight, 1u);
    co_await three.release(1);
    EXPECT_EQ(pool.stats().crashes, 0u);
    co_await pool.stop();
  });
}

// Its caller has given up, but the routine still runs.
TEST_F(OneElastic, TakesNoWorkerWhoseCallWasGivenUp) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    WorkerPool pool = co_await WorkerPool::start(elastic_pool(1, 2, 20ms));
    const auto here = co_await asio::this_coro::executor;
    Blockers first(here, pool, 1);
    std::ofstream(folder.file("block")).close();
    const std::string begun = folder.file("begun"), block = folder.file("block");
    const Task<std::string> given_up(here, pool.call<std::string>("in_shell", "touch " + begun + "; while test -e " +
                                                                                  block + "; do sleep 0.01; done"));
    const bool both_run = co_await soon([&] { return std::filesystem::exists(begun); });
    EXPECT_TRUE(both_run);
    given_up.cancel();
    co_await given_up.failure();
    co_await first.release_all();
    co_await until_ready(pool, 1);
    EXPECT_EQ(pool.stats().in_flight, 1u) << "the idle one has ended";
    EXPECT_EQ(pool.workers().front().slot, 1u);
    std::filesystem::remove(block);
    co_await pool.stop();
  });
}

}  // namespace
