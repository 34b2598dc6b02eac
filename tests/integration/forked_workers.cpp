// Launch::fork: what a worker is like that is a copy of a process of the same program.
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <string_view>

#include "support/forking.hpp"

namespace {

using namespace support;

class ForkedWorker : public CallsAnywhere {};
class OneForkedWorker : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, ForkedWorker, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// Three workers are copies of one server and children of the pool's process. All exit with code 0.
TEST_P(ForkedWorker, SharesTheStartOfItsProgram) {
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

// A copy has the environment, folder, signals, limits, descriptors and slot of an executed worker.
TEST_P(ForkedWorker, LooksLikeAnExecutedOne) {
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

// In a copy mutexes know their thread, variables can be set, and a shell and drover::run() work.
TEST_F(OneForkedWorker, HasThreadsAndLocksThatWork) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = forking_pool(2);
    WorkerPool pool = co_await WorkerPool::start(options);
    for (int i = 0; i < 4; ++i) {
      const auto own = co_await pool.call<std::string>("own_mutex");
      EXPECT_EQ(own, "sound");
      const auto robust = co_await pool.call<std::string>("robust_mutex");
      EXPECT_EQ(robust, "sound");
      const auto ids = co_await pool.call<std::tuple<int, int, bool>>("thread_id");
      EXPECT_EQ(std::get<0>(ids), std::get<1>(ids));
      EXPECT_TRUE(std::get<2>(ids));
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

// A counter of the program begins at one in each replacement.
TEST_F(OneForkedWorker, SharesNothingThatItChanges) {
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

// A replacement has the environment that the parent has when it starts; 800,000 bytes are not too many.
TEST_F(OneForkedWorker, HasTheEnvironmentOfItsStart) {
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

// Lines from before in_worker() arrive once, and those of each worker arrive, too.
TEST_F(OneForkedWorker, HasItsOwnLines) {
  on_one_thread([]() -> asio::awaitable<void> {
    std::multiset<std::string> lines;
    PoolOptions options = forking_pool(2, {"say", "print"});
    options.worker.command.out =
        Stdio::lines(co_await asio::this_coro::executor, [&lines](std::string_view line) { lines.emplace(line); });
    WorkerPool pool = co_await WorkerPool::start(options);
    for (const auto& worker : pool.workers()) {
      (void)worker;
      co_await pool.call("say", "hello");
    }
    co_await pool.stop();
    EXPECT_EQ(lines.count("started"), 1u);  // the program has started once
    EXPECT_EQ(lines.count("printed"), 1u);
    EXPECT_EQ(lines.count("hello"), 2u);
  });
}

}  // namespace
