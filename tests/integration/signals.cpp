// Signals to workers, and which parts of a worker answer while its main thread is busy.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <gtest/gtest.h>
#include <memory>
#include <signal.h>
#include <string>
#include <sys/stat.h>
#include <thread>
#include <utility>
#include <vector>

#include <drover/run.hpp>

#include "support/workers.hpp"

namespace {

using namespace support;

class Signal : public Workers {};

class ControlThread : public Workers {};
class RoutineChild : public Workers {};

asio::awaitable<void> until_ended(std::shared_ptr<LocalWorker> worker, Duration bound) {
  const auto start = Clock::now();
  while (worker->alive() && since(start) < bound) co_await pause_for(1ms);
  EXPECT_FALSE(worker->alive());
}

/// Sends these signals, 200 ms apart, to a worker that naps.
asio::awaitable<void> signalled(std::vector<int> signals, int nap, bool finishes, Duration at_least, Duration at_most) {
  const auto executor = co_await asio::this_coro::executor;
  const Started s = co_await started();
  const Task<std::string> call(executor, s.worker->call<std::string>("nap", nap, 0));
  co_await said(s.pipe, "napping");
  const auto start = Clock::now();
  for (std::size_t i = 0; i < signals.size(); ++i) {
    if (i != 0) co_await pause_for(200ms);
    ::kill(s.worker->pid(), signals[i]);
  }
  const Failure failure = co_await call.failure();
  EXPECT_EQ(!failure, finishes) << failure;
  co_await until_ended(s.worker, at_most + slack);
  EXPECT_GE(since(start), at_least);
  EXPECT_LT(since(start), at_most + slack);
  const StopReport report = co_await s.worker->stop();
  EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
  EXPECT_EQ(report.rpc, drover::make_error_code(Errc::worker_exited));
}

// SIGTERM and SIGHUP cancel, SIGINT drains, and each of them may shorten the other.
TEST_F(Signal, SigtermCancelsAndSigintDrains) {
  run_together({
      [] { return signalled({SIGTERM}, 30000, false, 0ms, 0ms); },
      [] { return signalled({SIGHUP}, 30000, false, 0ms, 0ms); },
      [] { return signalled({SIGINT}, 700, true, 600ms, 700ms); },
      [] { return signalled({SIGINT, SIGINT}, 30000, false, 200ms, 200ms); },
      [] { return signalled({SIGINT, SIGTERM}, 30000, false, 200ms, 200ms); },
      [] { return signalled({SIGTERM, SIGINT}, 30000, false, 0ms, 200ms); },
  });
}

// A signal and a stop are one teardown: a signal shortens a stop, and a stop shortens a drain that a signal began.
TEST_F(Signal, AndStopMayShortenEachOther) {
  const auto stop_then = [](int signo, drover::Timeout grace) -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const Started s = co_await started();
    const Task<std::string> call(executor, s.worker->call<std::string>("nap", 30000, 0));
    co_await said(s.pipe, "napping");
    const auto start = Clock::now();
    const Task<StopReport> stop(executor, s.worker->stop(grace));
    co_await pause_for(200ms);
    EXPECT_FALSE(stop.done());
    ::kill(s.worker->pid(), signo);
    const StopReport report = co_await stop.result();
    EXPECT_LT(since(start), 200ms + slack);
    EXPECT_FALSE(report.rpc) << report.rpc.message();
    EXPECT_TRUE(report.exit.success());
    EXPECT_FALSE(report.terminated);
    EXPECT_EQ(report.cancelled, 1u);
    co_await call.ended();
  };
  const auto signal_then_stop = [](int signo, drover::Timeout grace, int nap,
                                   std::size_t drained) -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const Started s = co_await started();
    const Task<std::string> call(executor, s.worker->call<std::string>("nap", nap, 0));
    co_await said(s.pipe, "napping");
    const auto start = Clock::now();
    ::kill(s.worker->pid(), signo);
    co_await pause_for(100ms);
    const StopReport report = co_await s.worker->stop(grace);
    EXPECT_LT(since(start), (drained != 0 ? std::chrono::milliseconds(nap) : 100ms) + slack);
    EXPECT_FALSE(report.rpc) << report.rpc.message();
    EXPECT_TRUE(report.exit.success());
    EXPECT_FALSE(report.terminated);
    EXPECT_EQ(report.drained, drained);
    EXPECT_EQ(report.cancelled, 1 - drained);
    co_await call.ended();
  };
  run_together({
      [&] { return stop_then(SIGTERM, 30s); },
      [&] { return stop_then(SIGTERM, std::nullopt); },
      [&] { return signal_then_stop(SIGINT, 0s, 30000, 0); },
      [&] { return signal_then_stop(SIGINT, 30s, 700, 1); },
      [&] { return signal_then_stop(SIGINT, std::nullopt, 700, 1); },
  });
}

