// STALLED: which stalls of its main loop a worker reports, and with which call, seen from the other side of its
// sockets.
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "support/raw_parent.hpp"
#include "support/sanitizers.hpp"

namespace {

using namespace raw;

class WorkerStall : public raw::Test {
 protected:
  static constexpr auto stall = 200ms;
  static constexpr int long_ms = 1200;  // of a stall that is reported for sure

  static Options watched(std::chrono::nanoseconds after = stall) { return {.stall = after}; }

  struct Report {
    std::uint64_t call = 0;
    std::chrono::nanoseconds age{};
  };
  static Report report(Worker& worker) {
    const auto answer = worker.next_reply();
    EXPECT_TRUE(answer) << "no STALLED";
    if (!answer) return {};
    EXPECT_EQ(answer->header.type, FrameType::stalled);
    const auto body = drover::detail::decode_body<drover::detail::StallBody>(answer->body);
    EXPECT_TRUE(body);
    return {answer->header.id, std::chrono::nanoseconds(body ? body->for_ns : 0)};
  }
  /// The control thread has reported nothing before it answers this.
  static void expect_no_report(Worker& worker) { worker.status(); }
};

TEST_F(WorkerStall, OfAPlainRoutineNamesItsCall) {
  Worker worker(watched());
  worker.expect_hello();
  worker.call("echo", std::string("x"));
  worker.result();
  const std::uint64_t call = worker.call("work", long_ms);
  ASSERT_TRUE(worker.told('b'));
  const Stopwatch watch;
  const Report found = report(worker);
  EXPECT_GE(watch.elapsed(), stall - 50ms) << "it begins a little before it says so";
  EXPECT_LT(watch.elapsed(), stall * 5 / 4 + slack);
  EXPECT_EQ(found.call, call);
  EXPECT_GE(found.age, stall);
  EXPECT_LT(found.age, stall * 5 / 4);
  EXPECT_EQ(worker.result().as<std::string>(), "worked");
  expect_no_report(worker);
  expect_clean_stop(worker);
}

// Other calls are in flight, and one waits behind it. They are not the cause.
TEST_F(WorkerStall, OfACoroutineNamesItsCallAmongOthers) {
  Worker worker(watched());
  worker.expect_hello();
  worker.call("nap", 30000, 0);
  ASSERT_TRUE(worker.told('b'));
  const std::uint64_t call = worker.call("block_after", 300, long_ms);
  ASSERT_TRUE(worker.told('b'));
  worker.call("echo", std::string("x"));
  EXPECT_EQ(report(worker).call, call);
  worker.result();
  worker.result();
  expect_no_report(worker);
  expect_clean_stop(worker);
}

TEST_F(WorkerStall, OfAPlainRoutineAmongCoroutinesNamesItsCall) {
  Worker worker(watched());
  worker.expect_hello();
  for (int i = 0; i < 3; ++i) {
    worker.call("nap", 30000, 0);
    ASSERT_TRUE(worker.told('b'));
  }
  worker.call("nap", 1, 0);
  ASSERT_TRUE(worker.told('b'));
  worker.result();
  const std::uint64_t call = worker.call("work", long_ms);
  EXPECT_EQ(report(worker).call, call);
  EXPECT_EQ(worker.result().header.id, call);
  expect_clean_stop(worker);
}

// A call waits unread behind a handler that belongs to no call.
TEST_F(WorkerStall, OfAHandlerNamesNoCall) {
  Worker worker(watched());
  worker.expect_hello();
  worker.call("block_behind", 10, long_ms);
  worker.result();
  ASSERT_TRUE(worker.told('b'));
  worker.call("echo", std::string("x"));
  EXPECT_EQ(report(worker).call, drover::detail::no_call);
  EXPECT_EQ(worker.result().as<std::string>(), "x");
  expect_clean_stop(worker);
}

// The same while a coroutine waits, which is not the one that blocks.
TEST_F(WorkerStall, OfAHandlerBesideACoroutineNamesNoCall) {
  Worker worker(watched());
  worker.expect_hello();
  worker.call("block_behind", 200, long_ms);
  worker.result();
  worker.call("nap", 30000, 0);
  ASSERT_TRUE(worker.told('b'));
  ASSERT_TRUE(worker.told('b'));
  EXPECT_EQ(report(worker).call, drover::detail::no_call);
  expect_clean_stop(worker);
}

TEST_F(WorkerStall, IsReportedOnceAndTheNextOneAgain) {
  Worker worker(watched());
  worker.expect_hello();
  for (int i = 0; i < 2; ++i) {
    const std::uint64_t call = worker.call("work", long_ms);
    EXPECT_EQ(report(worker).call, call);
    worker.result();
    expect_no_report(worker);
  }
  // Without a pause between the two, in which no call would be in progress.
  const std::uint64_t first = worker.queue_call("work", long_ms), second = worker.queue_call("work", long_ms);
  Worker::flush(worker.data);
  EXPECT_EQ(report(worker).call, first);
  EXPECT_EQ(report(worker).call, second);
  worker.result();
  worker.result();
  expect_no_report(worker);
  expect_clean_stop(worker);
}

// The control thread takes no lock of the routine's.
TEST_F(WorkerStall, OfARoutineThatHoldsTheAllocatorIsReported) {
  Worker worker(watched());
  worker.expect_hello();
  const std::uint64_t call = worker.call("hold_the_allocator");
  EXPECT_EQ(report(worker).call, call);
  worker.stop(0s, 100ms);
  worker.stop_reply();
  EXPECT_EQ(worker.exit_status(), drover::detail::exit_cut_off);
}

// The bound is longer than each of them, their sum is not.
TEST_F(WorkerStall, IsNoSeriesOfShortRoutines) {
  constexpr int calls = 30;
  Worker worker(watched(1s));
  worker.expect_hello();
  for (int i = 0; i < calls; ++i) worker.queue_call("work", 100);
  Worker::flush(worker.data);
  for (int i = 0; i < calls; ++i) EXPECT_EQ(worker.result().as<std::string>(), "worked");
  expect_no_report(worker);
  expect_clean_stop(worker);
}

TEST_F(WorkerStall, IsNoCoroutineThatWaits) {
  Worker worker(watched(500ms));
  worker.expect_hello();
  for (int i = 0; i < 3; ++i) worker.call("nap", 2500, 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(worker.result().as<std::string>(), "slept");
  expect_no_report(worker);
  expect_clean_stop(worker);
}

// Without a call nobody waits, and the loop may be blocked.
TEST_F(WorkerStall, IsNoHandlerWithoutACall) {
  Worker worker(watched());
  worker.expect_hello();
  worker.call("block_behind", 10, long_ms);
  worker.result();
  ASSERT_TRUE(worker.told('b'));
  const Stopwatch watch;
  while (watch.elapsed() < stall * 4) expect_no_report(worker);
  expect_clean_stop(worker);
}

// The control thread does not run meanwhile either. The routine runs on when both are continued, and is cancelled.
TEST_F(WorkerStall, IsNoSuspension) {
  Worker worker(watched(2s));
  worker.expect_hello();
  const std::uint64_t call = worker.call("until_stopped");
  ASSERT_TRUE(worker.told('b'));
  std::this_thread::sleep_for(700ms);  // until the loop has been asked to turn
  ::kill(worker.pid, SIGSTOP);
  int status = 0;
  ASSERT_EQ(::waitpid(worker.pid, &status, WUNTRACED), worker.pid);
  std::this_thread::sleep_for(3s);  // its length is what the test is about
  ::kill(worker.pid, SIGCONT);
  expect_no_report(worker);
  worker.cancel(call);
  worker.result();
  expect_no_report(worker);
  expect_clean_stop(worker);
}

TEST_F(WorkerStall, IsReportedToThoseOnlyWhoAskForIt) {
  Worker worker;
  worker.expect_hello();
  worker.call("work", long_ms);
  worker.result();
  expect_no_report(worker);
  expect_clean_stop(worker);
}

// While it drains it still reports. Its stop has a bound of its own.
TEST_F(WorkerStall, IsReportedDuringAStop) {
  Worker worker(watched());
  worker.expect_hello();
  const std::uint64_t call = worker.call("work", long_ms);
  ASSERT_TRUE(worker.told('b'));
  worker.stop(10s, 20s);
  EXPECT_EQ(report(worker).call, call);
  worker.result();
  EXPECT_EQ(worker.stop_reply().drained, 1u);
  EXPECT_EQ(worker.exit_status(), 0);
}

// ---- its cost -------------------------------------------------------------------------------------------------------

#ifndef DROVER_TEST_TSAN  // which has a thread of its own in each process
/// How often the threads of a process have gone to sleep, see proc_pid_status(5): a thread that makes a system call has
/// woken up before.
std::uint64_t sleeps(pid_t pid) {
  std::uint64_t count = 0;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
    std::ifstream status(thread.path() / "status");
    const std::string wanted = "voluntary_ctxt_switches:";
    for (std::string line; std::getline(status, line);)
      if (line.starts_with(wanted)) count += std::stoull(line.substr(wanted.size()));
  }
  return count;
}

// It looks only while it has calls, and stops soon after them.
TEST_F(WorkerStall, CostsAnIdleWorkerNothing) {
  Worker worker(watched(100ms));
  worker.expect_hello();
  for (int i = 0; i < 3; ++i) {
    worker.call("nap", 300, 0);
    worker.result();
    // Until it has had its last look, a quarter of the time later.
    std::uint64_t before = sleeps(worker.pid);
    for (Stopwatch still, all; still.elapsed() < 100ms && all.elapsed() < 5s; ::usleep(1000))
      if (const std::uint64_t now = sleeps(worker.pid); now != before) before = now, still = Stopwatch();
    ::usleep(1'000'000);  // ten times as long as a stall
    EXPECT_EQ(sleeps(worker.pid), before);
  }
  expect_clean_stop(worker);
}
#endif

}  // namespace
