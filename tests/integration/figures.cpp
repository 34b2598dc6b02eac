// What a pool tells about its calls and its workers.
#include <algorithm>
#include <gtest/gtest.h>
#include <signal.h>
#include <string>
#include <vector>

#include <drover/pool/stats.hpp>

#include "support/calls.hpp"
#include "support/metrics_parser.hpp"

namespace {

using namespace support;
using drover::PoolStats;
using drover::WorkerDeaths;
using drover::WorkerFigures;

class PoolFigures : public CallsAnywhere {};
INSTANTIATE_TEST_SUITE_P(On, PoolFigures, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// A call that waits for a busy worker has that worker's time in its queue time.
TEST_P(PoolFigures, HaveTheTimesOfCalls) {
  run_scenario([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(1));
    EXPECT_EQ(pool.stats().queue_time.count(), 0u);
    const auto began = Clock::now();
    auto first = pool.call<std::string>("doze", 20);
    auto second = pool.call<std::string>("doze", 10);
    const Duration between = since(began);  // at most: the second one has not waited that long
    co_await std::move(first);
    co_await std::move(second);
    const PoolStats stats = pool.stats();
    const Duration passed = since(began);
    EXPECT_EQ(stats.queue_time.count(), 2u);
    EXPECT_EQ(stats.queue_time.count_at_most(0ns), 1u) << "the first one found an idle worker";
    EXPECT_EQ(stats.run_time.count(), 2u);
    EXPECT_GE(stats.queue_time.max(), 20ms - between);
    EXPECT_GE(stats.run_time.max(), 20ms);
    EXPECT_GE(stats.run_time.sum(), 30ms);
    EXPECT_LE(stats.run_time.sum(), passed);
    co_await pool.stop();
  });
}

// The oldest call of a worker is named, also after its caller has given up.
TEST_P(PoolFigures, NameTheOldestCallOfAWorker) {
  run_in_strand([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    PoolOptions options = call_pool(2);
    options.worker.max_in_flight = 2;
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto busiest = [&] {
      auto workers = pool.stats().per_worker;
      EXPECT_EQ(workers.size(), 2u);
      std::sort(workers.begin(), workers.end(), [](auto& a, auto& b) { return a.in_flight > b.in_flight; });
      return workers;
    };
    const auto began = Clock::now();
    Task long_call(here, pool.call<std::string>("work", 1000));
    co_await pause_for(5ms);
    auto workers = busiest();
    EXPECT_EQ(workers[0].in_flight, 1u);
    EXPECT_EQ(workers[0].oldest_routine, "work");
    EXPECT_GE(workers[0].oldest_call, 5ms);
    EXPECT_LE(workers[0].oldest_call, since(began));
    EXPECT_EQ(workers[0].calls, 0u);
    EXPECT_EQ(workers[1].in_flight, 0u);
    EXPECT_EQ(workers[1].oldest_call, 0ns);
    EXPECT_EQ(workers[1].oldest_routine, "");
    const pid_t busy = workers[0].pid;
    long_call.cancel();
    EXPECT_TRUE((co_await long_call.failure()).aborted());
    EXPECT_EQ(busiest()[0].oldest_routine, "work") << "the routine goes on";
    auto young = pool.call<std::string>("doze", 400), younger = pool.call<std::string>("doze", 400),
         youngest = pool.call<std::string>("doze", 400);  // one of them behind the long call
    workers = busiest();
    const auto worker = std::find_if(workers.begin(), workers.end(), [&](auto& each) { return each.pid == busy; });
    EXPECT_EQ(worker->in_flight, 2u);
    EXPECT_EQ(worker->oldest_routine, "work") << "the older one of the two";
    co_await std::move(young);
    co_await std::move(younger);
    co_await std::move(youngest);
    for (const WorkerFigures& each : busiest()) {
      EXPECT_EQ(each.in_flight, 0u);
      EXPECT_EQ(each.oldest_call, 0ns);
      EXPECT_EQ(each.oldest_routine, "");
      EXPECT_EQ(each.calls, 2u);
    }
    co_await pool.stop();
    EXPECT_TRUE(pool.stats().per_worker.empty());
  });
}

// Each process is there with its slot, its name, its memory and its CPU time.
TEST_P(PoolFigures, HaveMemoryAndCpuTimeOfEachWorker) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(3);
    options.worker.name = "hasher";
    WorkerPool pool = co_await WorkerPool::start(options);
    std::vector<pid_t> pids;
    for (const auto& worker : pool.workers()) pids.push_back(worker.pid);
    PoolStats stats = pool.stats();
    EXPECT_EQ(stats.per_worker.size(), 3u);
    for (std::size_t i = 0; i < stats.per_worker.size(); ++i) {
      const WorkerFigures& worker = stats.per_worker[i];
      EXPECT_EQ(worker.slot, i);
      EXPECT_EQ(worker.pid, pids[i]);
      EXPECT_EQ(worker.name, "hasher");
      EXPECT_TRUE(worker.ready);
      EXPECT_FALSE(worker.has_successor);
      EXPECT_GT(worker.rss, 500'000u);
      EXPECT_LT(worker.cpu_time, 60s);
    }
    const auto cpu_time = [&] {
      Duration sum{};
      for (const WorkerFigures& worker : pool.stats().per_worker) sum += worker.cpu_time;
      return sum;
    };
    const Duration before = cpu_time();
    bool worked = false;
    for (const auto until = Clock::now() + 30s; !worked && Clock::now() < until; worked = cpu_time() >= before + 50ms)
      co_await pool.call<std::vector<std::byte>>("bytes", std::uint64_t{4} << 20);
    EXPECT_TRUE(worked);
    co_await pool.stop();
  });
}