// A routine may use run(), which takes signals over in other programs; in a worker they still reach the worker.
TEST_F(Signal, ReachesAWorkerWhoseRoutineUsedRun) {
  run_together({[]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const Started s = co_await started();
    EXPECT_EQ(co_await s.worker->call<int>("run_inside"), 9);
    const Task<std::string> call(executor, s.worker->call<std::string>("nap", 30000, 0));
    co_await said(s.pipe, "napping");
    ::kill(s.worker->pid(), SIGTERM);
    const Failure failure = co_await call.failure();
    EXPECT_EQ(failure, Errc::worker_exited);
    co_await until_ended(s.worker, slack);
    const StopReport report = co_await s.worker->stop();
    EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
  }});
}

// A hundred signals at random times end a worker cleanly.
TEST_F(Signal, StormEndsAWorkerCleanly) {
  const auto storm = [](unsigned seed) -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const Started s = co_await started();
    const Task<std::string> call(executor, s.worker->call<std::string>("nap", 30000, 20));
    co_await said(s.pipe, "napping");
    const auto random = [&seed](unsigned below) {
      seed = seed * 1103515245 + 12345;
      return seed / 65536 % below;
    };
    const int harmless[] = {SIGCONT, SIGURG, SIGWINCH, SIGCHLD};
    const int ending[] = {SIGINT, SIGTERM, SIGHUP, SIGINT};
    for (int i = 0; i < 100 && s.worker->alive(); ++i) {
      const unsigned which = random(4);
      ::kill(s.worker->pid(), i < 60 ? harmless[which] : ending[which]);
      if (random(3) == 0) co_await pause_for(std::chrono::microseconds(random(1500)));
    }
    co_await call.ended();
    co_await until_ended(s.worker, slack);
    const StopReport report = co_await s.worker->stop();
    EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
  };
  std::vector<std::function<asio::awaitable<void>()>> storms;
  for (unsigned seed = 1; seed <= 16; ++seed) storms.push_back([&storm, seed] { return storm(seed); });
  run_together(std::move(storms));
}

// Signals do not interrupt a blocking read(2) in a routine.
TEST_F(Signal, DoesNotInterruptABlockingRead) {
  const std::string fifo = std::filesystem::temp_directory_path() / ("drover-fifo-" + std::to_string(::getpid()));
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  const UniqueFd end(::open(fifo.c_str(), O_RDWR | O_CLOEXEC));
  run_together({[&]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const Started s = co_await started();
    const Task<int> call(executor, s.worker->call<int>("blocking_read", fifo));
    co_await said(s.pipe, "reading");
    for (int i = 0; i < 20; ++i) {
      const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGCONT};
      ::kill(s.worker->pid(), signals[i % 4]);
      co_await pause_for(2ms);
    }
    EXPECT_FALSE(call.done());
    EXPECT_EQ(::write(end.get(), "x", 1), 1);
    EXPECT_EQ(co_await call.result(), 0);
    co_await until_ended(s.worker, slack);
    co_await s.worker->stop();
  }});
  std::filesystem::remove(fifo);
}

