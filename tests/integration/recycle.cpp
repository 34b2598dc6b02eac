// Workers that are well are replaced because of their calls, their age or their memory; slots come and go.
#include <gtest/gtest.h>
#include <limits>
#include <signal.h>

#include "support/callers.hpp"
#include "support/fleet.hpp"

namespace {

using namespace support;

class Recycle : public Calls {};
class SlotEnvironment : public Calls {};

// The tenth answer of a worker has it replaced, not the ninth. Its successor counts from zero.
TEST_F(Recycle, AfterSoManyCalls) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = call_pool(1);
    options.recycle = {.calls = 10, .jitter = 0};
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto first = pids(pool);
    for (int i = 0; i < 9; ++i) co_await pool.call("nothing");
    EXPECT_EQ(log.count(Event::Kind::replacing), 0u);
    co_await pool.call("nothing");
    const bool replaced = co_await soon([&] { return log.count(Event::Kind::reaped) == 1; });
    EXPECT_TRUE(replaced);
    EXPECT_NE(pids(pool), first);
    for (int i = 0; i < 9; ++i) co_await pool.call("nothing");
    EXPECT_EQ(log.count(Event::Kind::replacing), 1u) << "the successor begins anew";
    EXPECT_EQ(pool.stats().restarts, 1u);
    EXPECT_EQ(pool.stats().crashes, 0u);
    co_await pool.stop();
  });
}

// All calls succeed while workers are recycled, one at a time.
TEST_F(Recycle, LosesNoCallUnderLoad) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = call_pool(4);
    options.recycle = {.calls = 100, .jitter = 0.5};
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    constexpr int callers = 32, calls = 400;
    const auto tally = spawn_callers(co_await asio::this_coro::executor, pool, callers, calls);
    while (tally->left != 0) co_await pause_for(1ms);
    EXPECT_EQ(tally->good, callers * calls) << tally->text;
    EXPECT_GT(pool.stats().restarts, 0u);
    EXPECT_EQ(pool.stats().crashes, 0u);
    co_await pool.stop();
    const Extremes extremes = extremes_of(log, 4);
    EXPECT_EQ(extremes.most_processes, 5u) << "one planned replacement at a time";
  });
}

// Workers are replaced at an age of 100 ms, and so are their successors.
TEST_F(Recycle, AtAnAge) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = call_pool(2);
    options.recycle = {.age = 100ms, .jitter = 0};
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto start = Clock::now();
    const auto first = pids(pool);
    const bool replaced = co_await soon([&] { return log.count(Event::Kind::reaped) >= 4; });
    EXPECT_TRUE(replaced);
    EXPECT_GE(since(start), 200ms) << "twice in each slot";
    EXPECT_FALSE(share_one(first, pids(pool)));
    EXPECT_EQ(pool.stats().crashes, 0u);
    co_await pool.stop();
  });
}

// One worker's memory grows, and it is replaced; the other one stays.
TEST_F(Recycle, ByResidentSet) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = call_pool(2);
    options.recycle = {.rss = std::size_t{256} << 20};
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto first = pids(pool);
    co_await pool.call("leak", std::uint64_t{256} << 20);
    const bool replaced = co_await soon([&] { return log.count(Event::Kind::reaped) == 1; });
    EXPECT_TRUE(replaced);
    const auto second = pids(pool);
    EXPECT_EQ(second.size(), 2u);
    EXPECT_TRUE(share_one(first, second)) << "the other worker has not leaked";
    EXPECT_EQ(log.count(Event::Kind::replacing), 1u);
    co_await pool.stop();
  });
}

// A limit below the memory of a new worker would recycle it for ever: the start fails.
TEST_F(Recycle, RefusesAResidentSetThatNoWorkerKeeps) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    options.recycle.rss = 4096;
    const Failure failure = co_await failure_of(WorkerPool::start(options));
    EXPECT_EQ(failure, Errc::start_failed) << failure;
    EXPECT_NE(failure.text.find("RecyclePolicy::rss is 4096"), std::string::npos) << failure;
  });
}

// An age of zero, a jitter that is no share and a negative drain are errors that name the option.
TEST_F(Recycle, RefusesNonsense) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.recycle = {.age = 0s};
    const Failure age = co_await failure_of(WorkerPool::start(options));
    EXPECT_TRUE(age.argument && age.text.find("RecyclePolicy::age") != std::string::npos) << age;
    for (const double jitter : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
      options.recycle = {.jitter = jitter};
      const Failure failure = co_await failure_of(WorkerPool::start(options));
      EXPECT_TRUE(failure.argument && failure.text.find("RecyclePolicy::jitter") != std::string::npos) << failure;
    }
    options.recycle = {.drain = -1s};
    const Failure drain = co_await failure_of(WorkerPool::start(options));
    EXPECT_TRUE(drain.argument && drain.text.find("RecyclePolicy::drain") != std::string::npos) << drain;
  });
}

// The successor does not get ready: the worker goes on, and another successor is tried a second later.
TEST_F(Recycle, IsTriedAgainIfTheSuccessorFails) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = call_pool(1, {"exit-if", folder.file("broken"), "9"});
    options.recycle = {.calls = 1};
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto first = pids(pool);
    std::ofstream(folder.file("broken")).close();
    co_await pool.call("nothing");
    const bool failed = co_await soon([&] { return log.count(Event::Kind::reaped) == 1; });
    EXPECT_TRUE(failed);
    for (int i = 0; i < 20; ++i) co_await pool.call("nothing");
    EXPECT_EQ(pids(pool), first);
    EXPECT_EQ(log.count(Event::Kind::replacing), 1u);
    std::filesystem::remove(folder.file("broken"));
    const bool replaced = co_await soon([&] { return log.count(Event::Kind::reaped) == 2; });
    EXPECT_TRUE(replaced);
    EXPECT_NE(pids(pool), first);
    co_await pool.stop();
  });
}

