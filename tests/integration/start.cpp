// Starting workers: what start() provides, how it is cancelled, and what it leaves.
#include <algorithm>
#include <filesystem>
#include <gtest/gtest.h>
#include <memory>
#include <set>
#include <signal.h>
#include <spawn.h>
#include <string>
#include <sys/wait.h>
#include <vector>

#include <asio/io_context.hpp>
#include <asio/post.hpp>

#include "support/workers.hpp"

extern char** environ;

namespace {

using namespace support;
using drover::Timeout;

class Start : public Workers {};

class UnstartedWorker : public Workers {};
class Reap : public Workers {};
class Stop : public Workers {};
class KillAfter : public Workers {};

// Invalid options fail with invalid_argument before a process is spawned.
TEST_F(Start, ChecksTheOptionsBeforeItSpawns) {
  asio::io_context context;
  const auto refused = [&](auto change, Timeout timeout = 30s) {
    WorkerOptions options = plain_worker();
    change(options);
    LocalWorker worker(context.get_executor(), options);
    const Failure failure = run(context, failure_of(worker.start(timeout)));
    EXPECT_EQ(worker.pid(), 0);
    return failure.argument;
  };
  const auto as_it_is = [](WorkerOptions&) {};
  EXPECT_TRUE(refused(as_it_is, 0s));
  EXPECT_TRUE(refused(as_it_is, -1s));
  EXPECT_TRUE(refused([](WorkerOptions& o) { o.command.program.clear(); }));
  EXPECT_TRUE(refused([](WorkerOptions& o) { o.shutdown_grace = -1ns; }));
  EXPECT_TRUE(refused([](WorkerOptions& o) { o.term_grace = -1s; }));
  EXPECT_TRUE(refused([](WorkerOptions& o) { o.stop_margin = -1s; }));
  EXPECT_TRUE(refused([](WorkerOptions& o) { o.max_in_flight = 0; }));
  EXPECT_TRUE(refused([](WorkerOptions& o) { o.max_message_size = 0; }));
}

// A start that failed with invalid_argument may be repeated.
TEST_F(Start, MayBeRepeatedAfterAnInvalidArgument) {
  asio::io_context context;
  LocalWorker worker(context.get_executor(), plain_worker());
  EXPECT_TRUE(run(context, failure_of(worker.start(0s))).argument);
  run(context, worker.start(10s));
  EXPECT_TRUE(worker.alive());
  run(context, worker.stop());
}

// Construction spawns nothing: operations on an unstarted worker fail with not_running, and a stop stops nothing.
TEST_F(UnstartedWorker, HasNoProcessAndRefusesOperations) {
  asio::io_context context;
  WorkerOptions nonsense;
  nonsense.command.program = "/no/such/program";
  nonsense.shutdown_grace = -1s;
  LocalWorker worker(context.get_executor(), nonsense);
  EXPECT_EQ(worker.pid(), 0);
  EXPECT_FALSE(worker.alive());
  EXPECT_THROW((void)worker.metadata(), Error);
  WorkerOptions options = plain_worker();
  LocalWorker fresh(context.get_executor(), options);
  EXPECT_EQ(run(context, failure_of(fresh.call("pid"))), Errc::not_running);
  EXPECT_EQ(run(context, failure_of(fresh.status())), Errc::not_running);
  const StopReport report = run(context, fresh.stop());
  EXPECT_FALSE(report.rpc);
  EXPECT_EQ(report.exit.kind, ExitStatus::Kind::unknown);
  {
    // A stop begins when it is called: this one has nothing to stop, whenever it is awaited.
    auto too_early = fresh.stop();
    run(context, fresh.start());
    EXPECT_EQ(run(context, std::move(too_early)).exit.kind, ExitStatus::Kind::unknown);
    EXPECT_TRUE(fresh.alive());
    EXPECT_TRUE(run(context, fresh.stop()).exit.success());
    drover::WorkerProcess process(context.get_executor(), plain_worker());
    auto reap_too_early = process.reap();
    run(context, process.start());
    EXPECT_FALSE(run(context, std::move(reap_too_early)).terminated);
    EXPECT_TRUE(process.alive());
    run(context, process.reap(0s));
  }
  LocalWorker empty;
  EXPECT_EQ(run(context, failure_of(empty.start())), Errc::not_running);
  EXPECT_EQ(run(context, failure_of(empty.stop())), Errc::not_running);
}

// A worker may have far more routines than any program needs.
TEST_F(Start, AcceptsThousandsOfRoutines) {
  asio::io_context context;
  LocalWorker worker(context.get_executor(), worker_with({"many-routines", "10000"}));
  run(context, worker.start());
  EXPECT_GT(worker.metadata().routines.size(), 10000u);
  EXPECT_EQ(run(context, worker.call<int>(std::string(60, 'r') + "9999")), 9999);
  run(context, worker.stop());
}

// A started worker has its metadata, its name, its tags and its events.
TEST_F(Start, ProvidesTheWorkersMetadata) {
  asio::io_context context;
  WorkerOptions options = plain_worker();
  options.name = "the first";
  options.tags = {"gpu", "big"};
  options.extra = {{"zone", "north"}};
  std::vector<Event> events;
  options.on_event = [&](const Event& event) { events.push_back(event); };
  {
    LocalWorker worker(context.get_executor(), options);
    run(context, worker.start());
    const drover::WorkerMetadata& metadata = worker.metadata();
    EXPECT_EQ(metadata.name, "the first");
    EXPECT_EQ(metadata.tags, options.tags);
    EXPECT_EQ(metadata.extra, options.extra);
    EXPECT_FALSE(metadata.version.empty());
    EXPECT_TRUE(std::binary_search(metadata.routines.begin(), metadata.routines.end(), "square"));
    EXPECT_EQ(metadata.pid, worker.pid());
    EXPECT_EQ(run(context, worker.call<int>("pid")), worker.pid());
    EXPECT_EQ(run(context, worker.call<int>("parent")), ::getpid());
    run(context, worker.stop());
  }
  drover::WorkerProcess process(context.get_executor(), options);
  const drover::WorkerMetadata metadata = run(context, process.start());
  EXPECT_EQ(metadata.pid, process.pid());
  EXPECT_EQ(metadata.name, "the first");
  const drover::ReapReport report = run(context, process.reap(0s));
  EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
  EXPECT_FALSE(process.alive());
  ASSERT_GE(events.size(), 5u);
  EXPECT_EQ(events[0].kind, Event::Kind::spawned);
  EXPECT_EQ(events[1].kind, Event::Kind::ready);
  EXPECT_EQ(events[2].kind, Event::Kind::stopping);
  EXPECT_EQ(events[3].kind, Event::Kind::exited);
  EXPECT_TRUE(events[3].expected);
  EXPECT_EQ(events[4].kind, Event::Kind::reaped);
}

static_assert(std::is_convertible_v<asio::any_io_executor, LocalWorker>);
static_assert(std::is_convertible_v<asio::any_io_executor, drover::WorkerProcess>);

// A cancelled reap of a worker process does not cut its patience short.
TEST_F(Reap, CancelledKeepsThePatienceOfTheProcess) {
  const auto scenario = []() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    drover::WorkerProcess process(executor, plain_worker());
    co_await process.start();
    asio::cancellation_signal cancel;
    bool ended = false;
    asio::co_spawn(executor, failure_of(process.reap(30s)),
                   asio::bind_cancellation_slot(cancel.slot(), [&](std::exception_ptr, const Failure& failure) {
                     EXPECT_TRUE(failure.aborted()) << failure;
                     ended = true;
                   }));
    co_await asio::post(executor, asio::use_awaitable);  // now it waits
    EXPECT_FALSE(ended);
    cancel.emit(asio::cancellation_type::terminal);
    for (const auto start = Clock::now(); !ended && since(start) < slack;) co_await pause_for(1ms);
    EXPECT_TRUE(ended);
    co_await pause_for(200ms);
    EXPECT_TRUE(process.alive()) << "its patience would have been over";
    const drover::ReapReport report = co_await process.reap(0s);
    EXPECT_TRUE(report.terminated);
    EXPECT_FALSE(process.alive());
  };
  run(scenario());
}

