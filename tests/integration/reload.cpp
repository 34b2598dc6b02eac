// reload(): all workers of a pool are replaced, one slot after another, while calls go on.
#include <gtest/gtest.h>
#include <signal.h>
#include <thread>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>

#include "support/callers.hpp"
#include "support/fleet.hpp"

namespace {

using namespace support;
using drover::ReloadReport;

class Reload : public CallsAnywhere {};
class OneReload : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, Reload, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// Three workers exit well and are replaced, one at a time. None of them counts as a crash.
TEST_P(Reload, ReplacesAllWorkers) {
  run_scenario([]() -> asio::awaitable<void> {
    const EventLog log;
    WorkerPool pool = co_await WorkerPool::start(logged_pool(3, log));
    const auto before = pids(pool);
    const ReloadReport report = co_await pool.reload();
    const auto after = pids(pool);
    EXPECT_EQ(report.replaced, 3u);
    EXPECT_EQ(report.stopped.size(), 3u);
    for (const StopReport& stop : report.stopped) {
      EXPECT_FALSE(stop.rpc) << stop.rpc.message();
      EXPECT_TRUE(stop.exit.success() && !stop.terminated) << stop.exit.to_string();
    }
    EXPECT_GT(report.elapsed, Duration::zero());
    EXPECT_EQ(after.size(), 3u);
    EXPECT_FALSE(share_one(before, after));
    for (const pid_t pid : before) EXPECT_TRUE(gone(pid));
    const int nine = co_await pool.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    const drover::PoolStats stats = pool.stats();
    EXPECT_EQ(stats.crashes, 0u);
    EXPECT_EQ(stats.restarts, 3u);
    co_await pool.stop();
    const bool told = co_await soon([&] { return log.count(Event::Kind::reaped) == 6; });
    EXPECT_TRUE(told);
    EXPECT_EQ(log.count(Event::Kind::replacing), 3u);
    const Extremes extremes = extremes_of(log, 3);
    EXPECT_EQ(extremes.most_processes, 4u) << "one worker too many at a time";
  });
}

asio::awaitable<void> reload_under_load(std::size_t max_in_flight) {
  const EventLog log;
  PoolOptions options = logged_pool(3, log);
  options.worker.max_in_flight = max_in_flight;
  WorkerPool pool = co_await WorkerPool::start(options);
  constexpr int callers = 16, calls = 300;
  const auto tally = spawn_callers(co_await asio::this_coro::executor, pool, callers, calls);
  std::size_t reloads = 0;
  for (; tally->left != 0; ++reloads) {
    const ReloadReport report = co_await pool.reload();
    EXPECT_EQ(report.replaced, 3u);
  }
  EXPECT_EQ(tally->good, callers * calls)
      << tally->exited << " worker_exited, " << tally->other << " others; the last: " << tally->text;
  EXPECT_EQ(pool.stats().crashes, 0u);
  EXPECT_EQ(pool.stats().restarts, 3 * reloads);
  const bool told = co_await soon([&] { return log.count(Event::Kind::reaped) == 3 * reloads; });
  EXPECT_TRUE(told);
  const Extremes extremes = extremes_of(log, 3);
  EXPECT_EQ(extremes.most_processes, 4u);
  EXPECT_EQ(extremes.fewest_ready, 3u) << "the pool was short of a worker";
  co_await pool.stop();
}

// All calls succeed while the pool is reloaded again and again, and three workers are ready all the time.
TEST_P(Reload, LosesNoCallUnderLoad) {
  run_in_strand([] { return reload_under_load(1); });
}

// The same with up to eight calls in flight in each worker.
TEST_P(Reload, LosesNoCallOfManyInFlight) {
  run_in_strand([] { return reload_under_load(8); });
}

// The new command is also that of replacements of killed workers, and of a later reload().
TEST_F(OneReload, WithACommandRunsThatOneFromThenOn) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    options.restart.backoff = 1ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    Command command = options.worker.command;
    command.args = {"sleep", "1"};
    co_await pool.reload(command);
    for (int i = 0; i < 4; ++i) {
      const std::string arguments = co_await arguments_of_a_worker(pool);
      EXPECT_NE(arguments.find("sleep 1"), std::string::npos) << arguments;
    }
    const auto before = pids(pool);
    for (const pid_t pid : before) ::kill(pid, SIGKILL);
    const bool restarted = co_await soon([&] { return pids(pool).size() == 2 && !share_one(before, pids(pool)); });
    EXPECT_TRUE(restarted);
    const std::string of_another = co_await arguments_of_a_worker(pool);
    EXPECT_NE(of_another.find("sleep 1"), std::string::npos) << of_another;
    co_await pool.reload();
    const std::string of_the_last = co_await arguments_of_a_worker(pool);
    EXPECT_NE(of_the_last.find("sleep 1"), std::string::npos) << of_the_last;
    co_await pool.stop();
  });
}

