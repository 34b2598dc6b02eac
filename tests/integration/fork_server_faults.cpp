// Launch::fork: programs that cannot be copied, fork servers that are hostile, and how they end.
#include <gtest/gtest.h>
#include <map>
#include <optional>
#include <set>
#include <signal.h>
#include <sys/socket.h>

#include "support/forking.hpp"

namespace {

using namespace support;

class ForkServer : public CallsAnywhere {};
class OneForkServer : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, ForkServer, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// ---- programs that cannot be copied ---------------------------------------------------------------------------------

/// A pool of workers that are executed, and the cause in its one event.
asio::awaitable<void> executes(PoolOptions options, std::string cause) {
  EventLog log;
  options.worker.on_event = log.handler();
  WorkerPool pool = co_await WorkerPool::start(options);
  const auto first = co_await everyone(pool);
  EXPECT_EQ(births(first).size(), 2u);
  co_await replace(pool, first.begin()->first);
  const auto second = co_await everyone(pool);
  EXPECT_EQ(births(second).size(), 2u);
  EXPECT_EQ(log.count(Event::Kind::fork_failed), 1u);
  EXPECT_NE(causes_in(log).find(cause), std::string::npos) << causes_in(log);
  EXPECT_EQ(servers_in(log).size(), 0u);
  co_await pool.stop();
}

// The workers of a program with several threads are executed, and one event has the reason.
TEST_P(ForkServer, IsRefusedByAProgramWithThreads) {
  run_in_strand([]() -> asio::awaitable<void> {
    PoolOptions options = forking_pool(2, {"thread"});
    std::string cause = "several threads";
    co_await executes(std::move(options), std::move(cause));
  });
}

// A shell between parent and program would be the parent of the copies: the workers are executed.
TEST_F(OneForkServer, IsRefusedBehindACommandThatForks) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = forking_pool(2);
    options.worker.command.args =
        std::vector<std::string>{"-c", "\"$0\"; true", options.worker.command.program.value()};
    options.worker.command.program = "/bin/sh";
    std::string cause = "in a process of its own";
    co_await executes(std::move(options), std::move(cause));
  });
}

// A shell that becomes the program by exec is no hindrance: both workers are copies of one process.
TEST_F(OneForkServer, IsPossibleBehindACommandThatExecutes) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = forking_pool(2);
    options.worker.command.args = std::vector<std::string>{"-c", "exec \"$0\"", options.worker.command.program.value()};
    options.worker.command.program = "/bin/sh";
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto workers = co_await everyone(pool);
    EXPECT_EQ(births(workers).size(), 1u);
    co_await pool.stop();
  });
}

// Without clone3(2), or without knowing where a thread's id is kept, the workers are executed.
TEST_F(OneForkServer, IsRefusedWhereTheKernelLacksWhatItNeeds) {
  for (const auto& lack : std::map<std::string, std::string>{{"clone3", "clone3(2) is not available"},
                                                             {"thread-id", "where the id of a thread is kept"}}) {
    on_one_thread([lack]() -> asio::awaitable<void> {
      PoolOptions options = forking_pool(2);
      options.worker.command.args = std::vector<std::string>{lack.first, options.worker.command.program.value()};
      options.worker.command.program = DROVER_HELPER_WITHOUT;
      std::string cause = lack.second;
      co_await executes(std::move(options), std::move(cause));
    });
  }
}

// The error of start() has the exit code of the program, or says that there is no such program.
TEST_F(OneForkServer, OfAProgramThatDoesNotStartFailsTheStartOfThePool) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = forking_pool(2, {"exit"});
    options.worker.on_event = log.handler();
    const Failure failure = co_await failure_of(WorkerPool::start(options));
    EXPECT_TRUE(failure == Errc::start_failed) << failure;
    EXPECT_NE(failure.text.find("exited with code 9"), std::string::npos) << failure;
    options.worker.command.program = "/nonexistent";
    const Failure missing = co_await failure_of(WorkerPool::start(options));
    EXPECT_TRUE(missing.code == std::errc::no_such_file_or_directory) << missing;
  });
}

// start() fails after start_timeout if the program runs and never calls in_worker().
TEST_F(OneForkServer, OfAProgramThatIsNoWorkerFailsTheStartOfThePool) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = forking_pool(1, {"parent"});
    options.start_timeout = 200ms;
    const Failure failure = co_await failure_of(WorkerPool::start(options));
    EXPECT_NE(failure.text.find("was not ready in time"), std::string::npos) << failure;
  });
}

// ---- hostile ones ---------------------------------------------------------------------------------------------------

// Whatever a fork server does wrong, calls succeed, dead workers are replaced, and the event names the fault.
TEST_F(OneForkServer, ThatIsHostileHurtsNobodyElse) {
  const std::string late = "it did not answer within 500 ms", wrong = "it did not answer as it should";
  for (const auto& way : std::map<std::string, std::string>{{"exits", "ended while it made"},
                                                            {"refuses", "Resource temporarily unavailable"},
                                                            {"claims to be the worker", wrong},
                                                            {"sends nonsense", wrong},
                                                            {"makes a child of its own", wrong},
                                                            {"makes a silent copy", late},
                                                            {"makes a dead copy", "ended while it made"},
                                                            {"makes a copy that says no", wrong},
                                                            {"is silent", late}}) {
    SCOPED_TRACE(way.first);
    const auto scenario = [how = way.first, cause = way.second]() -> asio::awaitable<void> {
      EventLog log;
      PoolOptions options = forking_pool(2);
      options.worker.command.program = DROVER_HELPER_HOSTILE_FORK_SERVER;
      options.worker.command.args = std::vector<std::string>{how};
      options.worker.on_event = log.handler();
      WorkerPool pool = co_await WorkerPool::start(options);
      const int nine = co_await pool.call<int>("square", 3);
      EXPECT_EQ(nine, 9);
      const auto workers = pids(pool);
      co_await replace(pool, workers.front());
      EXPECT_NE(causes_in(log).find(cause), std::string::npos) << causes_in(log);
      co_await pool.stop();
    };
    on_one_thread(scenario);
    EXPECT_TRUE(soon_childless());
  }
}

