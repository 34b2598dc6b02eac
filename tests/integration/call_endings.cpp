// Calls whose worker exits, breaks the protocol or hangs while they wait: each completes exactly once and no other call
// is affected.
#include <gtest/gtest.h>
#include <numeric>
#include <set>

#include "support/calls.hpp"

namespace {

using namespace support;

class WorkerExit : public CallsAnywhere {};
class ProtocolError : public CallsAnywhere {};
class CallDeadline : public CallsAnywhere {};
class UnreadResult : public Calls {};
class QueuedCall : public Calls {};
class Status : public Calls {};
class AbandonedCall : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, WorkerExit, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);
INSTANTIATE_TEST_SUITE_P(On, ProtocolError, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);
INSTANTIATE_TEST_SUITE_P(On, CallDeadline, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

using Kind = ExitStatus::Kind;

struct Ending {
  const char* routine;
  int argument;
  Kind kind;
  int value;
};
constexpr Ending endings[] = {{"exit", 1, Kind::exited, 1},
                              {"exit", 0, Kind::exited, 0},
                              {"crash", SIGSEGV, Kind::signaled, SIGSEGV},
                              {"crash", SIGKILL, Kind::signaled, SIGKILL}};

// A call fails with the exit status of its worker, and calls to other workers complete.
TEST_P(WorkerExit, FailsItsCallsWithTheStatusAndNoOthers) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(3);
    options.restart.backoff = 1ms;
    options.restart.max_restarts = 100;
    options.restart.max_backoff = 5ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    for (const Ending& ending : endings) {
      const bool ready = co_await soon([&] { return pool.stats().ready == 3; });
      EXPECT_TRUE(ready);
      auto other = pool.call<std::string>("slow_echo", "unharmed", 100);
      const Failure failure = co_await failure_of(pool.call(ending.routine, ending.argument));
      EXPECT_TRUE(failure == Errc::worker_exited) << failure;
      EXPECT_EQ(failure.exit->kind, ending.kind) << failure;
      EXPECT_EQ(failure.exit->value, ending.value) << failure;
      EXPECT_EQ(co_await std::move(other), "unharmed");
    }
    EXPECT_EQ(pool.stats().crashes, std::size(endings));
    co_await pool.stop();
  });
}

// After an exit that nobody asked for, every call and the stop report the exit status.
TEST_P(WorkerExit, FailsEveryLaterCallToTheWorker) {
  run_scenario([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    for (const Ending& ending : endings) {
      LocalWorker worker(here, call_worker());
      co_await worker.start();
      auto owed = worker.call(ending.routine, ending.argument);
      auto waits = worker.call<int>("square", 3);
      EXPECT_TRUE(co_await failure_of(std::move(owed)) == Errc::worker_exited);
      EXPECT_TRUE(co_await failure_of(std::move(waits)) == Errc::worker_exited);
      const Failure later = co_await failure_of(worker.call<int>("square", 3));
      EXPECT_TRUE(later == Errc::worker_exited);
      EXPECT_EQ(later.exit->value, ending.value);
      EXPECT_FALSE(worker.alive());
      const StopReport report = co_await worker.stop();
      EXPECT_EQ(report.rpc, make_error_code(Errc::worker_exited));
      EXPECT_EQ(report.exit.value, ending.value);
    }
  });
}

// Results that are in the socket when the worker exits are delivered.
TEST_F(UnreadResult, IsDeliveredAfterTheWorkersExit) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerOptions options = call_worker();
    options.max_in_flight = 40;
    for (int round = 0; round < 10; ++round) {
      LocalWorker worker(co_await asio::this_coro::executor, options);
      co_await worker.start();
      auto owed = worker.call("nap", 60000, 0);
      auto end = worker.call("exit_later", 100000, 0);
      std::vector<asio::awaitable<int>> answered;
      for (int i = 0; i < 30; ++i) answered.push_back(worker.call<int>("square", i));
      while (!gone(worker.pid())) ::poll(nullptr, 0, 1);  // this thread reads nothing meanwhile
      for (int i = 0; i < 30; ++i) EXPECT_EQ(co_await std::move(answered[std::size_t(i)]), i * i);
      co_await std::move(end);
      const Failure failure = co_await failure_of(std::move(owed));
      EXPECT_TRUE(failure == Errc::worker_exited);
      EXPECT_TRUE(failure.exit->success());
    }
  });
}

// When a worker exits, queued calls are neither lost nor reordered nor executed twice.
TEST_P(WorkerExit, KeepsQueuedCallsInOrder) {
  run_scenario([]() -> asio::awaitable<void> {
    const Folder folder;
    const std::string file = folder.file("order"), killed = folder.file("killed");
    PoolOptions options = call_pool(1);
    options.restart.backoff = 1ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    std::vector<asio::awaitable<void>> calls;
    for (int i = 0; i < 40; ++i)
      calls.push_back(i == 20 ? pool.call("exit_if_absent", killed) : pool.call("append", file, i));
    int failed = 0;
    for (auto& call : calls) {
      const Failure failure = co_await failure_of(std::move(call));
      if (!failure) continue;
      ++failed;
      EXPECT_TRUE(failure == Errc::worker_exited);
      EXPECT_EQ(failure.exit->value, 9);
    }
    EXPECT_EQ(failed, 1) << "with max_in_flight 1 a death costs one call";
    std::vector<int> expected(40);
    std::iota(expected.begin(), expected.end(), 0);
    expected.erase(expected.begin() + 20);
    EXPECT_EQ(folder.numbers("order"), expected);
    co_await pool.stop();
  });
}

