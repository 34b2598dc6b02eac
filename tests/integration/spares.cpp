// Spare workers: ready beside the pool, they take the place of a worker that dies.
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <signal.h>

#include "support/callers.hpp"
#include "support/fleet.hpp"

namespace {

using namespace support;
using drover::PoolStats;

class Spares : public CallsAnywhere {};
class OneSpare : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, Spares, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

std::vector<pid_t> spares_of(const WorkerPool& pool) {
  std::vector<pid_t> found;
  for (const auto& worker : pool.stats().per_worker)
    if (worker.is_spare) found.push_back(worker.pid);
  return found;
}

asio::awaitable<void> until_spares(WorkerPool& pool, std::size_t count) {
  const bool ready = co_await soon([&] { return pool.stats().spares == count; });
  EXPECT_TRUE(ready);
}

// With a backoff of 60 s only the spare worker can take the slot. Another spare worker is started then.
TEST_P(Spares, TakeTheSlotOfADeadWorkerAtOnce) {
  run_scenario([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = call_pool(2);
    options.spares = 1;
    options.restart.backoff = 60s;  // no other worker is started in the slot
    options.restart.max_backoff = 60s;
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    co_await until_spares(pool, 1);
    EXPECT_EQ(pids(pool).size(), 2u);
    EXPECT_EQ(pool.stats().ready, 2u);
    for (int i = 0; i < 10; ++i) co_await pool.call("nothing");
    for (const auto& worker : pool.stats().per_worker)
      EXPECT_TRUE(!worker.is_spare || (worker.calls == 0 && worker.slot == drover::no_slot));
    for (int round = 0; round < 3; ++round) {
      const auto spare = spares_of(pool);
      EXPECT_EQ(spare.size(), 1u);
      const auto before = pids(pool);
      ::kill(before.front(), SIGKILL);
      const bool taken = co_await soon([&] { return share_one(pids(pool), spare); });
      EXPECT_TRUE(taken);
      const int nine = co_await pool.call<int>("square", 3);
      EXPECT_EQ(nine, 9);
      co_await until_spares(pool, 1);
    }
    EXPECT_EQ(pool.stats().crashes, 3u);
    EXPECT_EQ(pool.stats().restarts, 3u);
    const auto reports = co_await pool.stop();
    EXPECT_EQ(reports.size(), 2u);
    EXPECT_EQ(log.count(Event::Kind::spawned), 6u);
    EXPECT_EQ(log.count(Event::Kind::reaped), 6u);
  });
}

// No more calls fail than workers are killed, and all others succeed.
TEST_P(Spares, KeepAPoolAliveUnderLoad) {
  run_in_strand([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(3);
    options.spares = 2;
    options.restart.backoff = 1ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    constexpr int callers = 16, calls = 200;
    const auto tally = spawn_callers(co_await asio::this_coro::executor, pool, callers, calls);
    int killed = 0;
    for (int next = 200; tally->left != 0; co_await pause_for(1ms)) {
      if (tally->good < next) continue;
      next = tally->good + 200;
      const auto workers = pids(pool);
      if (workers.empty()) continue;
      ::kill(workers[static_cast<std::size_t>(killed++) % workers.size()], SIGKILL);
    }
    EXPECT_GT(killed, 0);
    EXPECT_EQ(tally->good + tally->exited, callers * calls) << tally->text;
    EXPECT_LE(tally->exited, killed) << "a death takes one call with it";
    co_await pool.stop();
  });
}

// A spare worker learns its slot, and gets the variables of that slot, before its first call.
TEST_F(OneSpare, KnowsItsSlotOnceItHasOne) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.spares = 1;
    options.slot_env = [](std::size_t slot) {
      return std::map<std::string, std::string>{{"DROVER_TEST_PORT", std::to_string(8000 + slot)}};
    };
    WorkerPool pool = co_await WorkerPool::start(options);
    co_await until_spares(pool, 1);
    const auto spare = spares_of(pool);
    ::kill(pids(pool).front(), SIGKILL);
    const bool taken = co_await soon([&] { return pids(pool) == spare; });
    EXPECT_TRUE(taken);
    EXPECT_EQ(pool.workers().front().slot, 0u);
    const std::string seen = co_await pool.call<std::string>("in_shell", "echo $DROVER_SLOT $DROVER_TEST_PORT");
    EXPECT_EQ(seen, "0 8000\n");
    const std::string at_start =
        co_await pool.call<std::string>("in_shell", "tr '\\0' '\\n' </proc/$PPID/environ | grep -c '^DROVER_SLOT='");
    EXPECT_EQ(at_start, "0\n") << "it was started without a slot";
    co_await pool.stop();
  });
}