asio::awaitable<Failure> start_and_cancel(std::shared_ptr<LocalWorker> worker, Duration after) {
  const auto executor = co_await asio::this_coro::executor;
  const Task<void> start(executor, worker->start());
  if (after == Duration::zero())
    co_await asio::post(executor, asio::use_awaitable);
  else
    co_await pause_for(after);
  start.cancel();
  co_return co_await start.failure();
}

// A cancelled start returns when nothing of the process and its group is left.
TEST_F(Start, CancelledLeavesNoProcess) {
  const auto cancelled = [](std::vector<std::string> steps, Duration after) -> asio::awaitable<void> {
    const auto begin = Clock::now();
    const auto executor = co_await asio::this_coro::executor;
    WorkerOptions options = worker_with(std::move(steps));
    options.term_grace = 500ms;  // a stubborn grandchild uses all of it
    const auto worker = std::make_shared<LocalWorker>(executor, options);
    const Failure failure = co_await start_and_cancel(worker, after);
    EXPECT_TRUE(failure.aborted()) << failure;
    EXPECT_TRUE(worker->pid() == 0 || gone(worker->pid()));
    EXPECT_LT(since(begin), after + slack);
  };
  run_together({
      [&] { return cancelled({"sleep", "30000"}, 50ms); },
      [&] { return cancelled({"sleep", "30000"}, 0ms); },
      [&] { return cancelled({"stop"}, 50ms); },
      [&] { return cancelled({"unarmed", "sleep", "30000"}, 5ms); },
      [&] { return cancelled({"grandchild", "stubborn", "pause"}, 50ms); },
  });
}