// Each death is counted once, by its cause, and the unexpected ones are the crashes.
TEST_P(PoolFigures, CountDeathsByTheirCause) {
  run_scenario([]() -> asio::awaitable<void> {
    const Folder folder;
    const std::string broken = folder.file("broken");
    PoolOptions options = call_pool(1, {"exit-if", broken, "23"});
    options.restart.backoff = 1ms;
    options.restart.max_backoff = 10ms;
    options.restart.max_restarts = 1000;
    WorkerPool pool = co_await WorkerPool::start(options);
    WorkerDeaths expected;
    const auto counted = [&] { return pool.stats().deaths == expected && pool.stats().ready == 1; };
    EXPECT_EQ(pool.stats().deaths, expected);

    co_await failure_of(pool.call("crash", SIGKILL));
    expected.crashed = 1;
    bool told = co_await soon(counted);
    EXPECT_TRUE(told) << "crashed";
    co_await failure_of(pool.call("exit", 0));
    co_await failure_of(pool.call("exit", 3));
    expected.exited = 2;
    told = co_await soon(counted);
    EXPECT_TRUE(told) << "exited";
    const CallOptions impatient{.deadline = 10ms, .kill_after = 1ms};
    EXPECT_TRUE(co_await failure_of(pool.call(impatient, "work", 60000)) == Errc::deadline_exceeded);
    expected.killed_for_call = 1;
    told = co_await soon(counted);
    EXPECT_TRUE(told) << "killed for a call";
    const Failure nonsense = co_await failure_of(pool.call("misbehave", "garbage", std::uint64_t{1}));
    EXPECT_TRUE(nonsense == Errc::protocol_error) << nonsense;
    expected.protocol_error = 1;
    told = co_await soon(counted);
    EXPECT_TRUE(told) << "protocol error";
    ::kill(pool.workers().front().pid, SIGTERM);
    expected.drained = 1;
    told = co_await soon(counted);
    EXPECT_TRUE(told) << "drained";

    std::ofstream(broken).put('!');
    co_await failure_of(pool.call("crash", SIGSEGV));
    told = co_await soon([&] { return pool.stats().deaths.failed_start >= 2; });
    EXPECT_TRUE(told) << "failed start";
    std::filesystem::remove(broken);
    told = co_await soon([&] { return pool.stats().ready == 1; });
    EXPECT_TRUE(told) << "ready again";
    const PoolStats stats = pool.stats();
    const WorkerDeaths& deaths = stats.deaths;
    EXPECT_EQ(deaths.crashed, 2u);
    EXPECT_EQ(stats.crashes, deaths.crashed + deaths.exited + deaths.failed_start + deaths.protocol_error);
    EXPECT_EQ(stats.restarts, stats.crashes + deaths.drained + deaths.killed_for_call);
    co_await pool.stop();
    EXPECT_EQ(pool.stats().deaths, deaths) << "a stop counts nothing";
  });
}

// A program that cannot be executed any more is a failed start, too.
TEST_P(PoolFigures, CountWorkersThatCannotBeSpawned) {
  run_scenario([]() -> asio::awaitable<void> {
    const Folder folder;
    PoolOptions options = call_pool(1);
    options.worker.command.program = folder.file("worker");
    std::filesystem::create_symlink(DROVER_HELPER_CALL_WORKER, options.worker.command.program);
    options.restart.backoff = 1ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    std::filesystem::remove(options.worker.command.program);
    co_await failure_of(pool.call("exit", 1));
    const bool told = co_await soon([&] { return pool.stats().deaths.failed_start >= 1; });
    EXPECT_TRUE(told);
    EXPECT_EQ(pool.stats().deaths.exited, 1u);
    co_await pool.stop();
  });
}

