// Elastic pools that are resized, reloaded, recycled and hurt.
#include <algorithm>
#include <fstream>
#include <gtest/gtest.h>
#include <iterator>
#include <memory>
#include <signal.h>
#include <utility>
#include <vector>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/os/detail/cpu.hpp>
#include <drover/pool/detail/start_queue.hpp>

#include "support/elastic.hpp"

namespace {

using namespace support;
using drover::detail::StartQueue;

class ElasticChange : public CallsAnywhere {};
class OneElasticChange : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, ElasticChange, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// resize() sets the least number of workers, and the greatest as well if that would be less.
TEST_P(ElasticChange, ResizeChangesTheLeastNumber) {
  run_in_strand([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(elastic_pool(1, 3, 30ms));
    const auto here = co_await asio::this_coro::executor;
    const auto sizes = [&] { return std::pair(pool.stats().size, pool.stats().max_size); };
    const auto grow_to = [&](std::size_t count) { return std::make_unique<Blockers>(here, pool, count); };
    co_await pool.resize(2);
    EXPECT_EQ(sizes(), std::pair(std::size_t{2}, std::size_t{3}));
    EXPECT_EQ(pids(pool).size(), 2u);
    auto blockers = grow_to(4);
    co_await until_ready(pool, 3);
    co_await pool.resize(3);
    EXPECT_EQ(pids(pool).size(), 3u);
    co_await pool.resize(5);
    EXPECT_EQ(sizes(), std::pair(std::size_t{5}, std::size_t{5}));
    EXPECT_EQ(pids(pool).size(), 5u);
    co_await blockers->release_all();
    const auto five = pids(pool);
    co_await pool.resize(1);
    EXPECT_EQ(sizes(), std::pair(std::size_t{1}, std::size_t{5}));
    EXPECT_EQ(pids(pool).size(), 1u);
    for (const pid_t pid : five) EXPECT_TRUE(pid == pids(pool).front() || gone(pid)) << "resize() has waited for them";
    blockers = grow_to(9);
    co_await until_ready(pool, 5);
    co_await blockers->release_all();
    co_await until_ready(pool, 1);
    EXPECT_EQ(pool.stats().crashes, 0u);
    EXPECT_EQ(pool.stats().restarts, 0u);
    const auto reports = co_await pool.stop();
    EXPECT_EQ(reports.size(), 1u);
  });
}

// The size is what it was, and the workers that started go when they are idle.
TEST_F(OneElasticChange, ResizeThatFailsChangesNothing) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options =
        elastic_pool(1, 4, 30ms, {"exit-if", folder.file("broken"), "9", "wait-if", folder.file("slow")});
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    std::ofstream(folder.file("broken")).close();
    const Failure failure = co_await failure_of(pool.resize(6));
    EXPECT_TRUE(failure.exit && failure.exit->value == 9) << failure;
    EXPECT_EQ(pool.stats().size, 1u);
    EXPECT_EQ(pids(pool).size(), 1u);
    std::filesystem::remove(folder.file("broken"));
    // Those that were to be spawned already are, and are dropped at once: before the next one is spawned.
    co_await pool.resize(2);
    co_await pool.resize(1);
    const bool alone = co_await soon([&] { return pool.stats().per_worker.size() == 1; });
    EXPECT_TRUE(alone);

    std::ofstream(folder.file("slow")).close();
    const std::size_t before = log.count(Event::Kind::spawned);
    const std::size_t at_a_time = StartQueue::limit(drover::detail::available_cores());
    const Task<void> resize(co_await asio::this_coro::executor, pool.resize(at_a_time + 8));
    const bool begun = co_await soon([&] { return log.count(Event::Kind::spawned) == before + at_a_time; });
    EXPECT_TRUE(begun);
    EXPECT_EQ(pool.stats().size, at_a_time + 8);
    resize.cancel();
    const Failure cancelled = co_await resize.failure();
    EXPECT_TRUE(cancelled.aborted()) << cancelled;
    EXPECT_EQ(pool.stats().size, 1u);
    const bool dropped = co_await soon([&] { return pool.stats().workers == 1; });
    EXPECT_TRUE(dropped);
    EXPECT_EQ(log.count(Event::Kind::spawned), before + at_a_time);
    std::filesystem::remove(folder.file("slow"));
    co_await pool.resize(2);
    EXPECT_EQ(pids(pool).size(), 2u);
    co_await pool.stop();
  });
}