// A spare worker that is killed counts as a crash, is replaced, and is no restart of a slot.
TEST_F(OneSpare, ThatDiesIsReplaced) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.spares = 1;
    options.restart.backoff = 1ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    for (int round = 0; round < 3; ++round) {
      co_await until_spares(pool, 1);
      const auto spare = spares_of(pool);
      ::kill(spare.front(), SIGKILL);
      const bool replaced = co_await soon([&] { return pool.stats().spares == 1 && spares_of(pool) != spare; });
      EXPECT_TRUE(replaced);
    }
    EXPECT_EQ(pool.stats().crashes, 3u);
    EXPECT_EQ(pool.stats().restarts, 0u);
    const int nine = co_await pool.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    co_await pool.stop();
  });
}

// A spare worker that cannot start is tried again, later and later; the pool works on.
TEST_F(OneSpare, ThatDoesNotStartHarmsNoCall) {
  on_one_thread([]() -> asio::awaitable<void> {
    const Folder folder;
    EventLog log;
    PoolOptions options = call_pool(1, {"exit-if", folder.file("broken"), "9"});
    options.spares = 1;
    options.restart = {.max_restarts = 2, .backoff = 1ms, .max_backoff = 200ms};
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    co_await until_spares(pool, 1);
    const auto spare = spares_of(pool);
    std::ofstream(folder.file("broken")).close();
    ::kill(spare.front(), SIGKILL);
    const bool tried = co_await soon([&] { return log.count(Event::Kind::exited) >= 5; });
    EXPECT_TRUE(tried);
    const int nine = co_await pool.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    std::filesystem::remove(folder.file("broken"));
    co_await until_spares(pool, 1);
    co_await pool.stop();
  });
}

// reload() replaces the spare workers, too.
TEST_F(OneSpare, IsOfTheNewCommandAfterAReload) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    options.spares = 1;
    WorkerPool pool = co_await WorkerPool::start(options);
    co_await until_spares(pool, 1);
    const auto before = spares_of(pool);
    Command command = options.worker.command;
    command.args = {"sleep", "1"};
    co_await pool.reload(command);
    const bool renewed = co_await soon([&] { return pool.stats().spares == 1 && spares_of(pool) != before; });
    EXPECT_TRUE(renewed);
    const auto spare = spares_of(pool);
    std::ifstream file("/proc/" + std::to_string(spare.front()) + "/cmdline");
    const std::string arguments{std::istreambuf_iterator<char>(file), {}};
    EXPECT_NE(arguments.find("sleep"), std::string::npos) << arguments;
    EXPECT_EQ(pool.stats().crashes, 0u);
    co_await pool.stop();
  });
}

// A new slot takes a spare worker, so it is ready at once.
TEST_F(OneSpare, FillsANewSlot) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.spares = 1;
    WorkerPool pool = co_await WorkerPool::start(options);
    co_await until_spares(pool, 1);
    const auto spare = spares_of(pool);
    co_await pool.resize(2);
    EXPECT_TRUE(share_one(pids(pool), spare));
    EXPECT_EQ(pool.stats().restarts, 0u);
    co_await until_spares(pool, 1);
    co_await pool.stop();
  });
}

// The destructor of the pool ends its spare workers.
TEST_F(OneSpare, EndsWithThePool) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.spares = 3;
    auto pool = std::make_unique<WorkerPool>(co_await WorkerPool::start(options));
    co_await until_spares(*pool, 3);
    const auto spares = spares_of(*pool);
    pool.reset();
    for (const pid_t pid : spares) {
      const bool ended = co_await sees_gone(pid);
      EXPECT_TRUE(ended);
    }
  });
}

}  // namespace
