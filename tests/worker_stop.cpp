// How a worker exits when it is asked to: STOP, signals, and the hard exit when nothing else helps.
#include <random>
#include <thread>

#include "support/raw_parent.hpp"

namespace {

using namespace raw;

class WorkerStop : public raw::Test {};
class WorkerSignal : public raw::Test {};

// ---- STOP -----------------------------------------------------------------------------------------------------------

TEST_F(WorkerStop, IdleWorkerExitsAtOnce) {
  using Grace = std::optional<Clock::duration>;
  for (const Grace grace : {Grace(0s), Grace(5s), Grace(60s), Grace()}) {
    Worker worker;
    worker.expect_hello();
    const Stopwatch watch;
    worker.stop(grace, grace ? Grace(*grace + 5s) : Grace());
    const auto reply = worker.stop_reply();
    EXPECT_EQ(reply.drained + reply.cancelled + reply.cut, 0u);
    EXPECT_EQ(worker.exit_status(), 0);
    EXPECT_LT(watch.elapsed(), slack);
  }
}

TEST_F(WorkerStop, DrainsCallsThatFinishInTime) {
  Worker worker;
  worker.expect_hello();
  worker.call("nap", 300, 0);
  worker.call("work", 100);
  ASSERT_TRUE(worker.told('b'));
  ASSERT_TRUE(worker.told('b'));
  worker.stop(10s, 15s);
  EXPECT_EQ(worker.result().as<std::string>(), "worked");
  EXPECT_EQ(worker.result().as<std::string>(), "slept");
  const auto reply = worker.stop_reply();
  EXPECT_EQ(reply.drained, 2u);
  EXPECT_EQ(reply.cancelled, 0u);
  EXPECT_EQ(worker.exit_status(), 0);
}

// Times from the wire are clamped: their sums must not overflow, and the hard exit must come.
TEST_F(WorkerStop, ClampsTimesThatAreOutOfRange) {
  constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min(), never = drover::detail::never;
  const drover::detail::StopBody bodies[] = {{.drain_until = least, .end_by = least},
                                             {.drain_until = never - 1, .end_by = least},
                                             {.drain_until = least, .end_by = -1},
                                             {.drain_until = 0, .end_by = 0}};
  for (const auto& body : bodies) {
    SCOPED_TRACE(testing::Message() << body.drain_until << ", " << body.end_by);
    Worker worker;
    worker.expect_hello();
    worker.call("spin");
    ASSERT_TRUE(worker.told('b'));
    const Stopwatch watch;
    worker.stop(body);
    EXPECT_EQ(worker.exit_status(), 1);
    EXPECT_LT(watch.elapsed(), slack);
  }
}

TEST_F(WorkerStop, CancelsCallsStillRunningAtGrace) {
  Worker worker;
  worker.expect_hello();
  worker.call("nap", 30000, 200);
  ASSERT_TRUE(worker.told('b'));
  const Stopwatch watch;
  worker.stop(1s, 6s);
  EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
  EXPECT_GE(watch.elapsed(), 1200ms);
  EXPECT_TRUE(worker.told('c'));
  const auto reply = worker.stop_reply();
  EXPECT_EQ(reply.drained, 0u);
  EXPECT_EQ(reply.cancelled, 1u);
  EXPECT_EQ(reply.cut, 0u);
  EXPECT_EQ(worker.exit_status(), 0);
  EXPECT_LT(watch.elapsed(), 1200ms + slack);
}

TEST_F(WorkerStop, ZeroGraceCancelsAtOnce) {
  for (const char* routine : {"until_stopped", "coroutine_until_stopped", "abort_when_stopped"}) {
    SCOPED_TRACE(routine);
    Worker worker;
    worker.expect_hello();
    worker.call(routine);
    ASSERT_TRUE(worker.told('b'));
    const Stopwatch watch;
    worker.stop(0s, 5s);
    const bool returned = worker.result().status() == ResultStatus::ok;
    const auto reply = worker.stop_reply();
    EXPECT_EQ(reply.drained, returned ? 1u : 0u);  // counted by its outcome
    EXPECT_EQ(reply.cancelled, returned ? 0u : 1u);
    EXPECT_EQ(worker.exit_status(), 0);
    EXPECT_LT(watch.elapsed(), slack);
  }
}

TEST_F(WorkerStop, CutsOffEndlessRoutinesBeforeTheDeadline) {
  for (const char* routine : {"spin", "block_stop_callback", "hold_the_allocator"}) {
    SCOPED_TRACE(routine);
    Worker worker;
    worker.expect_hello();
    worker.queue_call("echo", std::string("x"));
    worker.queue_call(routine);
    worker.queue_call("echo", std::string("waits behind it"));
    Worker::flush(worker.data);
    ASSERT_TRUE(worker.told('b'));
    const Stopwatch watch;
    worker.stop(300ms, 800ms);
    const auto reply = worker.stop_reply();
    EXPECT_GE(watch.elapsed(), 600ms);
    EXPECT_EQ(reply.cut, 1u);
    EXPECT_EQ(reply.cancelled, 2u);
    EXPECT_EQ(worker.exit_status(), 1);
    EXPECT_LT(watch.elapsed(), 600ms + slack);
  }
}

TEST_F(WorkerStop, DrainsCallsThatAreStillUnread) {
  for (int i = 0; i < 100; ++i) {
    Worker worker;
    worker.expect_hello();
    // Everything that can be on its way when STOP overtakes it.
    worker.queue_call("echo", std::string(150'000, 'a'));
    worker.queue_call("nap", 1, 0);
    worker.queue_call("add", 1, 2L);
    if (i % 2 == 0) {
      worker.stop(std::nullopt, std::nullopt);
      Worker::flush(worker.data);
    } else {
      Worker::flush(worker.data);
      worker.stop(1s, 6s);
    }
    for (int n = 0; n < 3; ++n) ASSERT_EQ(worker.result().status(), ResultStatus::ok);
    EXPECT_EQ(worker.stop_reply().cancelled, 0u);
    EXPECT_EQ(worker.exit_status(), 0);
  }
}

TEST_F(WorkerStop, CancelsCallsThatArriveAfterTheGrace) {
  Worker worker;
  worker.expect_hello();
  worker.queue_call("spin");
  worker.queue_call("nap", 30000, 0);
  worker.stop(0s, 5s);
  worker.status();
  Worker::flush(worker.data);
  EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
  EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
  EXPECT_EQ(worker.stop_reply().cancelled, 2u);
  EXPECT_EQ(worker.exit_status(), 0);
}

TEST_F(WorkerStop, ReplyWaitsForUnreadResults) {
  Worker worker;
  worker.expect_hello();
  worker.call("bytes", std::uint64_t{8u << 20});
  while (worker.status().served == 0) std::this_thread::yield();
  worker.stop(std::nullopt, std::nullopt);
  EXPECT_EQ(worker.status().served, 1u);
  EXPECT_FALSE(readable(worker.control.fd(), 200ms)) << "acknowledged before the result is out";
  EXPECT_EQ(worker.result().as<std::string>().size(), 8u << 20);
  EXPECT_EQ(worker.stop_reply().cut, 0u);
  EXPECT_EQ(worker.exit_status(), 0);
}

TEST_F(WorkerStop, SecondStopOnlyShortens) {
  {
    Worker worker;
    worker.expect_hello();
    worker.call("nap", 30000, 0);
    ASSERT_TRUE(worker.told('b'));
    worker.stop(30s, 35s);
    worker.status();
    const Stopwatch watch;
    worker.stop(0s, 5s);
    EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
    EXPECT_EQ(worker.exit_status(), 0);
    EXPECT_LT(watch.elapsed(), slack);
  }
  Worker worker;
  worker.expect_hello();
  worker.call("spin");
  ASSERT_TRUE(worker.told('b'));
  const Stopwatch watch;
  worker.stop(0s, 500ms);
  worker.stop(30s, 35s);
  worker.stop(std::nullopt, std::nullopt);
  EXPECT_EQ(worker.exit_status(), 1);
  EXPECT_LT(watch.elapsed(), 500ms + slack);
}

TEST_F(WorkerStop, BudgetBoundsAHangingStaticDestructor) {
  Worker worker;
  worker.expect_hello();
  worker.call("hang_at_exit");
  worker.result();
  const Stopwatch watch;
  worker.stop(1s, 1600ms);
  EXPECT_EQ(worker.stop_reply().cut, 0u);
  ASSERT_TRUE(worker.told('d'));
  EXPECT_EQ(worker.exit_status(), 1);
  EXPECT_GE(watch.elapsed(), 1350ms);
  EXPECT_LT(watch.elapsed(), 1350ms + slack);
}

TEST_F(WorkerStop, GraceBoundsAHangingStaticDestructor) {
  for (const bool by_signal : {false, true}) {
    Worker worker({.shutdown_grace = 800ms});
    worker.expect_hello();
    worker.call("hang_at_exit");
    worker.result();
    const Stopwatch watch;
    if (by_signal)
      ::kill(worker.pid, SIGINT);
    else
      worker.stop(std::nullopt, std::nullopt);
    ASSERT_TRUE(worker.told('d'));
    EXPECT_EQ(worker.exit_status(), 1);
    EXPECT_GE(watch.elapsed(), 600ms);  // shortly before the grace is over, since a parent waits that long
    EXPECT_LT(watch.elapsed(), 600ms + slack);
  }
}

// ---- signals --------------------------------------------------------------------------------------------------------

TEST_F(WorkerSignal, SigtermCancels) {
  for (const int signo : {SIGTERM, SIGHUP}) {
    Worker worker;
    worker.expect_hello();
    worker.call("nap", 30000, 50);
    ASSERT_TRUE(worker.told('b'));
    ::kill(worker.pid, signo);
    EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
    EXPECT_TRUE(worker.told('c'));
    EXPECT_EQ(worker.exit_status(), 0);
  }
}

TEST_F(WorkerSignal, SigintDrainsAndASecondOneCancels) {
  Worker worker;
  worker.expect_hello();
  worker.call("nap", 300, 0);
  ASSERT_TRUE(worker.told('b'));
  ::kill(worker.pid, SIGINT);
  EXPECT_EQ(worker.result().as<std::string>(), "slept");
  EXPECT_EQ(worker.exit_status(), 0);

  Worker other;
  other.expect_hello();
  other.call("nap", 30000, 0);
  ASSERT_TRUE(other.told('b'));
  ::kill(other.pid, SIGINT);
  other.wait_until_delivered(SIGINT);  // two SIGINT that are pending at the same time are one
  ::kill(other.pid, SIGINT);
  EXPECT_EQ(other.result().status(), ResultStatus::cancelled);
  EXPECT_EQ(other.exit_status(), 0);
}

TEST_F(WorkerSignal, SigtermShortensADrain) {
  Worker worker;
  worker.expect_hello();
  worker.call("nap", 30000, 0);
  ASSERT_TRUE(worker.told('b'));
  ::kill(worker.pid, SIGINT);
  worker.wait_until_delivered(SIGINT);
  worker.status();
  const Stopwatch watch;
  ::kill(worker.pid, SIGTERM);
  EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
  EXPECT_EQ(worker.exit_status(), 0);
  EXPECT_LT(watch.elapsed(), slack);
}

TEST_F(WorkerSignal, SigtermShortensAStop) {
  Worker worker;
  worker.expect_hello();
  worker.call("nap", 30000, 0);
  ASSERT_TRUE(worker.told('b'));
  worker.stop(std::nullopt, std::nullopt);
  worker.status();
  ::kill(worker.pid, SIGTERM);
  EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
  EXPECT_EQ(worker.stop_reply().cancelled, 1u);
  EXPECT_EQ(worker.exit_status(), 0);
}

TEST_F(WorkerSignal, StopDuringADrainIsAcknowledged) {
  Worker worker;
  worker.expect_hello();
  worker.call("nap", 300, 0);
  ASSERT_TRUE(worker.told('b'));
  ::kill(worker.pid, SIGINT);
  worker.wait_until_delivered(SIGINT);
  worker.status();
  while (worker.last_begun != 1u) worker.status();  // the main thread knows of the drain
  worker.call("nap", 100, 0);                       // it no longer begins: another worker would get it
  worker.stop(10s, 15s);
  EXPECT_EQ(worker.result().status(), ResultStatus::ok);
  EXPECT_EQ(worker.stop_reply().drained, 1u);
  EXPECT_EQ(worker.exit_status(), 0);
}

TEST_F(WorkerSignal, SigtermCutsOffAnEndlessLoopAtTheGrace) {
  Worker worker({.shutdown_grace = 600ms});
  worker.expect_hello();
  worker.call("spin");
  ASSERT_TRUE(worker.told('b'));
  const Stopwatch watch;
  ::kill(worker.pid, SIGTERM);
  EXPECT_EQ(worker.exit_status(), 1);
  EXPECT_GE(watch.elapsed(), 600ms);
  EXPECT_LT(watch.elapsed(), 600ms + slack);
}

TEST_F(WorkerSignal, HasItsDefaultActionBeforeServe) {
  for (const int signo : {SIGTERM, SIGINT}) {
    Worker worker({.args = {"slow-boot"}, .shutdown_grace = 60s});
    ASSERT_TRUE(worker.told('b'));
    ::kill(worker.pid, signo);
    EXPECT_EQ(worker.exit_status(), -signo);
  }
}

TEST_F(WorkerSignal, AnyMixtureEndsTheWorkerCleanly) {
  std::mt19937 random(7);
  for (int round = 0; round < 30; ++round) {
    Worker worker;
    worker.expect_hello();
    worker.call("nap", 20, 5);
    if (round % 2 == 0) worker.call("signals", 50);
    const UniqueFd pidfd = pidfd_of(worker.pid);
    for (int i = 0; i < 100 && !readable(pidfd.get(), 0ms); ++i) {
      ::kill(worker.pid, random() % 2 == 0 ? SIGTERM : SIGINT);
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
    }
    EXPECT_EQ(worker.exit_status(), 0);
  }
}

TEST_F(WorkerSignal, DoesNotInterruptABlockingRead) {
  const std::string path = "/tmp/drover-test-fifo-" + std::to_string(::getpid());
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  const UniqueFd keeper(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  {
    Worker worker;
    worker.expect_hello();
    worker.call("blocking_read", path);
    ASSERT_TRUE(worker.told('b'));
    ::kill(worker.pid, SIGINT);
    worker.status();
    for (int i = 0; i < 20; ++i) {
      ::kill(worker.pid, SIGTERM);
      worker.status();
    }
    ASSERT_EQ(::write(keeper.get(), "x", 1), 1);
    EXPECT_EQ(worker.result().as<int>(), 0) << "EINTR";
    EXPECT_EQ(worker.exit_status(), 0);
  }
  ::unlink(path.c_str());
}

// A worker that a signal ends reports the calls that it has begun, and the parent gives all other calls to another
// worker. So it must not begin one of them, neither a call that it has read already nor one that arrives later.
TEST_F(WorkerStop, BeginsNoCallWhileItDrains) {
  for (const std::string_view second : {"work", "nap"}) {
    Worker worker;
    worker.expect_hello();
    const auto begun = worker.queue_call("work", 300);
    second == "nap" ? worker.queue_call(second, 1, 0) : worker.queue_call(second, 1);
    Worker::flush(worker.data);
    ASSERT_TRUE(worker.told('b'));
    ::kill(worker.pid, SIGINT);
    worker.call("echo", std::string("later"));
    const Answer answer = worker.result();
    EXPECT_EQ(answer.header.id, begun);
    EXPECT_EQ(answer.as<std::string>(), "worked");
    EXPECT_FALSE(worker.next(worker.data)) << "it has begun another one";
    EXPECT_FALSE(worker.next_reply());
    EXPECT_EQ(worker.last_begun, begun);
    EXPECT_EQ(worker.exit_status(), 0);
  }
}

}  // namespace