// The worker in the lowest slot is still being started.
TEST_F(OneElasticChange, ResizeKeepsTheWorkersThatAreReady) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = elastic_pool(1, 2, 50ms, {"wait-if", folder.file("slow")});
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    Blockers two(here, pool, 2);
    co_await until_ready(pool, 2);
    co_await two.release(0);
    co_await until_ready(pool, 1);
    co_await two.release(1);
    const auto one = pids(pool);
    EXPECT_EQ(pool.workers().front().slot, 1u);
    std::ofstream(folder.file("slow")).close();
    const Task<void> larger(here, pool.resize(2));
    const bool begun = co_await soon([&] { return log.count(Event::Kind::spawned) == 3; });
    EXPECT_TRUE(begun);
    co_await pool.resize(1);
    const Failure ended = co_await larger.failure();
    EXPECT_TRUE(ended.aborted()) << ended;
    EXPECT_EQ(pids(pool), one);
    co_await pool.stop();
  });
}

// The slot that gets dormant has a predecessor that still drains: it has shutdown_grace as well.
TEST_F(OneElasticChange, ResizeEndsThePredecessors) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = elastic_pool(2, 2, 60s);
    options.shutdown_grace = 100ms;
    const auto told = std::make_shared<ReadPipe>();
    options.worker.command.out = told->stdio();
    WorkerPool pool = co_await WorkerPool::start(options);
    std::vector<pid_t> by_slot(2);
    for (const auto& worker : pool.workers()) by_slot[worker.slot] = worker.pid;
    const auto here = co_await asio::this_coro::executor;
    const Task<std::string> one(here, pool.call<std::string>("nap", 60000, 0));
    const Task<std::string> two(here, pool.call<std::string>("nap", 60000, 0));
    co_await said(told, "napping");
    co_await said(told, "napping");
    const Task<drover::ReloadReport> reload(here, pool.reload());
    const bool first_replaced = co_await soon([&] { return pool.stats().restarts == 1; });
    EXPECT_TRUE(first_replaced);
    ::kill(by_slot[0], SIGKILL);  // or the reload would wait for its call
    const bool second_replaced = co_await soon([&] { return pool.stats().restarts == 2; });
    EXPECT_TRUE(second_replaced);
    co_await pool.resize(1);
    EXPECT_TRUE(gone(by_slot[1])) << "resize() returns when it has gone, too";
    const drover::ReloadReport report = co_await reload.result();
    EXPECT_EQ(report.replaced, 1u);
    co_await pool.stop();
  });
}

// Each reload replaces all workers that there are, and no call fails.
TEST_P(ElasticChange, IsReloadedWhileItGrowsAndShrinks) {
  run_in_strand([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = elastic_pool(2, 6, 10ms);
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    const auto tally = std::make_shared<Tally>();
    tally->left = 1;
    asio::co_spawn(here, bursts(pool, tally, 25ms, 20), asio::detached);
    for (int round = 1; tally->left != 0; ++round) {
      Command command = options.worker.command;
      command.args = {"sleep", "0"};
      command.args.insert(command.args.end(), {"sleep", "0"});
      command.env["DROVER_TEST_ROUND"] = std::to_string(round);
      const auto before = pids(pool);
      co_await pool.reload(command);
      EXPECT_FALSE(share_one(before, pids(pool)));
      const std::string seen = co_await pool.call<std::string>("in_shell", "echo $DROVER_TEST_ROUND");
      EXPECT_EQ(seen, std::to_string(round) + "\n");
    }
    EXPECT_EQ(tally->good, 8 * 20) << tally->text;
    co_await until_ready(pool, 2);
    EXPECT_GT(log.count(Event::Kind::spawned), 8u);
    EXPECT_EQ(pool.stats().crashes, 0u);
    co_await pool.stop();
  });
}

