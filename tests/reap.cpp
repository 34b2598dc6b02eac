#include <algorithm>
#include <gtest/gtest.h>
#include <memory>
#include <semaphore>
#include <signal.h>
#include <string>
#include <sys/wait.h>
#include <system_error>
#include <thread>
#include <tuple>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/os/detail/child_process.hpp>
#include <drover/os/process.hpp>

#include "support/processes.hpp"
#include "support/ticker.hpp"

namespace {

using namespace support;
using drover::ReapPlan;
using drover::ReapReport;
using Kind = ExitStatus::Kind;

const ExitStatus by_sigterm{Kind::signaled, SIGTERM, false};
const ExitStatus by_sigkill{Kind::signaled, SIGKILL, false};

class Reap : public Processes {};

/// A child that has completed its steps up to `say x`.
Process started(std::vector<std::string> steps) {
  ReadPipe pipe;
  Command command = child(std::move(steps));
  command.out = pipe.stdio();
  auto process = Process::spawn(command);
  pipe.byte();
  return process;
}

/// Waits until the process has exited and its status has been collected.
bool soon_reaped(pid_t pid, Duration bound) {
  const auto until = Clock::now() + bound;
  while (::kill(pid, 0) == 0) {
    if (Clock::now() > until) return false;
    ::poll(nullptr, 0, 2);
  }
  return true;
}

TEST_F(Reap, SendsNoSignalWithinThePatience) {
  auto process = started({"say", "x", "sleep", "300", "exit", "4"});
  const auto start = Clock::now();
  const auto report = run(process.reap(5s));
  EXPECT_LT(since(start), 300ms + slack);
  EXPECT_EQ(report.exit, (ExitStatus{Kind::exited, 4, false}));
  EXPECT_FALSE(report.terminated);
  EXPECT_FALSE(report.killed);
  EXPECT_GT(report.elapsed, 200ms);
  EXPECT_LE(report.elapsed, since(start));
}

TEST_F(Reap, WithoutPatienceTerminatesAtOnce) {
  auto process = started({"exit-on", "15", "600", "6", "say", "x", "pause"});
  const auto start = Clock::now();
  const auto report = run(process.reap(0s));
  EXPECT_GE(since(start), 600ms);
  EXPECT_LT(since(start), 600ms + slack);
  EXPECT_EQ(report.exit, (ExitStatus{Kind::exited, 6, false}));
  EXPECT_TRUE(report.terminated);
  EXPECT_FALSE(report.killed);
}

TEST_F(Reap, KillsAfterPatienceAndTermGrace) {
  auto process = started({"ignore", "15", "say", "x", "pause"});
  const auto start = Clock::now();
  const auto report = run(process.reap({.patience = 200ms, .term_grace = 300ms}));
  EXPECT_GE(since(start), 500ms);
  EXPECT_LT(since(start), 500ms + slack);
  EXPECT_EQ(report.exit, by_sigkill);
  EXPECT_TRUE(report.terminated);
  EXPECT_TRUE(report.killed);
}

TEST_F(Reap, KillsAProcessThatSuspendsItself) {
  auto process = started({"ignore", "15", "say", "x", "raise", "19", "raise", "19", "raise", "19"});
  await_stopped(process.pid());
  const auto start = Clock::now();
  const auto report = run(process.reap({.patience = 100ms, .term_grace = 200ms}));
  EXPECT_GE(since(start), 300ms);
  EXPECT_EQ(report.exit, by_sigkill);
  EXPECT_TRUE(report.terminated);
  EXPECT_TRUE(report.killed);
}

TEST_F(Reap, WakesASuspendedProcessForSigterm) {
  auto process = started({"exit-on", "15", "0", "8", "say", "x", "raise", "19", "pause"});
  await_stopped(process.pid());
  const auto report = run(process.reap(0s));
  EXPECT_EQ(report.exit, (ExitStatus{Kind::exited, 8, false}));
  EXPECT_TRUE(report.terminated);
  EXPECT_FALSE(report.killed);
}

TEST_F(Reap, OfExitedProcessReturnsTheSameReport) {
  auto process = Process::spawn(child({"exit", "3"}));
  siginfo_t info{};
  ::waitid(P_PID, static_cast<id_t>(process.pid()), &info, WEXITED | WNOWAIT);
  const auto start = Clock::now();
  const auto first = run(process.reap(10s));
  const auto second = run(process.reap(0s));
  EXPECT_LT(since(start), slack);
  EXPECT_EQ(first.exit, (ExitStatus{Kind::exited, 3, false}));
  EXPECT_FALSE(first.terminated);
  EXPECT_EQ(std::tie(first.exit, first.terminated, first.killed, first.elapsed),
            std::tie(second.exit, second.terminated, second.killed, second.elapsed));
}

TEST_F(Reap, ConcurrentReapsShareTheShortestPatience) {
  asio::io_context context;
  auto process = started({"say", "x", "pause"});
  std::vector<ReapReport> reports;
  const auto keep = [&](std::exception_ptr, ReapReport report) { reports.push_back(report); };
  const auto start = Clock::now();
  asio::co_spawn(context, process.reap(1h), keep);
  asio::co_spawn(context, process.reap(100ms), keep);
  asio::co_spawn(context, process.reap(std::nullopt), keep);
  context.run();
  EXPECT_GE(since(start), 100ms);
  EXPECT_LT(since(start), 100ms + slack);
  ASSERT_EQ(reports.size(), 3u);
  for (const auto& report : reports) {
    EXPECT_EQ(report.exit, by_sigterm);
    EXPECT_EQ(report.elapsed, reports[0].elapsed);
  }
}

TEST_F(Reap, BeginsWhenCalledNotWhenAwaited) {
  auto process = started({"say", "x", "pause"});
  static_cast<void>(process.reap(0s));
  EXPECT_EQ(run(process.wait()), by_sigterm);
}

TEST_F(Reap, RefusesNegativeBounds) {
  auto process = started({"say", "x", "pause"});
  EXPECT_THROW(static_cast<void>(process.reap(-1ns)), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(process.reap({.patience = 0s, .term_grace = -1ns})), std::invalid_argument);
  EXPECT_TRUE(process.running());
  EXPECT_EQ(run(process.reap(0s)).exit, by_sigterm);
}

TEST_F(Reap, LeavesNoGrandchildren) {
  const std::vector<std::vector<std::string>> families{
      {"fork", "say-pid", "pause", "end", "pause"},                              // plain
      {"fork", "ignore", "15", "say-pid", "pause", "end", "pause"},              // ignores SIGTERM
      {"fork", "fork", "say-pid", "pause", "end", "exit", "0", "end", "pause"},  // already an orphan
      {"fork", "say-pid", "raise", "19", "pause", "end", "pause"},               // suspended
  };
  for (const auto& steps : families) {
    const bool stubborn = steps[1] == "ignore";  // it uses the whole grace
    for (int round = 0; round < 10; ++round) {
      ReadPipe pipe;
      Command command = child(steps);
      command.out = pipe.stdio();
      auto process = Process::spawn(command);
      const pid_t grandchild = pipe.pid();
      run(process.reap({.patience = round % 2 == 0 ? 0ms : 10ms, .term_grace = stubborn ? 100ms : 5s}));
      EXPECT_TRUE(gone(grandchild));
    }
  }
}

// The leader exits by itself, before or during the reap.
TEST_F(Reap, LeavesNoGrandchildrenOfAnExitedLeader) {
  for (int round = 0; round < 10; ++round) {
    ReadPipe pipe;
    Command command = child({"exit-on", "10", "0", "2", "fork", "ignore", "15", "say-pid", "pause", "end", "pause"});
    command.out = pipe.stdio();
    auto process = Process::spawn(command);
    const pid_t grandchild = pipe.pid();
    process.signal(SIGUSR1);
    EXPECT_EQ(round % 2 == 0 ? run(process.wait()).value : run(process.reap(5s)).exit.value, 2);
    EXPECT_TRUE(gone(grandchild));
  }
}

TEST_F(Reap, ManyReapsAtOnceDoNotBlockTheLoop) {
  asio::io_context context;
  std::vector<Process> processes;
  for (int i = 0; i < 8; ++i) {
    processes.push_back(started({"ignore", "15", "say", "x", "raise", "19", "raise", "19"}));
    await_stopped(processes.back().pid());
  }
  int killed = 0;
  const support::Ticker ticker(context.get_executor());
  const auto start = Clock::now();
  for (auto& process : processes)
    asio::co_spawn(context, process.reap({.patience = 200ms, .term_grace = 500ms}),
                   [&](std::exception_ptr, ReapReport report) {
                     killed += report.killed;
                     if (killed == 8) context.stop();
                   });
  context.run_for(20s);
  EXPECT_EQ(killed, 8);
  EXPECT_GE(since(start), 700ms);
  EXPECT_LT(since(start), 700ms + slack);
  EXPECT_LE(ticker.longest_gap(), 100ms);
}

enum class Blow { cancel, cancel_twice, stop_context, destroy_context, destroy_owner, everything };

class InterruptedReap : public Processes, public ::testing::WithParamInterface<std::tuple<Blow, int>> {};

// The awaiter is cancelled or destroyed at the beginning, during the patience, after SIGTERM, and about when SIGKILL is
// sent.
TEST_P(InterruptedReap, StillReapsTheProcess) {
  const auto [blow, moment] = GetParam();
  auto context = std::make_unique<asio::io_context>();
  auto process = std::make_unique<Process>(started({"ignore", "15", "say", "x", "pause"}));
  const pid_t pid = process->pid();
  asio::cancellation_signal cancel;
  int ends = 0;
  const auto start = Clock::now();
  asio::co_spawn(*context, process->reap({.patience = 40ms, .term_grace = 60ms}),
                 asio::bind_cancellation_slot(cancel.slot(), [&](std::exception_ptr, ReapReport) { ++ends; }));
  if (moment > 0) context->run_for(std::chrono::milliseconds(moment));
  switch (blow) {
    case Blow::cancel_twice:
      cancel.emit(asio::cancellation_type::terminal);
      context->restart();
      context->poll();
      [[fallthrough]];
    case Blow::cancel:
      cancel.emit(asio::cancellation_type::terminal);
      context->restart();
      context->run_for(moment == 100 ? 10s : 20ms);
      EXPECT_EQ(ends, 1);
      break;
    case Blow::stop_context: context->stop(); break;
    case Blow::destroy_context: context.reset(); break;
    case Blow::everything:
      cancel.emit(asio::cancellation_type::terminal);
      context.reset();
      [[fallthrough]];
    case Blow::destroy_owner: process.reset(); break;
  }
  EXPECT_TRUE(soon_reaped(pid, 100ms + slack));
  EXPECT_GE(since(start), 100ms);  // and not because it was killed too early
}

INSTANTIATE_TEST_SUITE_P(AtEveryStep, InterruptedReap,
                         ::testing::Combine(::testing::Values(Blow::cancel, Blow::cancel_twice, Blow::stop_context,
                                                              Blow::destroy_context, Blow::destroy_owner,
                                                              Blow::everything),
                                            ::testing::Values(0, 20, 70, 100)));

// The coroutine has been cancelled before its clean-up calls reap().
TEST_F(Reap, InACancelledCoroutineStillReaps) {
  asio::io_context context;
  asio::cancellation_signal cancel;
  auto process = started({"say", "x", "pause"});
  auto body = [&process]() -> asio::awaitable<void> {
    bool cancelled = false;
    try {
      co_await process.wait();
    } catch (const std::system_error&) {
      cancelled = true;
    }
    EXPECT_TRUE(cancelled);
    co_await process.reap(0s);  // throws at once, but the reap has begun
  };
  asio::co_spawn(context, body(), asio::bind_cancellation_slot(cancel.slot(), [](std::exception_ptr) {}));
  context.poll();
  cancel.emit(asio::cancellation_type::terminal);
  context.run();
  EXPECT_TRUE(soon_reaped(process.pid(), slack));
}

// The median of five, as a busy machine may delay any single one.
TEST_F(Reap, OfADestroyedOwnerDoesNotBlock) {
  std::vector<Duration> took;
  for (int i = 0; i < 5; ++i) {
    auto process = std::make_unique<Process>(started({"exit-on", "15", "50", "0", "say", "x", "raise", "19", "pause"}));
    const pid_t pid = process->pid();
    await_stopped(pid);
    const auto start = Clock::now();
    process.reset();
    took.push_back(since(start));
    EXPECT_TRUE(soon_reaped(pid, slack));
  }
  std::sort(took.begin(), took.end());
  EXPECT_LT(took[2], 10ms);
}

TEST_F(Reap, OfAnAbandonedChildKillsAfterTermGrace) {
  drover::detail::SpawnOptions extras;
  extras.term_grace = 200ms;
  ReadPipe pipe;
  Command command = child({"ignore", "15", "say", "x", "pause"});
  command.out = pipe.stdio();
  const auto child = drover::detail::ChildProcess::spawn(command, extras);
  pipe.byte();
  const auto start = Clock::now();
  child->abandon();
  run(drover::detail::AsyncEvent::wait(child->ended()));
  EXPECT_GE(since(start), 200ms);
  EXPECT_EQ(child->exit_status(), by_sigkill);
}

TEST_F(Reap, ObserverSeesEachStepInOrder) {
  using drover::detail::ChildEvent;
  std::vector<ChildEvent> events;
  drover::detail::SpawnOptions extras;
  extras.observer = [&](const ChildEvent& event) { events.push_back(event); };
  ReadPipe pipe;
  Command command = child({"ignore", "15", "say", "x", "pause"});
  command.out = pipe.stdio();
  const auto child = drover::detail::ChildProcess::spawn(command, extras);
  pipe.byte();
  const auto start = Clock::now();
  child->reap({.patience = 50ms, .term_grace = 50ms});
  run(drover::detail::AsyncEvent::wait(child->settled()));
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[3].kind, ChildEvent::Kind::group_over);
  EXPECT_EQ(events[0].kind, ChildEvent::Kind::terminate_sent);
  EXPECT_EQ(events[1].kind, ChildEvent::Kind::kill_sent);
  EXPECT_EQ(events[2].kind, ChildEvent::Kind::ended);
  EXPECT_GE(events[0].at, start + 50ms);
  EXPECT_GE(events[1].at, start + 100ms);
  EXPECT_GE(events[2].at, events[1].at);
}