// While a worker drains, its successor is the worker of the slot.
TEST_P(PoolFigures, HaveBothWorkersOfASlot) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.worker.on_terminate = drover::OnTerminate::drain;
    auto told = std::make_shared<ReadPipe>();
    options.worker.command.out = told->stdio();
    WorkerPool pool = co_await WorkerPool::start(options);
    const pid_t first = pool.workers().front().pid;
    auto last_call = pool.call<std::string>("nap", 1000, 0);
    co_await said(told, "napping");
    ::kill(first, SIGTERM);
    const auto replaced = [&] { return pool.stats().per_worker.size() == 2 && pool.stats().ready == 1; };
    const bool both = co_await soon(replaced);
    EXPECT_TRUE(both);
    const PoolStats stats = pool.stats();
    EXPECT_EQ(stats.workers, 2u);
    if (stats.per_worker.size() == 2) {
      EXPECT_NE(stats.per_worker[0].pid, first);
      EXPECT_FALSE(stats.per_worker[0].has_successor);
      EXPECT_EQ(stats.per_worker[0].slot, 0u);
      EXPECT_EQ(stats.per_worker[1].pid, first);
      EXPECT_TRUE(stats.per_worker[1].has_successor);
      EXPECT_EQ(stats.per_worker[1].slot, 0u);
      EXPECT_EQ(stats.per_worker[1].in_flight, 1u);
      EXPECT_FALSE(stats.per_worker[1].ready);
    }
    EXPECT_EQ(MetricsParser::parse(pool.metrics()).at("drover_worker_calls_total").samples.size(), 1u);
    EXPECT_EQ(co_await std::move(last_call), "slept");
    const bool alone = co_await soon([&] { return pool.stats().per_worker.size() == 1; });
    EXPECT_TRUE(alone);
    co_await pool.stop();
  });
}

// The text has the figures of the pool, under the name of its workers.
TEST_P(PoolFigures, AreMetricsToo) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    options.worker.name = "a \"quoted\"\nname";
    WorkerPool pool = co_await WorkerPool::start(options);
    for (int i = 0; i < 10; ++i) (void)co_await pool.call<int>("square", i);
    const Labels labels{{"pool", "a \"quoted\"\nname"}};
    const auto metrics = MetricsParser::parse(pool.metrics());
    EXPECT_EQ(metrics.at("drover_calls_total").samples.at({"drover_calls_total", labels}), 10);
    EXPECT_EQ(metrics.at("drover_run_seconds").samples.at({"drover_run_seconds_count", labels}), 10);
    EXPECT_GT(metrics.at("drover_run_seconds").samples.at({"drover_run_seconds_sum", labels}), 0);
    EXPECT_EQ(metrics.at("drover_workers_ready").samples.at({"drover_workers_ready", labels}), 2);
    double answered = 0;
    for (const auto& [key, value] : metrics.at("drover_worker_calls_total").samples) answered += value;
    EXPECT_EQ(answered, 10);
    co_await pool.stop();
  });
}

asio::awaitable<void> keep_calling(WorkerPool& pool, int count) {
  for (int i = 0; i < count; ++i) (void)co_await failure_of(pool.call<int>("square", i));
}

// Figures are read by other threads while calls run and workers die.
TEST_P(PoolFigures, AreReadWhileWorkersDie) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(3);
    options.restart.backoff = 1ms;
    options.restart.max_backoff = 1ms;
    options.restart.max_restarts = 100'000;
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    std::atomic<bool> over{false};
    std::atomic<int> read{0};
    std::thread reader([&] {
      while (!over) {
        const PoolStats stats = pool.stats();
        EXPECT_LE(stats.per_worker.size(), stats.workers);
        EXPECT_LE(stats.run_time.count(), stats.queue_time.count());
        EXPECT_LE(stats.queue_time.count(), stats.calls);
        (void)MetricsParser::parse(pool.metrics());
        ++read;
      }
    });
    std::vector<Task<void>> callers;
    for (int i = 0; i < 4; ++i) callers.emplace_back(here, keep_calling(pool, 300));
    for (int i = 0; i < 8; ++i) {
      const int seen = read;
      const bool again = co_await soon([&] { return read > seen; });
      EXPECT_TRUE(again);
      for (const auto& worker : pool.workers()) ::kill(worker.pid, i % 2 == 0 ? SIGKILL : SIGTERM);
    }
    for (auto& caller : callers) co_await caller.ended();
    over = true;
    reader.join();
    const PoolStats stats = pool.stats();
    EXPECT_EQ(stats.calls, 1200u);
    EXPECT_EQ(stats.queue_time.count(), 1200u);
    EXPECT_EQ(stats.run_time.count(), 1200u);
    co_await pool.stop();
  });
}

// A pool that has never been started has no figures.
TEST(EmptyPoolFigures, AreEmpty) {
  const WorkerPool pool;
  EXPECT_TRUE(pool.stats().per_worker.empty());
  EXPECT_EQ(pool.metrics(), "");
}

}  // namespace