bool has_argument(pid_t pid, const std::string& argument) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/cmdline");
  const std::string line{std::istreambuf_iterator<char>(file), {}};
  return line.find(argument) != std::string::npos;
}

// A slot that wakes behind the reload runs the new command at once.
TEST_F(OneElasticChange, WakesASlotBehindAReload) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    PoolOptions options = elastic_pool(1, 2, 100ms);
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    Blockers two(here, pool, 2);
    co_await until_ready(pool, 2);
    co_await two.release(0);
    co_await until_ready(pool, 1);
    EXPECT_EQ(pool.workers().front().slot, 1u);
    Command command = options.worker.command;
    command.args = {"wait-if", folder.file("new")};
    const Task<drover::ReloadReport> reload(here, pool.reload(command));
    const bool replaced = co_await soon([&] { return pool.stats().restarts == 1; });
    EXPECT_TRUE(replaced);
    Blockers more(here, pool, 2);
    co_await until_ready(pool, 2);
    EXPECT_FALSE(reload.done()) << "the worker before still drains";
    for (const pid_t pid : pids(pool)) EXPECT_TRUE(has_argument(pid, folder.file("new")));
    co_await two.release_all();
    const drover::ReloadReport report = co_await reload.result();
    EXPECT_EQ(report.replaced, 1u);
    co_await more.release_all();
    co_await pool.stop();
  });
}

// The reload has begun with a slot that was about to wake for a call, which is cancelled then.
TEST_F(OneElasticChange, ReloadsASlotThatNoCallWaitsForAnyMore) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(elastic_pool(1, 2, 100ms));
    const auto here = co_await asio::this_coro::executor;
    Blockers two(here, pool, 2);
    co_await until_ready(pool, 2);
    co_await two.release(0);
    co_await until_ready(pool, 1);
    EXPECT_EQ(pool.workers().front().slot, 1u);
    const Task<std::string> cancelled(here, pool.call<std::string>("doze", 60000));
    for (int i = 0; i < 2; ++i) co_await asio::post(here, asio::use_awaitable);
    const Task<drover::ReloadReport> reload(here, pool.reload());
    cancelled.cancel();
    co_await cancelled.failure();
    co_await two.release(1);
    const drover::ReloadReport report = co_await reload.result();
    EXPECT_EQ(report.replaced, 2u);
    co_await pool.stop();
  });
}

// A slot that wakes ahead of the reload is replaced when the reload gets there.
TEST_F(OneElasticChange, WakesSlotsAheadOfAReload) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    PoolOptions options = elastic_pool(1, 3, 60s);
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    Blockers one(here, pool, 1);
    Command command = options.worker.command;
    command.args = {"wait-if", folder.file("new")};
    const Task<drover::ReloadReport> reload(here, pool.reload(command));
    const bool replaced = co_await soon([&] { return pool.stats().restarts == 1; });
    EXPECT_TRUE(replaced);
    Blockers more(here, pool, 3);
    co_await until_ready(pool, 3);
    EXPECT_FALSE(reload.done()) << "the first worker still drains";
    co_await one.release_all();
    co_await more.release_all();
    const drover::ReloadReport report = co_await reload.result();
    EXPECT_EQ(report.replaced, 3u);
    for (const pid_t pid : pids(pool)) EXPECT_TRUE(has_argument(pid, folder.file("new")));
    co_await pool.stop();
  });
}

// Workers are recycled after five calls or so, and no call fails.
TEST_P(ElasticChange, RecyclesWhileItGrowsAndShrinks) {
  run_in_strand([]() -> asio::awaitable<void> {
    PoolOptions options = elastic_pool(1, 5, 10ms);
    options.recycle = {.calls = 5, .age = {}, .rss = 0, .jitter = 0.1, .drain = {}};
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto tally = std::make_shared<Tally>();
    tally->left = 1;
    co_await bursts(pool, tally, 20ms, 20);
    EXPECT_EQ(tally->good, 8 * 20) << tally->text;
    co_await until_ready(pool, 1);
    EXPECT_GT(pool.stats().restarts, 0u);
    EXPECT_EQ(pool.stats().crashes, 0u);
    co_await pool.stop();
  });
}