// A process that has got SIGTERM is suspended and continued long before SIGKILL is due.
TEST_F(Reap, ReportsSuspensionsBetweenItsSignals) {
  using drover::detail::ChildEvent;
  std::binary_semaphore terminated{0}, stopped{0}, continued{0};
  drover::detail::SpawnOptions extras;
  extras.observes_stops = true;
  extras.observer = [&](const ChildEvent& event) {
    if (event.kind == ChildEvent::Kind::terminate_sent) terminated.release();
    if (event.kind == ChildEvent::Kind::stopped) stopped.release();
    if (event.kind == ChildEvent::Kind::continued) continued.release();
  };
  ReadPipe pipe;
  Command command = child({"ignore", "15", "say", "x", "pause"});
  command.out = pipe.stdio();
  const auto child = drover::detail::ChildProcess::spawn(command, extras);
  pipe.byte();
  child->reap({.patience = 0s, .term_grace = 60s});
  EXPECT_TRUE(terminated.try_acquire_for(slack));
  child->signal(SIGSTOP);
  EXPECT_TRUE(stopped.try_acquire_for(1s + slack));
  child->signal(SIGCONT);
  EXPECT_TRUE(continued.try_acquire_for(1s + slack));
  child->signal(SIGKILL);
  run(drover::detail::AsyncEvent::wait(child->settled()));
}

TEST_F(Reap, MayRunBesideOtherMembersOnAnyThread) {
  for (int round = 0; round < 30; ++round) {
    auto process = started({"exit-on", "15", "0", "0", "say", "x", "pause"});
    std::vector<std::thread> threads;
    threads.emplace_back([&] { EXPECT_TRUE(run(process.wait()).kind != Kind::unknown); });
    threads.emplace_back([&] { run(process.reap(1ms)); });
    threads.emplace_back([&] { run(process.reap({.patience = 2ms, .term_grace = 1ms})); });
    threads.emplace_back([&] {
      while (process.running()) process.signal(SIGCONT);
      EXPECT_TRUE(process.exit_status());
    });
    for (auto& thread : threads) thread.join();
  }
}

}  // namespace
