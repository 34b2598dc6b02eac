// Launch::fork: workers that are copies of a process of the same program.
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <signal.h>

#include "support/callers.hpp"
#include "support/forking.hpp"

namespace {

using namespace support;

class ForkServer : public CallsAnywhere {};
class OneForkServer : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, ForkServer, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// ---- replacements ---------------------------------------------------------------------------------------------------

// Five replacements, a spare worker and the workers of two new slots are copies of one server.
TEST_P(ForkServer, MakesReplacementsToo) {
  run_in_strand([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = forking_pool(2);
    options.worker.on_event = log.handler();
    options.spares = 1;
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto first = co_await everyone(pool);
    for (int round = 0; round < 5; ++round) {
      const auto workers = pids(pool);
      co_await replace(pool, workers.front());
    }
    const bool spare = co_await soon([&] { return pool.stats().spares == 1; });
    EXPECT_TRUE(spare);
    co_await pool.resize(4);
    const auto last = co_await everyone(pool);
    EXPECT_EQ(last.size(), 4u);
    EXPECT_EQ(births(last), births(first));
    EXPECT_EQ(pool.stats().crashes, 5u);
    EXPECT_EQ(servers_in(log).size(), 1u);
    co_await pool.stop();
    EXPECT_EQ(causes_in(log), "");
  });
}

// Each SIGKILL of the server is one event. Its workers go on; the next ones are copies of a new server.
TEST_P(ForkServer, IsStartedAgainWhenItHasDied) {
  run_in_strand([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = forking_pool(2);
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    auto before = co_await everyone(pool);
    for (int round = 0; round < 3; ++round) {
      const auto servers = servers_in(log);
      EXPECT_EQ(servers.size(), 1u);
      ::kill(*servers.begin(), SIGKILL);
      const bool told = co_await soon([&] { return servers_in(log).empty(); });
      EXPECT_TRUE(told);
      EXPECT_EQ((co_await failure_of(pool.call("pid"))).text, "");  // its workers are none the worse
      const auto workers = pids(pool);
      for (const pid_t worker : workers) co_await replace(pool, worker);
      const auto after = co_await everyone(pool);
      EXPECT_EQ(births(after).size(), 1u);
      EXPECT_NE(births(after), births(before));
      before = after;
    }
    EXPECT_EQ(causes_in(log), "it was killed by SIGKILL\nit was killed by SIGKILL\nit was killed by SIGKILL\n");
    EXPECT_EQ(log.count(Event::Kind::fork_failed), 3u);
    EXPECT_EQ(pool.stats().crashes, 6u);  // the servers are no workers
    co_await pool.stop();
    EXPECT_EQ(servers_in(log).size(), 0u);
  });
}

// After more deaths than RestartPolicy::max_restarts no server is started, and workers are executed.
TEST_F(OneForkServer, RestsWhenItDiesTooOften) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = forking_pool(1);
    options.worker.on_event = log.handler();
    options.restart.max_restarts = 2;
    options.restart.max_backoff = 60s;
    WorkerPool pool = co_await WorkerPool::start(options);
    for (int death = 0; death < 3; ++death) {
      co_await pool.call("square", 1);  // a worker that has served may die
      const auto servers = servers_in(log);
      EXPECT_EQ(servers.size(), 1u);
      if (servers.empty()) co_return;
      ::kill(*servers.begin(), SIGKILL);
      const bool told = co_await soon([&] { return servers_in(log).empty(); });
      EXPECT_TRUE(told);
      const auto worker = pids(pool);
      co_await replace(pool, worker.front());
    }
    co_await pool.call("square", 1);
    EXPECT_EQ(servers_in(log).size(), 0u);  // the last worker has been executed
    const auto before = co_await everyone(pool);
    co_await replace(pool, before.begin()->first);
    const auto after = co_await everyone(pool);
    EXPECT_NE(births(after), births(before));
    EXPECT_EQ(servers_in(log).size(), 0u);
    co_await pool.stop();
  });
}

// A suspended server is killed after 500 ms. One worker is executed; a new server is started for the next one.
TEST_F(OneForkServer, ThatDoesNotAnswerIsKilled) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = forking_pool(1);
    options.restart.max_backoff = 1ms;
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto before = co_await everyone(pool);
    const auto servers = servers_in(log);
    ::kill(*servers.begin(), SIGSTOP);
    await_stopped(*servers.begin());
    co_await replace(pool, before.begin()->first);  // executed
    const bool killed = co_await soon([&] { return servers_in(log).empty(); });
    EXPECT_TRUE(killed);
    EXPECT_NE(causes_in(log).find("it did not answer within 500 ms"), std::string::npos) << causes_in(log);
    auto last = co_await everyone(pool);
    EXPECT_NE(births(last), births(before));
    co_await replace(pool, last.begin()->first);
    EXPECT_EQ(servers_in(log).size(), 1u);
    co_await pool.stop();
  });
}