// The exit is known before the last result is read, so the slot that this result frees takes no call. This also holds
// if a forked copy of the worker keeps its sockets open, so that they do not report the exit.
TEST_F(QueuedCall, IsNotSentToAWorkerThatHasExited) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.restart.backoff = 1ms;
    options.restart.max_restarts = 100;
    WorkerPool pool = co_await WorkerPool::start(options);
    for (int round = 0; round < 10; ++round) {
      const bool ready = co_await soon([&] { return pool.stats().ready == 1; });
      EXPECT_TRUE(ready);
      const pid_t holder = round % 2 == 0 ? co_await pool.call<int>("hold_sockets") : 0;
      (void)co_await pool.call<std::string>("doze", 1);  // a slow one, so that nothing is sent ahead to this worker
      auto last = pool.call("exit_answered", 0);
      std::vector<asio::awaitable<int>> waiting;
      for (int i = 0; i < 5; ++i) waiting.push_back(pool.call<int>("square", i));
      await_told_end(pool.workers().front().pid);
      EXPECT_FALSE(co_await failure_of(std::move(last))) << "round " << round;
      for (int i = 0; i < 5; ++i) {
        const Failure failure = co_await failure_of(std::move(waiting[std::size_t(i)]));
        EXPECT_FALSE(failure) << "round " << round << ", call " << i << ": " << failure;
      }
      if (holder != 0) ::kill(holder, SIGKILL);
    }
    co_await pool.stop();
  });
}

// A forked copy of the worker keeps its sockets open, so that end of file is never read; its exit still fails the
// calls.
TEST_P(WorkerExit, IsSeenIfAForkedCopyHoldsTheSockets) {
  run_scenario([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    {
      LocalWorker worker(here, call_worker());
      co_await worker.start();
      const pid_t holder = co_await worker.call<int>("hold_sockets");
      auto owed = worker.call("exit", 0);
      auto waits = worker.call<int>("square", 3);
      EXPECT_TRUE(co_await failure_of(std::move(owed)) == Errc::worker_exited);
      EXPECT_TRUE(co_await failure_of(std::move(waits)) == Errc::worker_exited);
      ::kill(holder, SIGKILL);
    }
    PoolOptions options = call_pool(1);
    WorkerPool pool = co_await WorkerPool::start(options);
    const pid_t holder = co_await pool.call<int>("hold_sockets");
    auto owed = pool.call("exit", 0);
    auto waits = pool.call<int>("square", 3);
    EXPECT_TRUE(co_await failure_of(std::move(owed)) == Errc::worker_exited);
    EXPECT_EQ(co_await std::move(waits), 9) << "by the next worker";
    ::kill(holder, SIGKILL);
    co_await pool.stop();
  });
}

// Any violation of the protocol fails the call, ends that worker only, and the pool replaces it.
TEST_P(ProtocolError, FailsTheCallAndReplacesTheWorker) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    options.restart.max_restarts = 1000;
    options.restart.backoff = 1ms;
    options.restart.max_backoff = 5ms;
    options.worker.term_grace = 200ms;
    options.worker.name = "suspect";
    WorkerPool pool = co_await WorkerPool::start(options);
    const char* const protocol_errors[] = {"garbage",
                                           "garbage on control",
                                           "over the limit",
                                           "unknown type",
                                           "a call",
                                           "padding",
                                           "unknown slot",
                                           "huge slot",
                                           "other id",
                                           "result on control",
                                           "second greeting",
                                           "malformed status reply",
                                           "a reply to nobody on control"};
    for (const std::string how : protocol_errors) {
      const bool ready = co_await soon([&] { return pool.stats().ready == 2; });
      EXPECT_TRUE(ready) << how;
      std::set<pid_t> pids;
      for (const auto& worker : pool.workers()) pids.insert(worker.pid);
      auto bad = pool.call("misbehave", how, 1);  // whether or not it is the worker's first call: any wrong id will do
      auto good = pool.call<std::string>("slow_echo", "unharmed", 20);
      const Failure failure = co_await failure_of(std::move(bad));
      EXPECT_TRUE(failure == Errc::protocol_error) << how << ": " << failure;
      EXPECT_NE(failure.text.find(options.worker.name), std::string::npos) << how << ": " << failure;
      EXPECT_EQ(co_await std::move(good), "unharmed") << how;
      const bool one_gone = co_await soon([&] { return std::count_if(pids.begin(), pids.end(), gone) == 1; });
      EXPECT_TRUE(one_gone) << how;
    }
    for (const std::string how : {"half a header", "half a body"}) {
      const Failure failure = co_await failure_of(pool.call("misbehave", how, 1));
      EXPECT_TRUE(failure == Errc::worker_exited) << how << ": " << failure;
    }
    co_await pool.stop();
  });
}