/// The median of the times that status() takes.
asio::awaitable<Duration> time_of_status(std::shared_ptr<LocalWorker> worker) {
  std::vector<Duration> times;
  for (int i = 0; i < 15; ++i) {
    const auto start = Clock::now();
    const drover::WorkerStatus status = co_await worker->status();
    times.push_back(since(start));
    EXPECT_EQ(status.in_flight, 1u);
    EXPECT_EQ(status.idle_for, 0s);
  }
  std::sort(times.begin(), times.end());
  co_return times[times.size() / 2];
}

// The control thread answers status() and enforces the stop while a routine loops for ever.
TEST_F(ControlThread, AnswersWhileARoutineLoops) {
  run_together({[]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    WorkerOptions options = plain_worker();
    options.stop_margin = 500ms;
    const Started s = co_await started(options);
    co_await s.worker->call("square", 1);
    const drover::WorkerStatus idle = co_await s.worker->status();
    EXPECT_EQ(idle.in_flight, 0u);
    EXPECT_EQ(idle.served, 1u);
    const Task<void> spin(executor, s.worker->call("spin"));
    co_await said(s.pipe, "spinning");
    EXPECT_LT(co_await time_of_status(s.worker), slowed_down ? 200ms : 50ms);
    const StopReport report = co_await s.worker->stop(0s);
    EXPECT_EQ(report.exit.value, 1);
    EXPECT_FALSE(report.terminated);
    EXPECT_EQ(co_await failure_of(s.worker->status()), Errc::not_running);
    co_await spin.ended();
  }});
}

// A stop callback that blocks delays neither status() nor the hard exit.
TEST_F(ControlThread, AnswersWhileAStopCallbackBlocks) {
  run_together({[]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    WorkerOptions options = plain_worker();
    options.stop_margin = 800ms;
    const Started s = co_await started(options);
    const Task<void> call(executor, s.worker->call("block_stop_callback"));
    co_await said(s.pipe, "spinning");
    call.cancel();
    EXPECT_TRUE((co_await call.failure()).aborted());
    co_await said(s.pipe, "in the callback");
    EXPECT_LT(co_await time_of_status(s.worker), slowed_down ? 200ms : 50ms);
    const auto start = Clock::now();
    const StopReport report = co_await s.worker->stop(0s);
    EXPECT_GE(since(start), 600ms);
    EXPECT_LT(since(start), slowed_down ? 800ms + slack : 850ms);
    EXPECT_EQ(report.exit.value, 1);
    EXPECT_FALSE(report.terminated);
  }});
}

// After SIGTERM the hard exit comes at shutdown_grace, neither earlier nor much later.
TEST_F(ControlThread, ExitsHardAtTheShutdownGrace) {
  const auto loops = [](std::string routine) -> asio::awaitable<void> {
    WorkerOptions options = plain_worker();
    options.shutdown_grace = 700ms;
    const Started s = co_await started(options);
    const Task<void> call(co_await asio::this_coro::executor, s.worker->call(routine));
    co_await said(s.pipe, "spinning");
    const auto start = Clock::now();
    ::kill(s.worker->pid(), SIGTERM);
    const Failure failure = co_await call.failure();
    EXPECT_EQ(failure, Errc::worker_exited);
    EXPECT_TRUE(failure.exit && failure.exit->value == 1);
    EXPECT_GE(since(start), 700ms);
    EXPECT_LT(since(start), slowed_down ? 700ms + slack : 900ms);
    co_await s.worker->stop();
  };
  run_together({[&] { return loops("spin"); }, [&] { return loops("block_stop_callback"); }});
}

/// The line of a child's report that begins with `topic`.
std::string lines_of(const std::string& report, const std::string& topic) {
  const auto begin = report.find("\n" + topic);
  return begin == std::string::npos ? "none" : report.substr(begin, report.find('\n', begin + 1) - begin);
}

