// Launch::fork: workers that are copies of a process of the same program.
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

// ---- what a copy is like --------------------------------------------------------------------------------------------

TEST_P(ForkServer, MakesWorkersThatShareTheStartOfTheirProgram) {
  run_in_strand([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = forking_pool(3);
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto workers = co_await everyone(pool);
    EXPECT_EQ(births(workers).size(), 1u);
    EXPECT_EQ(pids(pool).size(), 3u);
    for (const auto& worker : pool.workers()) EXPECT_TRUE(workers.contains(worker.pid));
    const int parent = co_await pool.call<int>("parent");
    EXPECT_EQ(parent, ::getpid());
    EXPECT_EQ(servers_in(log).size(), 1u);
    EXPECT_FALSE(workers.contains(*servers_in(log).begin()));
    EXPECT_EQ(pool.stats().workers, 3u);
    EXPECT_EQ(pool.stats().per_worker.size(), 3u);
    const auto reports = co_await pool.stop();
    EXPECT_EQ(reports.size(), 3u);
    for (const StopReport& report : reports) EXPECT_EQ(report.to_string().find("exited with code 0"), 0u);
    EXPECT_EQ(servers_in(log).size(), 0u);
    EXPECT_EQ(log.count(Event::Kind::reaped), 4u);
    EXPECT_EQ(log.count(Event::Kind::kill_sent) + log.count(Event::Kind::terminate_sent), 0u);
    EXPECT_EQ(causes_in(log), "");
  });
}

/// What a worker finds.
struct Surroundings {
  std::map<std::string, std::string> variables;
  std::string folder, signals, limits;
  std::size_t descriptors = 0;
  std::size_t slot = 0;
  bool operator==(const Surroundings&) const = default;
};

asio::awaitable<Surroundings> surroundings(PoolOptions options) {
  WorkerPool pool = co_await WorkerPool::start(options);
  Surroundings found;
  found.variables = co_await pool.call<std::map<std::string, std::string>>("variables");
  found.folder = co_await pool.call<std::string>("folder");
  found.signals = co_await pool.call<std::string>("signals");
  found.limits =
      co_await pool.call<std::string>("in_shell", "cat /proc/$PPID/limits; tr '\\0' ' ' </proc/$PPID/cmdline");
  const auto descriptors = co_await pool.call<std::vector<std::string>>("descriptors");
  found.descriptors = descriptors.size();
  found.slot = co_await pool.call<std::size_t>("slot");
  const int pid = co_await pool.call<int>("pid");
  const int group = co_await pool.call<int>("group");
  EXPECT_EQ(pid, group);
  co_await pool.stop();
  co_return found;
}

TEST_P(ForkServer, MakesWorkersThatLookLikeExecutedOnes) {
  run_scenario([]() -> asio::awaitable<void> {
    const Folder folder;
    PoolOptions options = forking_pool(1, {"open"});
    options.worker.command.cwd = folder.file("");
    options.worker.command.in = Stdio::file("/dev/zero");
    options.worker.command.env["FROM_COMMAND"] = "of the command";
    options.worker.command.env["HOME"] = std::nullopt;
    options.slot_env = [](std::size_t slot) -> std::map<std::string, std::string> {
      return {{"FROM_SLOT", std::to_string(slot)}, {"EMPTY", ""}};
    };
    const Surroundings copy = co_await surroundings(options);
    options.launch = Launch::exec;
    const Surroundings executed = co_await surroundings(options);
    EXPECT_EQ(copy.variables, executed.variables);
    EXPECT_EQ(copy.variables.count("HOME"), 0u);
    EXPECT_EQ(copy.variables.count("DROVER_WORKER"), 0u);
    EXPECT_EQ(copy.variables.at("FROM_SLOT"), "0");
    EXPECT_EQ(copy.variables.at("EMPTY"), "");
    EXPECT_EQ(copy.folder, executed.folder);
    EXPECT_EQ(copy.signals, executed.signals);
    EXPECT_EQ(copy.limits, executed.limits);
    EXPECT_EQ(copy.descriptors, executed.descriptors);
    EXPECT_EQ(copy.slot, executed.slot);
  });
}

TEST_F(OneForkServer, MakesWorkersWhoseThreadsAndLocksWork) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = forking_pool(2);
    WorkerPool pool = co_await WorkerPool::start(options);
    for (int i = 0; i < 4; ++i) {
      const auto own = co_await pool.call<std::string>("own_mutex");
      EXPECT_EQ(own, "sound");
      const auto robust = co_await pool.call<std::string>("robust_mutex");
      EXPECT_EQ(robust, "sound");
      const auto ids = co_await pool.call<std::tuple<int, int>>("thread_id");
      EXPECT_EQ(std::get<0>(ids), std::get<1>(ids));
      const auto set = co_await pool.call<std::string>("set_variable", "AGAIN", std::to_string(i));
      EXPECT_EQ(set, std::to_string(i));
      const auto shell = co_await pool.call<std::string>("in_shell", "echo $AGAIN");
      EXPECT_EQ(shell, std::to_string(i) + "\n");
      const int inside = co_await pool.call<int>("run_inside");
      EXPECT_EQ(inside, 9);
    }
    co_await pool.stop();
  });
}

