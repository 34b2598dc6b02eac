// on_start() and on_stop() of a worker, and the slot of a spare one, seen from the other side of their sockets.
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <sys/prctl.h>

#include "support/raw_parent.hpp"

namespace {

using namespace raw;

class WorkerHooks : public raw::Test {
 protected:
  static Options with(std::vector<std::string> steps, std::chrono::nanoseconds grace = 60s) {
    return {.program = DROVER_HELPER_LIFE_WORKER, .args = std::move(steps), .shutdown_grace = grace};
  }
  /// Waits for a line on its standard output.
  static ::testing::AssertionResult said(Worker& worker, const std::string& text) {
    for (const char c : text + "\n")
      if (const auto told = worker.told(c); !told) return told;
    return ::testing::AssertionSuccess();
  }
  /// Nothing arrives on this socket now.
  static bool silent(Channel& channel) { return !readable(channel.fd(), 0ms); }
};

// ---- a spare worker -------------------------------------------------------------------------------------------------

class SpareWorker : public WorkerHooks {
 protected:
  static Options spare() {
    Options options = with({});
    options.worker.slot = drover::no_slot;
    return options;
  }
  static void send_slot(Worker& worker, std::uint64_t slot, std::span<const std::byte> body) {
    FrameHeader header;
    header.type = FrameType::take_slot;
    header.id = slot;
    worker.data.queue(header, body);
    Worker::flush(worker.data);
  }
  static void send_slot(Worker& worker, std::uint64_t slot, const drover::detail::SlotVariables& variables) {
    drover::detail::FrameBody body;
    drover::Encoder(body.buffer()).put(variables);
    send_slot(worker, slot, body.buffer().view());
  }
};

TEST_F(SpareWorker, TakesASlotOnce) {
  Worker worker(spare());
  worker.expect_hello();
  send_slot(worker, 3, {{"DROVER_TEST_PORT", "8003"}});
  worker.call("slot");
  EXPECT_EQ(worker.result().as<std::size_t>(), 3u);
  worker.call("variable", std::string("DROVER_TEST_PORT"));
  EXPECT_EQ(worker.result().as<std::string>(), "8003");
  worker.call("variable", std::string("DROVER_SLOT"));
  EXPECT_EQ(worker.result().as<std::string>(), "3");
  send_slot(worker, 4, drover::detail::SlotVariables());
  EXPECT_EQ(worker.exit_status(), 0) << "a parent that says that has lost its mind";
}

TEST_F(SpareWorker, EndsIfItsSlotIsMalformed) {
  const std::array<std::byte, 5> nonsense{std::byte{0xff}, std::byte{0xfe}, std::byte{1}, std::byte{2}, std::byte{3}};
  {
    Worker worker(spare());
    worker.expect_hello();
    send_slot(worker, 3, nonsense);
    EXPECT_EQ(worker.exit_status(), 0);
  }
  {
    Worker worker(spare());
    worker.expect_hello();
    send_slot(worker, 3, {{"no=name", "x"}});
    EXPECT_EQ(worker.exit_status(), 0);
  }
  {
    Worker worker(spare());
    worker.expect_hello();
    send_slot(worker, drover::no_slot, drover::detail::SlotVariables());
    EXPECT_EQ(worker.exit_status(), 0);
  }
}

TEST_F(SpareWorker, IsNotWhatHasASlot) {
  Worker worker(with({}));
  worker.expect_hello();
  send_slot(worker, 3, drover::detail::SlotVariables());
  EXPECT_EQ(worker.exit_status(), 0);
}

// ---- hooks ---------------------------------------------------------------------------------------------------------

TEST_F(WorkerHooks, HelloWaitsForOnStart) {
  Worker worker(with({"start-await", "300"}));
  ASSERT_TRUE(said(worker, "awaiting"));
  EXPECT_TRUE(silent(worker.control));
  ASSERT_TRUE(said(worker, "awaited"));
  worker.expect_hello();
  expect_clean_stop(worker);
}

TEST_F(WorkerHooks, StartFailedTakesThePlaceOfHello) {
  Worker worker(with({"start-throw", "no GPU"}));
  std::array<std::byte, 4096> bytes;
  ASSERT_TRUE(readable(worker.control.fd()));
  const auto got = drover::detail::receive_with_credentials(worker.control.fd(), bytes);
  EXPECT_EQ(got.sender, worker.pid);
  FrameHeader header;
  ASSERT_GT(got.bytes, sizeof header);
  std::memcpy(&header, bytes.data(), sizeof header);
  EXPECT_EQ(header.type, FrameType::start_failed);
  EXPECT_EQ(header.id, drover::detail::hello_id());
  const auto failure = drover::detail::decode_start_failure({bytes.data() + sizeof header, got.bytes - sizeof header});
  EXPECT_EQ(failure.type, "std::runtime_error");
  EXPECT_EQ(failure.text, "no GPU");
  EXPECT_TRUE(said(worker, "served"));
  EXPECT_EQ(worker.exit_status(), drover::detail::exit_start_failed);
}

// STOP_REPLY says that all is done. The control thread answers meanwhile.
TEST_F(WorkerHooks, StopReplyWaitsForOnStop) {
  Worker worker(with({"stop-await", "300"}));
  worker.expect_hello();
  worker.call("echo", std::string("x"));
  EXPECT_EQ(worker.result().as<std::string>(), "x");
  worker.stop(10s, 20s);
  ASSERT_TRUE(said(worker, "awaiting"));
  EXPECT_TRUE(silent(worker.control));
  EXPECT_EQ(worker.status().served, 1u);
  ASSERT_TRUE(said(worker, "awaited"));
  EXPECT_EQ(worker.stop_reply().cut, 0u);
  EXPECT_EQ(worker.exit_status(), 0);
}

// A worker that drains because of a signal runs it as well, and may be stopped by its parent meanwhile.
TEST_F(WorkerHooks, OnStopRunsAfterASignal) {
  for (const int signo : {SIGTERM, SIGINT, SIGHUP}) {
    SCOPED_TRACE(signo);
    Worker worker(with({"stop-await", "200"}));
    worker.expect_hello();
    worker.call("nap", signo == SIGINT ? 100 : 30000, 0);
    ASSERT_TRUE(said(worker, "napping"));
    ::kill(worker.pid, signo);
    if (signo != SIGINT) {
      ASSERT_TRUE(said(worker, "cleaned up"));
    }
    ASSERT_TRUE(said(worker, "awaiting"));
    worker.stop(10s, 20s);
    ASSERT_TRUE(said(worker, "awaited"));
    worker.stop_reply();
    EXPECT_TRUE(said(worker, "served"));
    EXPECT_EQ(worker.exit_status(), 0);
  }
}

TEST_F(WorkerHooks, OnStopRunsAfterTheParentsDeath) {
  Worker worker(with({"stop-await", "100"}));
  worker.expect_hello();
  worker.call("nap", 30000, 0);
  ASSERT_TRUE(said(worker, "napping"));
  worker.control.close();
  ASSERT_TRUE(said(worker, "cleaned up"));
  ASSERT_TRUE(said(worker, "awaiting"));
  ASSERT_TRUE(said(worker, "awaited"));
  EXPECT_TRUE(said(worker, "served"));
  EXPECT_EQ(worker.exit_status(), 0);
}

// A signal alone brings no bound for calls that drain, but for what follows them.
TEST_F(WorkerHooks, HangingOnStopIsCutOff) {
  const auto cut_off = [&](std::function<void(Worker&)> end, Clock::duration at_most) {
    Worker worker(with({"stop-spin"}, 600ms));
    worker.expect_hello();
    end(worker);
    ASSERT_TRUE(said(worker, "blocking"));
    const Stopwatch watch;
    EXPECT_EQ(worker.exit_status(), drover::detail::exit_cut_off);
    EXPECT_LT(watch.elapsed(), at_most + slack);
  };
  cut_off([](Worker& worker) { worker.stop(0s, 500ms); }, 500ms);
  cut_off([](Worker& worker) { worker.stop(std::nullopt, std::nullopt); }, 600ms);
  cut_off([](Worker& worker) { ::kill(worker.pid, SIGTERM); }, 600ms);
  cut_off([](Worker& worker) { ::kill(worker.pid, SIGINT); }, 600ms);
  cut_off([](Worker& worker) { worker.control.close(); }, 600ms);
}

// The parent may shorten its stop while on_stop() runs.
TEST_F(WorkerHooks, LaterStopShortensOnStop) {
  Worker worker(with({"stop-spin"}));
  worker.expect_hello();
  worker.stop(10s, 60s);
  ASSERT_TRUE(said(worker, "blocking"));
  const Stopwatch watch;
  worker.stop(0s, 400ms);
  EXPECT_EQ(worker.stop_reply().cut, 1u);
  EXPECT_EQ(worker.exit_status(), drover::detail::exit_cut_off);
  EXPECT_LT(watch.elapsed(), 400ms + slack);
}

/// A process between the test and the worker that can be killed.
TEST_F(WorkerHooks, ParentsDeathEndsOnStartAtOnce) {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  for (const std::vector<std::string>& steps :
       std::vector<std::vector<std::string>>{{"start-block"}, {"start-spin"}, {"start-await", "30000"}}) {
    SCOPED_TRACE(steps[0]);
    auto [reading, writing] = drover::detail::pipe_pair();
    const pid_t middle = ::fork();
    if (middle == 0) {
      Worker worker(with(steps));
      if (!said(worker, steps[0] == "start-await" ? "awaiting" : "blocking")) ::_exit(1);
      if (::write(writing.get(), &worker.pid, sizeof worker.pid) < 0) ::_exit(1);
      for (;;) ::pause();
    }
    pid_t pid = 0;
    ASSERT_TRUE(readable(reading.get()));
    ASSERT_EQ(::read(reading.get(), &pid, sizeof pid), static_cast<ssize_t>(sizeof pid));
    const UniqueFd pidfd = pidfd_of(pid);
    ::kill(middle, SIGKILL);
    EXPECT_EQ(::waitpid(middle, nullptr, 0), middle);
    EXPECT_TRUE(readable(pidfd.get(), 2s)) << "its grace is a minute";
    ::kill(pid, SIGKILL);
    int status = 0;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == drover::detail::exit_cut_off) << status;
    while (::waitpid(-1, nullptr, 0) > 0) continue;  // the copy that kills the group
  }
}

}  // namespace