// A child of a routine inherits neither the worker's signal mask nor its handlers, descriptors or DROVER_WORKER.
TEST_F(RoutineChild, InheritsNeitherMaskNorHandlers) {
  ReadPipe pipe;
  Command direct = child({"report"});
  direct.out = pipe.stdio();
  Process process = Process::spawn(direct);
  const std::string expected = pipe.rest();  // sanitizers install handlers in every program
  support::run(process.wait());
  EXPECT_EQ(lines_of(expected, "blocked"), "\nblocked");
  run_together({[&]() -> asio::awaitable<void> {
    const Started s = co_await started();
    const std::string command = std::string(DROVER_HELPER_CHILD) + " report";
    const std::string report = co_await s.worker->call<std::string>("in_shell", command);
    EXPECT_EQ(lines_of(report, "blocked"), "\nblocked");
    EXPECT_EQ(lines_of(report, "not-default"), lines_of(expected, "not-default"));
    EXPECT_EQ(report.rfind("fds 0 1 2\n", 0), 0u) << report;
    const std::string variable = "echo -n $DROVER_WORKER";
    EXPECT_EQ(co_await s.worker->call<std::string>("in_shell", variable), "");
    const std::string own = co_await s.worker->call<std::string>("signals");
    EXPECT_EQ(own.rfind("blocked;", 0), 0u) << own;
    co_await s.worker->stop();
  }});
}

/// Sends SIGINT to the foreground process group only, as Ctrl-C does.
asio::awaitable<void> ctrl_c(std::string routine, std::string sign, int times, Duration at_most) {
  const auto pipe = std::make_shared<ReadPipe>();
  Command command;
  command.program = DROVER_HELPER_HOST;
  command.args = {"pool", routine};
  command.out = pipe->stdio();
  Process host = Process::spawn(command);
  pipe->close_write_end();
  std::vector<pid_t> workers;
  for (int busy = 0; busy < 2;) {
    while (!pipe->readable()) co_await pause_for(1ms);
    const std::string line = pipe->line();
    if (line.empty()) throw std::runtime_error("the host has ended");
    if (line == sign) ++busy;
    if (line.rfind("worker ", 0) == 0) workers.push_back(std::stoi(line.substr(7)));
  }
  const auto start = Clock::now();
  for (int i = 0; i < times; ++i) {
    if (i != 0) co_await pause_for(i == 1 ? 3ms : 30ms);
    if (host.running()) ::kill(-host.pid(), SIGINT);
  }
  const ExitStatus status = co_await host.wait();
  // The third one ends run_main(). A later one may come when that has given the signals back.
  const bool later = times > 3 && status.to_string() == "killed by SIGINT";
  EXPECT_TRUE(later || status.value == 128 + SIGINT) << status.to_string();
  EXPECT_EQ(workers.size(), 2u);
  for (const pid_t pid : workers) EXPECT_TRUE(gone(pid)) << "it outlived with_pool";
  EXPECT_LT(since(start), at_most + slack);
}

// Ctrl-C stops the pool first and the program then, however often it is pressed.
TEST_F(Signal, CtrlCStopsThePoolAndThenTheProgram) {
  run_together({
      [] { return ctrl_c("nap_long", "napping", 1, 0s); },
      [] { return ctrl_c("nap_long", "napping", 2, 0s); },
      [] { return ctrl_c("nap_long", "napping", 5, 0s); },
      [] { return ctrl_c("spin", "spinning", 1, 1s); },
      [] { return ctrl_c("spin", "spinning", 4, 1s); },
  });
}

// run() throws operation_aborted after a signal, when no worker is left.
TEST_F(Signal, MakesRunThrowOperationAborted) {
  drover::PoolOptions options;
  options.size = 2;
  options.worker = plain_worker();
  std::atomic<bool> ready{false};
  pid_t pid = 0;
  std::thread interrupter([&] {
    while (!ready) std::this_thread::yield();
    ::kill(::getpid(), SIGINT);
  });
  const auto body = [&](WorkerPool& pool) -> asio::awaitable<void> {
    pid = pool.workers().front().pid;
    ready = true;
    co_await pool.call("doze", 30000);
  };
  const auto start = Clock::now();
  Failure failure;
  try {
    drover::run(drover::with_pool(options, body));
  } catch (...) {
    failure = describe(std::current_exception());
  }
  interrupter.join();
  EXPECT_TRUE(failure.aborted()) << failure;
  EXPECT_TRUE(gone(pid));
  EXPECT_LT(since(start), 2 * slack);
}

}  // namespace