// It took longer to start than idle_after.
TEST_F(OneElasticChange, NewWorkerStaysAsLongAsAnyOther) {
  on_one_thread([]() -> asio::awaitable<void> {
    constexpr Duration idle_after = 200ms;
    const Folder folder;
    EventLog log;
    PoolOptions options = elastic_pool(1, 2, idle_after, {"wait-if", folder.file("slow")});
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    std::ofstream(folder.file("slow")).close();
    const auto here = co_await asio::this_coro::executor;
    Blockers blocker(here, pool, 1);
    const Task<std::string> cancelled(here, pool.call<std::string>("doze", 60000));
    const bool begun = co_await soon([&] { return log.count(Event::Kind::spawned) == 2; });
    EXPECT_TRUE(begun);
    cancelled.cancel();
    co_await cancelled.failure();
    co_await pause_for(2 * idle_after);
    std::filesystem::remove(folder.file("slow"));
    const bool over = co_await soon([&] { return log.count(Event::Kind::stopping) == 1; });
    EXPECT_TRUE(over);
    Clock::time_point ready_at, stopped_at;
    for (const Event& event : log.all()) {
      if (event.kind == Event::Kind::ready) ready_at = event.at;
      if (event.kind == Event::Kind::stopping) stopped_at = event.at;
    }
    EXPECT_EQ(log.count(Event::Kind::ready), 2u);
    EXPECT_GE(stopped_at - ready_at + 1ms, idle_after);
    co_await blocker.release_all();
    co_await pool.stop();
  });
}

// A worker that is replaced while it is idle does not count as used.
TEST_F(OneElasticChange, ShrinksAlthoughItsWorkersGetOld) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = elastic_pool(1, 3, 400ms);
    options.recycle.age = 100ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    Blockers three(co_await asio::this_coro::executor, pool, 3);
    co_await until_ready(pool, 3);
    co_await three.release_all();
    co_await until_ready(pool, 1);
    EXPECT_GT(pool.stats().restarts, 0u);
    co_await pool.stop();
  });
}

// A call that waits gets the spare worker at once, and another spare one is started.
TEST_F(OneElasticChange, GrowsByASpareWorker) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = elastic_pool(1, 2, 50ms);
    options.spares = 1;
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto has_spare = [&] { return pool.stats().spares == 1; };
    bool ready = co_await soon(has_spare);
    EXPECT_TRUE(ready);
    pid_t spare = 0;
    for (const auto& worker : pool.stats().per_worker)
      if (worker.is_spare) spare = worker.pid;
    const auto here = co_await asio::this_coro::executor;
    Blockers blocker(here, pool, 1);
    const int pid = co_await pool.call<int>("pid");
    EXPECT_EQ(pid, spare);
    ready = co_await soon(has_spare);
    EXPECT_TRUE(ready);
    EXPECT_EQ(pool.stats().restarts, 0u);
    co_await blocker.release_all();
    co_await until_ready(pool, 1);
    EXPECT_EQ(pool.stats().spares, 1u);
    co_await pool.stop();
  });
}

// Its first worker is started because a call waits; resize() makes the slot one of those that stay.
TEST_F(OneElasticChange, AwaitsAWorkerThatStartsAlready) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    PoolOptions options = elastic_pool(1, 3, 60s);
    options.worker.command.args = std::vector<std::string>{"wait-if", folder.file("wait")};
    WorkerPool pool = co_await WorkerPool::start(options);
    std::ofstream(folder.file("wait")) << "";
    const auto here = co_await asio::this_coro::executor;
    Blockers two(here, pool, 2);
    const bool starts = co_await soon([&] { return pool.stats().workers == 2; });
    EXPECT_TRUE(starts);
    Task<void> resize(here, pool.resize(2));
    co_await pause_for(50ms);
    EXPECT_FALSE(resize.done());
    std::filesystem::remove(folder.file("wait"));
    co_await resize.result();
    EXPECT_EQ(pool.workers().size(), 2u);
    co_await two.release_all();
    co_await pool.stop();
  });
}

}  // namespace