// A start that takes 600 ms does not block the loop.
TEST_F(Start, DoesNotBlockTheLoop) {
  run_together({[]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const Ticker ticker(executor);
    const auto start = Clock::now();
    LocalWorker worker(executor, worker_with({"sleep", "600"}));
    co_await worker.start();
    EXPECT_GE(since(start), 600ms);
    EXPECT_LT(since(start), 600ms + slack);
    EXPECT_LT(ticker.longest_gap(), slowed_down ? 500ms : 100ms);
    co_await worker.stop();
  }});
}

// A start may be cancelled after any handler; either it succeeds or no process is left.
TEST_F(Start, MayBeCancelledAtAnyStep) {
  int cancelled = 0;
  for (int handlers = 0; handlers < 12; ++handlers) {
    asio::io_context context;
    LocalWorker worker(context.get_executor(), plain_worker());
    const Task<void> start(context.get_executor(), worker.start());
    for (int i = 0; i < handlers && !start.done(); ++i) context.run_one_for(2s);
    asio::post(context, [&] { start.cancel(); });
    const Failure failure = run(context, start.failure());
    EXPECT_TRUE(failure.aborted() || (!failure && worker.alive())) << handlers << ": " << failure;
    if (failure) {
      ++cancelled;
      EXPECT_TRUE(worker.pid() == 0 || gone(worker.pid())) << handlers;
    } else {
      run(context, worker.stop());
    }
  }
  EXPECT_GT(cancelled, 0);
}

// A second start fails with a logic_error and harms nothing.
TEST_F(Start, CalledAgainFailsAndHarmsNothing) {
  asio::io_context context;
  LocalWorker worker(context.get_executor(), plain_worker());
  const Task<void> first(context.get_executor(), worker.start());
  EXPECT_TRUE(run(context, failure_of(worker.start())).logic);
  EXPECT_FALSE(run(context, first.failure()));
  EXPECT_TRUE(run(context, failure_of(worker.start())).logic);
  EXPECT_EQ(run(context, worker.call<int>("square", 5)), 25);
  run(context, worker.stop());
  EXPECT_TRUE(run(context, failure_of(worker.start())).logic);
}

/// The kernel's names of the sockets of a process.
std::set<std::string> sockets_of(pid_t pid) {
  std::set<std::string> sockets;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
    std::error_code ec;
    const std::string target = std::filesystem::read_symlink(entry.path(), ec);
    if (target.starts_with("socket:")) sockets.insert(target);
  }
  return sockets;
}

bool disjoint(const std::set<std::string>& a, const std::set<std::string>& b) {
  return std::none_of(a.begin(), a.end(), [&](const std::string& socket) { return b.count(socket) != 0; });
}

// The sockets of a worker reach neither another worker nor a process that the program spawns itself.
TEST_F(Start, PassesTheSocketsToTheWorkerOnly) {
  const auto outer = sockets_of(::getpid());  // the stdio of the test may be a socket
  const auto drovers = [&](std::set<std::string> sockets) {
    for (const auto& socket : outer) sockets.erase(socket);
    return sockets;
  };
  asio::io_context context;
  LocalWorker first(context.get_executor(), plain_worker()), second(context.get_executor(), plain_worker());
  run(context, first.start());
  pid_t foreign = 0;
  char* const argv[] = {const_cast<char*>("sleep"), const_cast<char*>("30"), nullptr};
  ASSERT_EQ(::posix_spawnp(&foreign, "sleep", nullptr, nullptr, argv, environ), 0);
  run(context, second.start());
  const auto ours = drovers(sockets_of(::getpid())), of_first = drovers(sockets_of(first.pid())),
             of_second = drovers(sockets_of(second.pid()));
  EXPECT_EQ(ours.size(), 4u);
  EXPECT_EQ(of_first.size(), 2u);
  EXPECT_EQ(of_second.size(), 2u);
  EXPECT_TRUE(disjoint(ours, of_first) && disjoint(ours, of_second) && disjoint(of_first, of_second));
  EXPECT_TRUE(drovers(sockets_of(foreign)).empty());
  ::kill(foreign, SIGKILL);
  ::waitpid(foreign, nullptr, 0);
  run(context, first.stop());
  run(context, second.stop());
}