/// Of as many workers as there are, each of which is busy meanwhile.
asio::awaitable<std::set<std::string>> ports_of_two_workers(WorkerPool& pool) {
  const auto here = co_await asio::this_coro::executor;
  const Task<std::string> one(here, pool.call<std::string>("in_shell", "sleep 0.2; echo $DROVER_TEST_PORT"));
  const Task<std::string> two(here, pool.call<std::string>("in_shell", "echo $DROVER_TEST_PORT"));
  std::set<std::string> ports;
  ports.insert(co_await one.result());
  ports.insert(co_await two.result());
  co_return ports;
}

// Each slot has its variables, and keeps them whoever works there.
TEST_F(SlotEnvironment, IsKeptByReplacements) {
  on_one_thread([]() -> asio::awaitable<void> {
    auto asked = std::make_shared<std::vector<std::size_t>>();
    PoolOptions options = call_pool(2);
    options.worker.command.env["DROVER_TEST_PORT"] = "none";
    options.restart.backoff = 1ms;
    options.slot_env = [asked](std::size_t slot) {
      asked->push_back(slot);
      return std::map<std::string, std::string>{{"DROVER_TEST_PORT", std::to_string(8000 + slot)}};
    };
    WorkerPool pool = co_await WorkerPool::start(options);
    for (int round = 0; round < 3; ++round) {
      const auto workers = pids(pool);
      const std::set<std::string> ports = co_await ports_of_two_workers(pool);
      EXPECT_EQ(ports, (std::set<std::string>{"8000\n", "8001\n"}));
      if (round == 0) {
        for (const pid_t pid : workers) ::kill(pid, SIGKILL);
        const bool restarted = co_await soon([&] { return pids(pool).size() == 2 && !share_one(workers, pids(pool)); });
        EXPECT_TRUE(restarted);
      } else {
        co_await pool.reload();
      }
    }
    EXPECT_EQ(*asked, (std::vector<std::size_t>{0, 1})) << "once for each slot";
    co_await pool.stop();
  });
}

// An empty name, a name with '=' and a value with NUL are refused at the start.
TEST_F(SlotEnvironment, RefusesWhatNoEnvironmentHolds) {
  on_one_thread([]() -> asio::awaitable<void> {
    for (const auto& [name, value] : {std::pair<std::string, std::string>{"", "x"}, {"a=b", "x"}, {"a", {"x\0y", 3}}}) {
      PoolOptions options = call_pool(1);
      options.slot_env = [name, value](std::size_t) { return std::map<std::string, std::string>{{name, value}}; };
      const Failure failure = co_await failure_of(WorkerPool::start(options));
      EXPECT_TRUE(failure.argument) << failure;
    }
  });
}

// An exception of PoolOptions::slot_env is that of start().
TEST_F(SlotEnvironment, ThrowsWhatItsFunctionThrows) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    options.slot_env = [](std::size_t slot) -> std::map<std::string, std::string> {
      if (slot == 1) throw std::runtime_error("no port is left");
      return {};
    };
    const Failure failure = co_await failure_of(WorkerPool::start(options));
    EXPECT_EQ(failure.text, "no port is left");
  });
}

asio::awaitable<void> start_into(std::shared_ptr<WorkerPool> pool, PoolOptions options) {
  *pool = co_await WorkerPool::start(std::move(options));
}

// A worker may be older than RecyclePolicy::age when the last one of the pool gets ready.
TEST_F(Recycle, BeginsOnceAllWorkersAreReady) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = call_pool(2, {"wait-if", folder.file("slow")});
    options.recycle = {.age = 1ms, .jitter = 0};
    options.worker.on_event = [handler = log.handler(), log, file = folder.file("slow")](const Event& event) {
      handler(event);
      // The second one gets ready long after the first one.
      if (event.kind == Event::Kind::spawned && log.count(Event::Kind::spawned) == 1) std::ofstream(file).close();
    };
    const auto pool = std::make_shared<WorkerPool>();
    const Task<void> start(co_await asio::this_coro::executor, start_into(pool, options));
    co_await pause_for(100ms);
    EXPECT_FALSE(start.done());
    EXPECT_EQ(log.count(Event::Kind::replacing), 0u);
    std::filesystem::remove(folder.file("slow"));
    co_await start.result();
    EXPECT_GE(pids(*pool).size(), 2u);
    const bool recycled = co_await soon([&] { return log.count(Event::Kind::replacing) >= 2; });
    EXPECT_TRUE(recycled);
    co_await pool->stop();
  });
}

// The limit is reached while a reload tries a successor, which fails: the worker is recycled all the same.
TEST_F(Recycle, IsNotForgottenWhenAReloadFails) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = call_pool(1);
    options.recycle = {.calls = 10, .jitter = 0};
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto before = pids(pool);
    Command command = options.worker.command;
    command.args = {"sleep", "30000"};
    const Task<drover::ReloadReport> reload(co_await asio::this_coro::executor, pool.reload(command));
    const bool begun = co_await soon([&] { return log.count(Event::Kind::spawned) == 2; });
    EXPECT_TRUE(begun);
    for (int i = 0; i < 20; ++i) co_await pool.call("nothing");
    reload.cancel();
    const Failure failure = co_await reload.failure();
    EXPECT_TRUE(failure.aborted()) << failure;
    const bool recycled = co_await soon([&] { return pids(pool).size() == 1 && pids(pool) != before; });
    EXPECT_TRUE(recycled);
    co_await pool.stop();
  });
}

}  // namespace