TEST_F(OneForkServer, DoesNotShareWhatItsWorkersChange) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = forking_pool(1);
    WorkerPool pool = co_await WorkerPool::start(options);
    for (int round = 0; round < 3; ++round) {
      for (int i = 1; i <= 3; ++i) {
        const int own = co_await pool.call<int>("own");
        EXPECT_EQ(own, i);
      }
      const auto worker = pids(pool);
      co_await replace(pool, worker.front());
    }
    co_await pool.stop();
  });
}

TEST_F(OneForkServer, GivesEachWorkerTheEnvironmentOfItsStart) {
  on_one_thread([]() -> asio::awaitable<void> {
    // More than a socket takes at once.
    const std::string large(100'000, 'x');
    PoolOptions options = forking_pool(1);
    for (int i = 0; i < 8; ++i) options.worker.command.env["LARGE_" + std::to_string(i)] = large;
    ::setenv("DROVER_TEST_ERA", "first", 1);
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto first = co_await pool.call<std::map<std::string, std::string>>("variables");
    EXPECT_EQ(first.at("DROVER_TEST_ERA"), "first");
    EXPECT_EQ(first.at("LARGE_7"), large);
    ::setenv("DROVER_TEST_ERA", "second", 1);
    const auto before = co_await everyone(pool);
    co_await replace(pool, before.begin()->first);
    const auto second = co_await pool.call<std::map<std::string, std::string>>("variables");
    EXPECT_EQ(second.at("DROVER_TEST_ERA"), "second");
    const auto after = co_await everyone(pool);
    EXPECT_EQ(births(after), births(before));
    co_await pool.stop();
    ::unsetenv("DROVER_TEST_ERA");
  });
}

TEST_F(OneForkServer, GivesEachWorkerItsOwnLines) {
  on_one_thread([]() -> asio::awaitable<void> {
    std::multiset<std::string> lines;
    PoolOptions options = forking_pool(2, {"say"});
    options.worker.command.out =
        Stdio::lines(co_await asio::this_coro::executor, [&lines](std::string_view line) { lines.emplace(line); });
    WorkerPool pool = co_await WorkerPool::start(options);
    for (const auto& worker : pool.workers()) {
      (void)worker;
      co_await pool.call("say", "hello");
    }
    co_await pool.stop();
    EXPECT_EQ(lines.count("started"), 1u);  // the program has started once
    EXPECT_EQ(lines.count("hello"), 2u);
  });
}

// ---- replacements ---------------------------------------------------------------------------------------------------

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
    EXPECT_NE(causes_in(log).find("killed by SIGKILL"), std::string::npos) << causes_in(log);
    EXPECT_EQ(log.count(Event::Kind::fork_failed), 3u);
    EXPECT_EQ(pool.stats().crashes, 6u);  // the servers are no workers
    co_await pool.stop();
    EXPECT_EQ(servers_in(log).size(), 0u);
  });
}

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

TEST_F(OneForkServer, ThatDoesNotAnswerIsKilled) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = forking_pool(1);
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto before = co_await everyone(pool);
    const auto servers = servers_in(log);
    ::kill(*servers.begin(), SIGSTOP);
    await_stopped(*servers.begin());
    co_await replace(pool, before.begin()->first);  // executed
    const bool killed = co_await soon([&] { return servers_in(log).empty(); });
    EXPECT_TRUE(killed);
    auto last = co_await everyone(pool);
    EXPECT_NE(births(last), births(before));
    co_await replace(pool, last.begin()->first);
    EXPECT_EQ(servers_in(log).size(), 1u);
    co_await pool.stop();
  });
}

// ---- planned changes ------------------------------------------------------------------------------------------------

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

TEST_F(OneForkServer, TellsWhatItsPreparationHasThrown) {
  for (const Launch launch : {Launch::fork, Launch::exec}) {
    on_one_thread([launch]() -> asio::awaitable<void> {
      PoolOptions options = forking_pool(2, {"prepare-badly"});
      options.launch = launch;
      const Failure failure = co_await failure_of(WorkerPool::start(options));
      EXPECT_TRUE(failure == Errc::start_failed) << failure;
      EXPECT_NE(failure.text.find("std::runtime_error: no model"), std::string::npos) << failure;
    });
  }
}

// ---- all at once ----------------------------------------------------------------------------------------------------

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