// If the successor exits before it is ready, the old workers go on, and a later reload() succeeds.
TEST_F(OneReload, StopsAtTheFirstSuccessorThatDoesNotGetReady) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    PoolOptions options = call_pool(3, {"exit-if", folder.file("broken"), "9"});
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto before = pids(pool);
    std::ofstream(folder.file("broken")).close();
    const Failure failure = co_await failure_of(pool.reload());
    EXPECT_EQ(failure, Errc::start_failed) << failure;
    EXPECT_TRUE(failure.exit && failure.exit->value == 9) << failure;
    EXPECT_EQ(pids(pool), before);
    const int nine = co_await pool.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    std::filesystem::remove(folder.file("broken"));
    const ReloadReport report = co_await pool.reload();
    EXPECT_EQ(report.replaced, 3u);
    EXPECT_FALSE(share_one(before, pids(pool)));
    co_await pool.stop();
  });
}

// The slots that it had come to keep the new command, the others the old one.
TEST_F(OneReload, ThatFailsInTheMiddleLeavesTheOthersAsTheyWere) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    const EventLog log;
    PoolOptions options = logged_pool(3, log);
    options.restart.backoff = 1ms;
    EventLog copy = log;
    options.worker.on_event = [handler = copy.handler(), log, file = folder.file("broken")](const Event& event) {
      handler(event);
      if (event.kind == Event::Kind::ready && log.count(Event::Kind::ready) == 4) std::ofstream(file).close();
    };
    WorkerPool pool = co_await WorkerPool::start(options);
    Command command = options.worker.command;
    command.args = {"exit-if", folder.file("broken"), "9"};
    const Failure failure = co_await failure_of(pool.reload(command));
    EXPECT_TRUE(failure.exit && failure.exit->value == 9) << failure;
    const auto before = pids(pool);
    EXPECT_EQ(before.size(), 3u);
    std::filesystem::remove(folder.file("broken"));
    for (const pid_t pid : before) ::kill(pid, SIGKILL);
    const bool restarted = co_await soon([&] { return pids(pool).size() == 3 && !share_one(before, pids(pool)); });
    EXPECT_TRUE(restarted);
    std::size_t with_new_command = 0;
    for (const auto& worker : pool.workers()) {
      std::ifstream file("/proc/" + std::to_string(worker.pid) + "/cmdline");
      const std::string arguments{std::istreambuf_iterator<char>(file), {}};
      if (arguments.find("exit-if") != std::string::npos) ++with_new_command;
    }
    EXPECT_EQ(with_new_command, 1u);
    co_await pool.stop();
  });
}

// A command that is empty, missing or no worker fails the reload, and the old workers go on.
TEST_F(OneReload, ToAProgramThatIsNoWorkerFails) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(2));
    const auto before = pids(pool);
    Command command;
    const Failure empty = co_await failure_of(pool.reload(command));
    EXPECT_TRUE(empty.argument) << empty;
    EXPECT_NE(empty.text.find("reload()"), std::string::npos) << empty;
    command.program = "/there/is/no/such/program";
    const Failure missing = co_await failure_of(pool.reload(command));
    EXPECT_EQ(missing.code, std::errc::no_such_file_or_directory) << missing;
    command.program = "true";
    const Failure no_worker = co_await failure_of(pool.reload(command));
    EXPECT_EQ(no_worker, Errc::start_failed) << no_worker;
    EXPECT_EQ(pids(pool), before);
    const int nine = co_await pool.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    co_await pool.stop();
    const Failure stopped = co_await failure_of(pool.reload());
    EXPECT_EQ(stopped, Errc::stopping) << stopped;
    WorkerPool none;
    const Failure of_none = co_await failure_of(none.reload());
    EXPECT_EQ(of_none, Errc::not_running) << of_none;
  });
}