// A static destructor that hangs is cut off by the hard exit within the budget of the stop.
TEST_F(Stop, HangingStaticDestructorEndsWithTheBudget) {
  const auto hanging = [](Timeout grace, Duration stop_margin, Duration shutdown_grace,
                          Duration bound) -> asio::awaitable<void> {
    WorkerOptions options = plain_worker();
    options.stop_margin = stop_margin;
    options.shutdown_grace = shutdown_grace;
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    co_await worker.call("hang_at_exit");
    const auto start = Clock::now();
    const StopReport report = co_await worker.stop(grace);
    EXPECT_FALSE(report.rpc) << report.rpc.message();
    EXPECT_EQ(report.exit.value, 1) << report.exit.to_string();
    if (!slowed_down) {  // otherwise SIGTERM may arrive during the hard exit
      EXPECT_FALSE(report.terminated);
    }
    EXPECT_LT(since(start), bound + slack);
  };
  run_together({
      [&] { return hanging(0s, 1s, 10s, 1s); },
      [&] { return hanging(200ms, 1s, 10s, 1200ms); },
      [&] { return hanging(std::nullopt, 10s, 1s, 1s); },
  });
}

// Tracers, sandboxes, timeout(1) and scripts fork before they execute the worker.
TEST_F(Start, AcceptsAWrapperThatForks) {
  const std::string worker = DROVER_HELPER_CALL_WORKER;
  const std::vector<std::vector<std::string>> wrappers{
      {"/bin/sh", "-c", worker + "; exit $?"},
      {"/bin/sh", "-c", worker + " & wait"},
      {"timeout", "60", worker},
      {"setsid", "--wait", worker},
      {"/bin/sh", "-c", "setsid --wait timeout 60 " + worker + "; exit $?"}};
  for (const auto& wrapper : wrappers) {
    SCOPED_TRACE(wrapper[0] + " " + wrapper.back());
    run([](std::vector<std::string> words) -> asio::awaitable<void> {
      WorkerOptions options;
      options.command.program = words[0];
      options.command.args = std::vector<std::string>(words.begin() + 1, words.end());
      LocalWorker started(co_await asio::this_coro::executor, options);
      co_await started.start();
      const int pid = co_await started.call<int>("pid");
      EXPECT_EQ(started.metadata().pid, pid);
      EXPECT_NE(started.pid(), pid);
      const StopReport report = co_await started.stop(5s);
      EXPECT_FALSE(report.rpc) << report.rpc.message();
      const bool ended = co_await sees_gone(pid);
      EXPECT_TRUE(ended);
    }(wrapper));
  }
}

// kill_after reaches the worker itself, not only the wrapper that drover has started.
TEST_F(KillAfter, ReachesAWorkerBehindAWrapper) {
  run([]() -> asio::awaitable<void> {
    WorkerOptions options;
    options.command.program = "/bin/sh";
    options.command.args = {"-c", std::string(DROVER_HELPER_CALL_WORKER) + "; exit $?"};
    options.term_grace = 500ms;  // all of which it uses where there are no pidfds
    LocalWorker started(co_await asio::this_coro::executor, options);
    co_await started.start();
    const pid_t pid = started.metadata().pid;
    const drover::CallOptions hurried{.deadline = 100ms, .kill_after = 100ms};
    const Failure failure = co_await failure_of(started.call(hurried, "work", 30000));
    EXPECT_EQ(failure, Errc::deadline_exceeded) << failure;
    EXPECT_NE(failure.text.find("'work'"), std::string::npos) << failure;
    EXPECT_NE(failure.text.find("ran in worker"), std::string::npos) << failure;
    const bool ended = co_await sees_gone(pid, 3s);
    EXPECT_TRUE(ended);
    co_await started.stop();
  }());
}

}  // namespace