// The program closes what it has not opened, as daemons do.
TEST_F(OneForkServer, WhoseSocketIsClosedIsGivenUp) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = forking_pool(1);
    options.worker.on_event = log.handler();
    options.restart.max_backoff = 1ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    for (int fd = 3; fd < 100; ++fd) {
      int type = 0;
      socklen_t size = sizeof type;
      if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET) ::close(fd);
    }
    for (int round = 0; round < 3; ++round) {
      const auto workers = pids(pool);
      co_await replace(pool, workers.front());
    }
    EXPECT_EQ(servers_in(log).size(), 1u);
    co_await pool.stop();
  });
}

// ---- ends -----------------------------------------------------------------------------------------------------------

// The destructor of the pool ends its fork server.
TEST_P(ForkServer, EndsWithItsPool) {
  run_in_strand([]() -> asio::awaitable<void> {
    EventLog log;
    std::set<pid_t> servers;
    {
      PoolOptions options = forking_pool(2);
      options.worker.on_event = log.handler();
      WorkerPool pool = co_await WorkerPool::start(options);
      servers = servers_in(log);
    }
    EXPECT_EQ(servers.size(), 1u);
    for (const pid_t server : servers) {
      const bool ended = co_await sees_gone(server);
      EXPECT_TRUE(ended);
    }
  });
}

// A stop does not wait out its grace for a fork server that is suspended by SIGSTOP.
TEST_F(OneForkServer, HoldsUpNoStopWhenItIsSuspended) {
  on_one_thread([]() -> asio::awaitable<void> {
    EventLog log;
    PoolOptions options = forking_pool(1);
    options.worker.on_event = log.handler();
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto servers = servers_in(log);
    ::kill(*servers.begin(), SIGSTOP);
    await_stopped(*servers.begin());
    const auto begin = Clock::now();
    co_await pool.stop();
    EXPECT_LT(since(begin), 5s);  // the grace is 10 s
  });
}

// The fork server exits when its io_context is destroyed, although the pool still exists.
TEST_F(OneForkServer, EndsWithItsContext) {
  EventLog log;
  std::optional<WorkerPool> pool;
  {
    asio::io_context context;
    const auto start = [&]() -> asio::awaitable<void> {
      PoolOptions options = forking_pool(2);
      options.worker.on_event = log.handler();
      pool = co_await WorkerPool::start(options);
    };
    run(context, start());
  }
  for (const pid_t server : servers_in(log)) EXPECT_TRUE(soon_gone(server));
  pool.reset();
}

// A start that is cancelled at one of 40 moments leaves no process: the fixture looks for them.
TEST_F(OneForkServer, EndsWithAStartThatIsCancelled) {
  for (int step = 0; step < 40; ++step) {
    on_one_thread([step]() -> asio::awaitable<void> {
      PoolOptions options = forking_pool(2);
      Task<WorkerPool> start(co_await asio::this_coro::executor, WorkerPool::start(options));
      for (int turn = 0; turn < step; ++turn) co_await asio::post(asio::use_awaitable);
      if (step % 2 == 1) co_await pause_for(std::chrono::microseconds(step * 200));
      start.cancel();
      const Failure failure = co_await start.failure();
      EXPECT_TRUE(failure.aborted() || !failure) << failure;
    });
  }
}

// After SIGKILL of the parent its fork server and workers exit, although a forked copy of the parent lives.
TEST_F(OneForkServer, EndsWithItsParent) {
  ReadPipe pipe;
  Command command;
  command.program = DROVER_HELPER_FORK_HOST;
  command.args = std::vector<std::string>{DROVER_HELPER_FORK_WORKER};
  command.out = pipe.stdio();
  Process host = Process::spawn(command);
  pipe.close_write_end();
  std::vector<pid_t> found;
  for (int i = 0; i < 4; ++i) found.push_back(pipe.pid());  // the server, two workers, and a copy of the host
  host.signal(SIGKILL);
  run(host.wait());
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(soon_gone(found[static_cast<std::size_t>(i)])) << i;
  ::kill(found[3], SIGKILL);
  EXPECT_TRUE(soon_gone(found[3]));
}

// SIGKILL of the parent ends a fork server that is still busy in its prepare function.
TEST_F(OneForkServer, EndsWithItsParentWhileItPrepares) {
  ReadPipe pipe;
  Command command;
  command.program = DROVER_HELPER_FORK_HOST;
  command.args = std::vector<std::string>{DROVER_HELPER_FORK_WORKER, "prepare-long"};
  command.out = pipe.stdio();
  Process host = Process::spawn(command);
  pipe.close_write_end();
  const pid_t server = pipe.pid();
  host.signal(SIGKILL);
  run(host.wait());
  EXPECT_TRUE(soon_gone(server));
}

}  // namespace