// Cancelling a reload stops its successor. The old workers and their command stay.
TEST_F(OneReload, CancelledOneLeavesTheWorkersThatAreThere) {
  on_one_thread([]() -> asio::awaitable<void> {
    const EventLog log;
    PoolOptions options = logged_pool(2, log);
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto before = pids(pool);
    const Task<ReloadReport> reload(co_await asio::this_coro::executor, pool.reload(slow_command(options)));
    const bool begun = co_await soon([&] { return log.count(Event::Kind::spawned) == 3; });
    EXPECT_TRUE(begun);
    reload.cancel();
    const Failure failure = co_await reload.failure();
    EXPECT_TRUE(failure.aborted()) << failure;
    const bool dropped = co_await soon([&] { return log.count(Event::Kind::reaped) == 1; });
    EXPECT_TRUE(dropped) << "the successor is stopped";
    EXPECT_EQ(pids(pool), before);
    EXPECT_EQ(pool.stats().crashes, 0u);
    const ReloadReport report = co_await pool.reload();
    EXPECT_EQ(report.replaced, 2u);
    const std::string arguments = co_await arguments_of_a_worker(pool);
    EXPECT_EQ(arguments.find("30000"), std::string::npos) << arguments;
    co_await pool.stop();
  });
}

// Before its turn, and before anybody has waited for it.
TEST_F(OneReload, LaterOnesWaitAndMayBeCancelled) {
  on_one_thread([]() -> asio::awaitable<void> {
    const EventLog log;
    PoolOptions options = logged_pool(2, log);
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    const Task<ReloadReport> first(here, pool.reload());
    const Task<ReloadReport> second(here, pool.reload(slow_command(options)));
    const Task<ReloadReport> third(here, pool.reload());
    co_await pause_for(0ms);
    second.cancel();
    const Failure failure = co_await second.failure();
    EXPECT_TRUE(failure.aborted()) << failure;
    const ReloadReport of_first = co_await first.result();
    const ReloadReport of_third = co_await third.result();
    EXPECT_EQ(of_first.replaced, 2u);
    EXPECT_EQ(of_third.replaced, 2u);
    EXPECT_EQ(log.count(Event::Kind::spawned), 6u);
    co_await pool.stop();
  });
}

// A stop ends a reload that waits for a successor with Errc::stopping, and the successor with it.
TEST_F(OneReload, EndsWithTheStop) {
  on_one_thread([]() -> asio::awaitable<void> {
    const EventLog log;
    PoolOptions options = logged_pool(2, log);
    WorkerPool pool = co_await WorkerPool::start(options);
    const Task<ReloadReport> reload(co_await asio::this_coro::executor, pool.reload(slow_command(options)));
    const bool begun = co_await soon([&] { return log.count(Event::Kind::spawned) == 3; });
    EXPECT_TRUE(begun);
    const auto reports = co_await pool.stop();
    EXPECT_EQ(reports.size(), 2u);
    const Failure failure = co_await reload.failure();
    EXPECT_EQ(failure, Errc::stopping) << failure;
    EXPECT_EQ(log.count(Event::Kind::reaped), 3u);
  });
}

// The destructor of the pool ends a reload with operation_aborted.
TEST_F(OneReload, EndsWithThePool) {
  on_one_thread([]() -> asio::awaitable<void> {
    const EventLog log;
    PoolOptions options = logged_pool(2, log);
    auto pool = std::make_unique<WorkerPool>(co_await WorkerPool::start(options));
    const Task<ReloadReport> reload(co_await asio::this_coro::executor, pool->reload(slow_command(options)));
    const bool begun = co_await soon([&] { return log.count(Event::Kind::spawned) == 3; });
    EXPECT_TRUE(begun);
    pool.reset();
    const Failure failure = co_await reload.failure();
    EXPECT_TRUE(failure.aborted()) << failure;
  });
}

}  // namespace