// A malformed or repeated result completes its call exactly once.
TEST_P(ProtocolError, InAResultCompletesTheCallOnce) {
  run_scenario([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    for (const char* how : {"unknown status", "error that is none", "error without a text"}) {
      LocalWorker worker(here, call_worker());
      co_await worker.start();
      const Failure failure = co_await failure_of(worker.call("misbehave", how, 1));
      EXPECT_TRUE(failure == Errc::protocol_error) << how << ": " << failure;
      const Failure next = co_await failure_of(worker.call<int>("square", 3));
      EXPECT_TRUE(next == Errc::protocol_error || next == Errc::worker_exited) << how << ": " << next;
      co_await worker.stop(0s);
    }
    LocalWorker worker(here, call_worker());
    co_await worker.start();
    co_await worker.call("misbehave", "twice", 1);  // the second result is one too many
    const Failure next = co_await failure_of(worker.call<int>("square", 3));
    EXPECT_TRUE(next == Errc::protocol_error || next == Errc::worker_exited) << next;
    co_await worker.stop(0s);
  });
}

// status() fails with connection_lost if the worker has shut its control socket, before and after that is read.
TEST_F(Status, FailsSoonIfTheControlSocketIsShut) {
  const auto scenario = []() -> asio::awaitable<void> {
    WorkerOptions options = call_worker();
    options.stop_margin = 100ms;
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    auto call = worker.call("shut_control");
    await_stopped(worker.pid());
    // The first status() is called before the end of file is read, the second one after it.
    for (int i = 0; i < 2; ++i) {
      const auto start = Clock::now();
      const Failure failure = co_await failure_of(worker.status());
      EXPECT_TRUE(failure == Errc::connection_lost) << failure;
      EXPECT_LT(since(start), (i == 0 ? 500ms : 0ms) + slack);
    }
    EXPECT_TRUE(worker.alive());
    co_await worker.stop(0s);
    co_await failure_of(std::move(call));
  };
  run(scenario());
}

// status() fails with protocol_error if the worker writes garbage to its control socket.
TEST_F(Status, FailsIfTheWorkerWritesGarbage) {
  const auto scenario = []() -> asio::awaitable<void> {
    LocalWorker worker(co_await asio::this_coro::executor, call_worker());
    co_await worker.start();
    auto call = worker.call("soil_control");
    await_stopped(worker.pid());
    const Failure failure = co_await failure_of(worker.status());
    EXPECT_TRUE(failure == Errc::protocol_error) << failure;
    co_await worker.stop(0s);
    co_await failure_of(std::move(call));
  };
  run(scenario());
}

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * 4096;
}

// A suspended worker reads nothing: its calls fail at their deadline and memory stays bounded.
TEST_P(CallDeadline, HoldsInBoundedMemoryIfTheWorkerHangs) {
  run_scenario([]() -> asio::awaitable<void> {
    constexpr std::size_t count = 1000, size = 32 << 10;
    const auto here = co_await asio::this_coro::executor;
    WorkerOptions options = call_worker();
    options.max_in_flight = 8;
    LocalWorker worker(here, options);
    co_await worker.start();
    EXPECT_EQ(co_await worker.call<int>("square", 3), 9);
    const std::vector<std::byte> payload(size);
    const std::size_t before = resident_bytes();
    ::kill(worker.pid(), SIGSTOP);
    await_stopped(worker.pid());
    std::vector<asio::awaitable<std::uint64_t>> calls;
    const CallOptions bounded{.deadline = 500ms};
    const auto began = Clock::now();
    for (std::size_t i = 0; i < count; ++i) calls.push_back(worker.call<std::uint64_t>(bounded, "sum", payload));
    const auto last = Clock::now();
    const std::size_t most = static_cast<std::size_t>(scenarios_at_once) * count * size * 3 / 2 + (16u << 20);
    EXPECT_TRUE(sanitized || resident_bytes() < before + most) << resident_bytes() - before;
    for (auto& call : calls) EXPECT_TRUE(co_await failure_of(std::move(call)) == Errc::deadline_exceeded);
    EXPECT_GE(since(began), 500ms);
    EXPECT_LT(since(last), 500ms + slack);
    calls.clear();
    ::kill(worker.pid(), SIGCONT);
    EXPECT_EQ(co_await worker.call<std::uint64_t>("sum", payload), 0u) << "it goes on where it was";
    co_await worker.stop();
  });
}

// Results of abandoned calls are read and not kept.
TEST_F(AbandonedCall, LeavesNoMemoryBehind) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerOptions options = call_worker();
    options.max_in_flight = 4;
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    std::size_t before = 0;
    for (int i = 0; i < 400; ++i) {
      if (i == 40) before = resident_bytes();
      {
        auto dropped = worker.call<std::vector<std::byte>>("bytes", 1u << 20);
      }
      co_await worker.call<int>("square", 3);
    }
    EXPECT_TRUE(sanitized || resident_bytes() < before + (32u << 20));
    co_await worker.stop();
  });
}

}  // namespace