// A server that takes long to get ready holds up no spare worker.
TEST_F(OneForkServer, IsNotNeededForASpareWorker) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = forking_pool(2, {"wait-if", folder.file("wait")});
    options.worker.on_event = log.handler();
    options.spares = 1;
    WorkerPool pool = co_await WorkerPool::start(options);
    const bool spare = co_await soon([&] { return pool.stats().spares == 1; });
    EXPECT_TRUE(spare);
    std::ofstream(folder.file("wait")) << "";
    for (const pid_t server : servers_in(log)) ::kill(server, SIGKILL);
    const bool told = co_await soon([&] { return servers_in(log).empty(); });
    EXPECT_TRUE(told);
    const auto workers = pids(pool);
    co_await replace(pool, workers.front());
    EXPECT_TRUE(std::filesystem::remove(folder.file("wait")));
    co_await pool.stop();
  });
}

// When a reload is cancelled, one of the two servers ends: nobody needs that of the new command.
TEST_F(OneForkServer, OfACancelledReloadEnds) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = forking_pool(3);
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto before = pids(pool);
    std::ofstream(folder.file("wait")) << "";
    Command slow = options.worker.command;
    slow.args = std::vector<std::string>{"wait-if", folder.file("wait")};
    Task<drover::ReloadReport> reload(co_await asio::this_coro::executor, pool.reload(slow));
    const bool two = co_await soon([&] { return servers_in(log).size() == 2; });
    EXPECT_TRUE(two);
    co_await replace(pool, before.back());  // the old server makes it
    reload.cancel();
    const Failure cancelled = co_await reload.failure();
    EXPECT_TRUE(cancelled.aborted()) << cancelled;
    std::filesystem::remove(folder.file("wait"));
    const bool one = co_await soon([&] { return servers_in(log).size() == 1; });  // nobody needs the new one
    EXPECT_TRUE(one);
    co_await pool.stop();
  });
}

// The slot that the reload has reached waits for the new server. The old server makes workers of the other slots
// meanwhile.
TEST_F(OneForkServer, HoldsUpNoSlotThatHasAnother) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = forking_pool(3);
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto in_slot = [&](std::size_t slot) {
      for (const auto& worker : pool.workers())
        if (worker.slot == slot) return worker.pid;
      return pid_t{0};
    };
    const auto here = co_await asio::this_coro::executor;
    std::vector<Task<std::string>> naps;  // the reload waits for that of the first slot
    for (int i = 0; i < 3; ++i) naps.emplace_back(here, pool.call<std::string>("nap", 60000, 0));
    const pid_t last = in_slot(2);
    const auto old_server = servers_in(log);
    Command other = options.worker.command;
    other.args = std::vector<std::string>{"wait-if", folder.file("wait")};
    const Task<drover::ReloadReport> reload(here, pool.reload(other));
    const bool reached = co_await soon([&] { return pool.stats().restarts == 1; });
    EXPECT_TRUE(reached);
    std::ofstream(folder.file("wait")) << "";
    for (const pid_t server : servers_in(log))
      if (!old_server.contains(server)) ::kill(server, SIGKILL);
    const bool told = co_await soon([&] { return servers_in(log) == old_server; });
    EXPECT_TRUE(told);
    ::kill(in_slot(0), SIGKILL);
    const bool waits = co_await soon([&] { return servers_in(log).size() == 2; });
    EXPECT_TRUE(waits);
    ::kill(last, SIGKILL);
    const bool replaced = co_await soon([&] { return in_slot(2) != 0 && in_slot(2) != last; });
    EXPECT_TRUE(replaced);
    EXPECT_EQ(in_slot(0), 0);
    std::filesystem::remove(folder.file("wait"));
    const drover::StopOptions at_once{.grace = 0s};
    co_await pool.stop(at_once);
  });
}

// ---- planned changes ------------------------------------------------------------------------------------------------

// The new workers are copies of a new server, and the old server has exited.
TEST_P(ForkServer, IsAnotherOneAfterAReload) {
  run_in_strand([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = forking_pool(3);
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto first = co_await everyone(pool);
    const auto server = servers_in(log);
    const auto report = co_await pool.reload();
    EXPECT_EQ(report.replaced, 3u);
    const auto second = co_await everyone(pool);
    EXPECT_EQ(births(second).size(), 1u);
    EXPECT_NE(births(second), births(first));
    const bool one = co_await soon([&] { return servers_in(log).size() == 1; });
    EXPECT_TRUE(one);
    EXPECT_NE(servers_in(log), server);
    co_await pool.stop();
    EXPECT_EQ(causes_in(log), "");
  });
}

// If the new command exits before it is ready, the old server makes the next worker.
TEST_P(ForkServer, StaysWhenAReloadFails) {
  run_in_strand([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = forking_pool(2);
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto first = co_await everyone(pool);
    const auto server = servers_in(log);
    Command broken = options.worker.command;
    broken.args = std::vector<std::string>{"exit"};
    const Failure failure = co_await failure_of(pool.reload(broken));
    EXPECT_TRUE(failure == Errc::start_failed) << failure;
    EXPECT_NE(failure.text.find("exited with code 9"), std::string::npos) << failure;
    const bool one = co_await soon([&] { return servers_in(log).size() == 1; });
    EXPECT_TRUE(one);
    EXPECT_EQ(servers_in(log), server);
    co_await replace(pool, first.begin()->first);
    const auto second = co_await everyone(pool);
    EXPECT_EQ(births(second), births(first));
    EXPECT_NE(causes_in(log).find("exited with code 9"), std::string::npos) << causes_in(log);
    co_await pool.stop();
  });
}

