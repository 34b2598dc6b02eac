// run() and run_main(): what happens to a program that a signal asks to exit. This program is also the tested program
// and its worker.
#include <cstring>
#include <gtest/gtest.h>
#include <iostream>
#include <string_view>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>

#include <drover/run.hpp>
#include <drover/worker/serve.hpp>

#include "support/calls.hpp"
#include "support/worker_routines.hpp"

namespace {

using namespace support;

PoolOptions own_pool(std::size_t size) {
  PoolOptions options;
  options.size = size;
  options.worker.term_grace = 1s;
  return options;
}

// ---- the tested programs --------------------------------------------------------------------------------------------

void tell(const WorkerPool& pool) {
  for (const auto& worker : pool.workers()) support::say(std::to_string(worker.pid));
}

asio::awaitable<void> naps(WorkerPool& pool) {
  tell(pool);
  co_await pool.call("nap", 30000, 10);  // writes "napping"
}

asio::awaitable<void> spins(WorkerPool& pool) {
  tell(pool);
  co_await pool.call("ignore", SIGTERM);
  co_await pool.call("spin");
}

asio::awaitable<void> gives_in(WorkerPool& pool) {
  try {
    co_await naps(pool);
  } catch (const std::system_error&) {  // and returns as if nothing had happened
  }
}

asio::awaitable<void> squares(WorkerPool& pool) {
  const int answer = co_await pool.call<int>("square", 7);
  if (answer != 49) throw std::logic_error("a wrong answer");
}

asio::awaitable<void> throws() {
  co_await pause_for(1ms);
  throw std::runtime_error("what went wrong");
}

asio::awaitable<void> throws_int() {
  co_await pause_for(1ms);
  throw 42;
}

/// The program is suspended while its results arrive and their deadlines pass.
asio::awaitable<void> is_stopped() {
  WorkerOptions options;
  options.max_in_flight = 8;
  LocalWorker worker(co_await asio::this_coro::executor, options);
  co_await worker.start();
  const CallOptions bounded{.deadline = 1s};
  std::vector<asio::awaitable<std::string>> calls;
  for (int i = 0; i < 8; ++i) calls.push_back(worker.call<std::string>(bounded, "doze", 200 + i));
  support::say("sent");
  for (auto& call : calls) co_await std::move(call);
  co_await worker.stop();
}

/// A request of a server: a call in a coroutine of its own.
asio::awaitable<void> request(WorkerPool& pool, std::string routine, int milliseconds) {
  try {
    if (routine == "doze")
      co_await pool.call<std::string>("doze", milliseconds);
    else
      co_await pool.call(routine);
    support::say("request done");
  } catch (const std::exception& error) {
    support::say(std::string("request failed: ") + error.what());
  }
}

/// A server that accepts for ever; one of its two requests waits for the other one.
asio::awaitable<void> serves(WorkerPool& pool, std::string routine, int milliseconds) {
  tell(pool);
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  for (int i = 0; i < 2; ++i) asio::co_spawn(executor, request(pool, routine, milliseconds), asio::detached);
  support::say("serving");
  bool cancelled = false;
  try {
    co_await pause_for(1h);
  } catch (const std::system_error&) {
    cancelled = true;
  }
  if (cancelled) support::say("cancelled");
}
auto serves_with(std::string routine, int milliseconds) {
  PoolOptions options = own_pool(1);
  options.shutdown_grace = 20s;
  options.worker.term_grace = 20s;
  return drover::run_main(
      with_pool(options, [routine, milliseconds](WorkerPool& pool) { return serves(pool, routine, milliseconds); }));
}

int host(std::string_view mode) {
  if (mode == "serves") return serves_with("doze", 400);
  if (mode == "serves-long") return serves_with("doze", 60000);
  if (mode == "serves-spinning") return serves_with("spin", 0);
  if (mode == "ok") return drover::run_main(with_pool(own_pool(2), squares));
  if (mode == "throws") return drover::run_main(throws());
  if (mode == "throws-int") return drover::run_main(throws_int());
  if (mode == "naps") return drover::run_main(with_pool(own_pool(2), naps));
  if (mode == "spins") return drover::run_main(with_pool(own_pool(2), spins));
  if (mode == "gives-in") return drover::run_main(with_pool(own_pool(2), gives_in));
  if (mode == "is-stopped") return drover::run_main(is_stopped());
  if (mode == "run") try {
      drover::run(with_pool(own_pool(2), naps));
    } catch (const std::system_error& error) {
      return error.code() == asio::error::operation_aborted ? 5 : 6;
    }
  return 90;
}

// ---- the tests ------------------------------------------------------------------------------------------------------

struct Host {
  std::shared_ptr<ReadPipe> told = std::make_shared<ReadPipe>(), errors = std::make_shared<ReadPipe>();
  Process process;
  std::vector<pid_t> workers;