// ---- what is prepared once ------------------------------------------------------------------------------------------

// prepare runs once for all copies, and once in each worker that is executed.
TEST_P(ForkServer, PreparesOnceForAllWorkers) {
  run_in_strand([]() -> asio::awaitable<void> {
    PoolOptions options = forking_pool(2, {"prepare"});
    std::set<std::int64_t> seen;
    for (const Launch launch : {Launch::fork, Launch::exec}) {
      options.launch = launch;
      WorkerPool pool = co_await WorkerPool::start(options);
      std::set<std::int64_t> prepared;
      for (int round = 0; round < 3; ++round) {
        const auto when = co_await pool.call<std::int64_t>("prepared");
        EXPECT_NE(when, 0);
        prepared.insert(when);
        const auto workers = pids(pool);
        for (const pid_t worker : workers) co_await replace(pool, worker);
      }
      EXPECT_EQ(prepared.size(), launch == Launch::fork ? 1u : 3u);
      co_await pool.stop();
    }
  });
}

// Processes that it starts are no workers.
TEST_F(OneForkServer, PreparesOutsideOfAnyWorker) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = forking_pool(1, {"prepare-by", DROVER_HELPER_CALL_WORKER});
    for (const Launch launch : {Launch::fork, Launch::exec}) {
      options.launch = launch;
      WorkerPool pool = co_await WorkerPool::start(options);
      const auto code = co_await pool.call<std::int64_t>("prepared");
      EXPECT_EQ(code, 96);  // of an argument that it does not know
      co_await pool.stop();
    }
  });
}

// The start of the pool fails with the type and the text of what prepare throws, forked or executed.
TEST_F(OneForkServer, TellsWhatItsPreparationHasThrown) {
  for (const Launch launch : {Launch::fork, Launch::exec}) {
    on_one_thread([launch]() -> asio::awaitable<void> {
      PoolOptions options = forking_pool(2, {"prepare-badly"});
      options.launch = launch;
      const Failure failure = co_await failure_of(WorkerPool::start(options));
      EXPECT_TRUE(failure == Errc::start_failed) << failure;
      EXPECT_NE(failure.text.find("what it prepares threw std::runtime_error: no model"), std::string::npos) << failure;
    });
  }
}

// More slots are due than may start at a time, and go to sleep again.
TEST_F(OneForkServer, MakesWorkersOfAnElasticPool) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = forking_pool(1);
    options.worker.on_event = log.handler();
    options.max_size = 64;
    options.idle_after = 100ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto first = co_await everyone(pool);
    for (const Duration moment : {0ms, 1ms, 5ms, 20ms}) {
      Task<void> grow(co_await asio::this_coro::executor, pool.resize(64));
      co_await pause_for(moment);
      co_await pool.resize(1);
      co_await grow.ended();
    }
    std::vector<Task<Who>> calls;
    for (int i = 0; i < 100; ++i) calls.emplace_back(co_await asio::this_coro::executor, pool.call<Who>("who"));
    for (auto& call : calls) {
      const Who who = co_await call.result();
      EXPECT_EQ(std::get<1>(who), first.begin()->second);
    }
    const bool small = co_await soon([&] { return pool.workers().size() == 1; });
    EXPECT_TRUE(small);
    co_await pool.stop();
    EXPECT_EQ(causes_in(log), "");
  });
}

// ---- all at once ----------------------------------------------------------------------------------------------------

// Each call ends with its result or with the exit of its worker, and no more fail than workers are killed.
TEST_P(ForkServer, LosesNoCallWhileServersAndWorkersAreKilled) {
  run_in_strand([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = forking_pool(3);
    options.worker.on_event = log.handler();
    options.restart.max_restarts = 1000;
    WorkerPool pool = co_await WorkerPool::start(options);
    constexpr int callers = 12, calls = 150;
    const auto tally = spawn_callers(co_await asio::this_coro::executor, pool, callers, calls);
    int killed = 0;
    for (int next = 50; tally->left != 0; co_await pause_for(1ms)) {
      if (tally->good < next) continue;
      next = tally->good + 50;
      const auto workers = pids(pool);
      if (!workers.empty()) killed += ::kill(workers[static_cast<std::size_t>(next) % workers.size()], SIGKILL) == 0;
      if (next % 3 == 0)
        for (const pid_t server : servers_in(log)) ::kill(server, SIGKILL);
    }
    EXPECT_EQ(tally->good + tally->exited, callers * calls);
    EXPECT_LE(tally->exited, killed);
    EXPECT_EQ(tally->other, 0) << tally->text;
    co_await pool.stop();
    EXPECT_EQ(servers_in(log).size(), 0u);
  });
}

}  // namespace