  explicit Host(const std::string& mode, std::size_t count = 0) {
    Command command = Command::self({"host", mode});
    command.out = told->stdio();
    command.err = errors->stdio();
    process = Process::spawn(command);
    for (std::size_t i = 0; i < count; ++i) workers.push_back(told->pid());
  }
  ExitStatus end() { return support::run(process.wait()); }
};

class Run : public Calls {};
class RunMain : public Calls {};
class CallDeadline : public Calls {};

// run_main() returns 0 if its coroutine returns.
TEST_F(RunMain, ReturnsZeroOnSuccess) { EXPECT_TRUE(Host("ok").end().success()); }

// run_main() prints the text of an exception and returns 1.
TEST_F(RunMain, PrintsTheExceptionAndReturnsOne) {
  Host host("throws");
  const ExitStatus expected{ExitStatus::Kind::exited, 1, false};
  EXPECT_EQ(host.end(), expected);
  EXPECT_EQ(host.errors->rest(), "error: what went wrong\n");
  Host unusual("throws-int");
  EXPECT_EQ(unusual.end(), expected);
  EXPECT_FALSE(unusual.errors->rest().empty());
}

// A signal cancels the calls and stops the workers, and run_main() returns 128 + the number of the signal.
TEST_F(RunMain, SignalCancelsAndSetsTheExitCode) {
  for (const int signo : {SIGINT, SIGTERM, SIGHUP}) {
    Host host("naps", 2);
    EXPECT_EQ(host.told->line(), "napping");
    const auto began = Clock::now();
    ::kill(-host.process.pid(), signo);  // as the terminal does; the workers are in groups of their own
    EXPECT_EQ(host.told->line(), "cleaned up");
    const ExitStatus expected{ExitStatus::Kind::exited, 128 + signo, false};
    EXPECT_EQ(host.end(), expected);
    EXPECT_LT(since(began), slack);
    for (const pid_t worker : host.workers) EXPECT_TRUE(gone(worker));
    EXPECT_EQ(host.errors->rest(), "");
  }
}

// A program that gets the signal several times still stops its workers, even if they ignore SIGTERM.
TEST_F(RunMain, SecondSignalStillStopsTheWorkers) {
  Host host("spins", 2);
  EXPECT_EQ(host.told->line(), "spinning");
  const auto began = Clock::now();
  for (int i = 0; i < 3; ++i) {  // a later one may come when run_main() has returned
    ::kill(host.process.pid(), SIGINT);
    ::poll(nullptr, 0, 20);
  }
  const ExitStatus expected{ExitStatus::Kind::exited, 128 + SIGINT, false};
  EXPECT_EQ(host.end(), expected);
  EXPECT_LT(since(began), 1s + slack);
  for (const pid_t worker : host.workers) EXPECT_TRUE(gone(worker));
}

class WithPoolSignal : public Calls {};

// The first signal cancels the body, which accepts requests. The requests' calls, in flight and queued, finish within
// shutdown_grace.
TEST_F(WithPoolSignal, FirstLetsRequestsFinish) {
  Host host("serves", 1);
  EXPECT_EQ(host.told->line(), "serving");
  ::kill(host.process.pid(), SIGTERM);
  EXPECT_EQ(host.told->line(), "cancelled");
  EXPECT_EQ(host.told->line(), "request done");
  EXPECT_EQ(host.told->line(), "request done");
  EXPECT_TRUE(host.end().success());
  EXPECT_TRUE(gone(host.workers[0]));
}

// The second signal cancels the requests' calls.
TEST_F(WithPoolSignal, SecondCancelsRequests) {
  Host host("serves-long", 1);
  EXPECT_EQ(host.told->line(), "serving");
  ::kill(host.process.pid(), SIGTERM);
  EXPECT_EQ(host.told->line(), "cancelled");
  const auto start = Clock::now();
  ::kill(host.process.pid(), SIGINT);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(host.told->line().starts_with("request failed"));
  EXPECT_TRUE(host.end().success());
  EXPECT_LT(since(start), slack);
  EXPECT_TRUE(gone(host.workers[0]));
}

// The third signal kills the workers, whatever they are doing.
TEST_F(WithPoolSignal, ThirdKillsTheWorkers) {
  Host host("serves-spinning", 1);
  std::string line;
  do line = host.told->line();
  while (line != "serving");
  ::kill(host.process.pid(), SIGINT);
  do line = host.told->line();  // the routine writes "spinning" at some time
  while (line != "cancelled");
  ::kill(host.process.pid(), SIGINT);
  // One of the two calls is still queued and fails at the second signal; the other one cannot be cancelled.
  do line = host.told->line();
  while (line == "spinning");
  EXPECT_TRUE(line.starts_with("request failed")) << line;
  const auto start = Clock::now();
  ::kill(host.process.pid(), SIGINT);
  host.told->rest();
  EXPECT_TRUE(host.end().success());
  EXPECT_LT(since(start), slack);
  EXPECT_TRUE(gone(host.workers[0]));
}

// run_main() returns 0 if its coroutine returns normally after a signal.
TEST_F(RunMain, ReturnsZeroIfTheCancellationIsCaught) {
  Host host("gives-in", 2);
  EXPECT_EQ(host.told->line(), "napping");
  ::kill(host.process.pid(), SIGTERM);
  EXPECT_TRUE(host.end().success());
  for (const pid_t worker : host.workers) EXPECT_TRUE(gone(worker));
}

// run() throws operation_aborted after a signal.
TEST_F(Run, ThrowsOperationAbortedAfterASignal) {
  Host host("run", 2);
  EXPECT_EQ(host.told->line(), "napping");
  ::kill(host.process.pid(), SIGINT);
  EXPECT_EQ(host.end().value, 5);
}

// A program is suspended; calls whose results arrived before their deadlines complete although it reads them later.
TEST_F(CallDeadline, IsMetByAResultThatIsReadTooLate) {
  Host host("is-stopped");
  EXPECT_EQ(host.told->line(), "sent");
  ::kill(host.process.pid(), SIGSTOP);
  await_stopped(host.process.pid());
  ::poll(nullptr, 0, 2000);  // the workers send their results, and the deadlines pass
  ::kill(host.process.pid(), SIGCONT);
  const ExitStatus end = host.end();
  EXPECT_TRUE(end.success()) << host.errors->rest();
}

asio::awaitable<int> value(int x) {
  co_await pause_for(1ms);
  co_return x;
}
asio::awaitable<std::unique_ptr<int>> pointer(int x) { co_return std::make_unique<int>(x); }

// run() returns what its coroutine returns and throws what it throws.
TEST_F(Run, ReturnsTheCoroutinesResult) {
  EXPECT_EQ(drover::run(value(7)), 7);
  EXPECT_EQ(*drover::run(pointer(8)), 8);
  EXPECT_THROW(drover::run(throws()), std::runtime_error);
  EXPECT_EQ(drover::run(with_pool(
                own_pool(2),
                [](WorkerPool& pool) -> asio::awaitable<int> { co_return co_await pool.call<int>("square", 7); })),
            49);
}

asio::awaitable<int> stops_its_context() {
  const auto here = co_await asio::this_coro::executor;
  static_cast<asio::io_context&>(asio::query(here, asio::execution::context)).stop();
  co_await pause_for(1h);
  co_return 1;
}

// run() throws operation_aborted if its coroutine stops the context.
TEST_F(Run, ThrowsOperationAbortedIfItsContextIsStopped) {
  EXPECT_TRUE(describe([]() -> std::exception_ptr {
                try {
                  drover::run(stops_its_context());
                } catch (...) {
                  return std::current_exception();
                }
                return nullptr;
              }())
                  .aborted());
}

}  // namespace

int main(int argc, char** argv) {
  if (drover::in_worker()) return drover::serve(support::worker_routines());
  if (argc == 3 && std::strcmp(argv[1], "host") == 0) return host(argv[2]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
