// A worker seen from the other side of its sockets: the handshake, calls, cancellation, and its replies.
#include <algorithm>
#include <cstdio>
#include <sched.h>
#include <thread>

#include "support/raw_parent.hpp"

namespace {

using namespace raw;

class WorkerProtocol : public raw::Test {};

TEST_F(WorkerProtocol, HelloNamesVersionAndRoutines) {
  Worker worker;
  worker.expect_hello();
  EXPECT_FALSE(worker.hello.version.empty());
  EXPECT_NE(std::find(worker.hello.routines.begin(), worker.hello.routines.end(), "echo"), worker.hello.routines.end());
  EXPECT_TRUE(std::is_sorted(worker.hello.routines.begin(), worker.hello.routines.end()));
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, EnvironmentIdentifiesAnUnaskedWorker) {
  Worker worker({.args = {"ask-late"}});
  EXPECT_TRUE(worker.told('y'));
  EXPECT_TRUE(worker.told('y'));
  EXPECT_TRUE(worker.told('y'));
  EXPECT_EQ(worker.exit_status(), 0);
}

TEST_F(WorkerProtocol, FunctionsAndCoroutinesReturnResults) {
  Worker worker;
  worker.expect_hello();
  worker.call("echo", std::string("hello"));
  EXPECT_EQ(worker.result().as<std::string>(), "hello");
  worker.call("add", 40, 2L);
  EXPECT_EQ(worker.result().as<long>(), 42);
  worker.call("nothing");
  const Answer nothing = worker.result();
  EXPECT_EQ(nothing.status(), ResultStatus::ok);
  EXPECT_TRUE(nothing.body.empty());
  worker.call("nap", 10, 0);
  EXPECT_EQ(worker.result().as<std::string>(), "slept");
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, CallsInOneWriteAreAnsweredInOrder) {
  Worker worker;
  worker.expect_hello();
  // No more calls at a time than the sockets hold: a worker whose results are not read does not read, either.
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < 500; ++i) worker.queue_call("add", i, 1L);
    Worker::flush(worker.data);
    for (int i = 0; i < 500; ++i) {
      const Answer answer = worker.result();
      ASSERT_EQ(answer.header.id, static_cast<std::uint64_t>(500 * round + i + 1));
      ASSERT_EQ(answer.as<long>(), i + 1);
    }
  }
  EXPECT_EQ(worker.status().served, 5000u);
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, FunctionsAndCoroutinesShareTheLoop) {
  Worker worker;
  worker.expect_hello();
  for (int i = 0; i < 200; ++i) worker.queue_call("nap", i % 20, 0);
  for (int i = 0; i < 200; ++i) worker.queue_call("add", i, 1L);
  Worker::flush(worker.data);
  std::vector<bool> seen(401);
  for (int i = 0; i < 400; ++i) {
    const Answer answer = worker.result();
    ASSERT_LE(answer.header.id, 400u);
    EXPECT_FALSE(seen[answer.header.id]);
    seen[answer.header.id] = true;
    EXPECT_EQ(answer.status(), ResultStatus::ok);
  }
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, ViewsLiveAsLongAsTheCoroutine) {
  Worker worker;
  worker.expect_hello();
  const std::string large(100'000, 'v');
  worker.queue_call("napping_view", std::string_view("small"));
  worker.queue_call("napping_view", std::string_view(large));
  worker.queue_call("echo", std::string(60'000, 'x'));  // overwrites the place of the first call
  Worker::flush(worker.data);
  EXPECT_EQ(worker.result().header.id, 3u);
  std::vector<std::string> results{worker.result().as<std::string>(), worker.result().as<std::string>()};
  std::sort(results.begin(), results.end());
  EXPECT_EQ(results[0], "small!");
  EXPECT_EQ(results[1], large + "!");
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, CarriesFiftyMebibytesBothWays) {
  Worker worker;
  worker.expect_hello();
  const std::string large(50u << 20, 'l');
  worker.call("echo", large);
  EXPECT_EQ(worker.result().as<std::string>(), large);
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, ExceptionKeepsItsTypeAndText) {
  Worker worker({.max_message_size = 10'000});
  worker.expect_hello();
  const auto thrown = [&](std::string_view routine) {
    worker.call(routine);
    const Answer answer = worker.result();
    EXPECT_EQ(answer.status(), ResultStatus::remote_error);
    return answer.texts();
  };
  EXPECT_EQ(thrown("throw_error"), (std::vector<std::string>{"std::runtime_error", "as it goes"}));
  EXPECT_EQ(thrown("throw_unusual"), (std::vector<std::string>{"(anonymous namespace)::Unusual", ""}));
  EXPECT_EQ(thrown("throw_int"), (std::vector<std::string>{"int", ""}));
  EXPECT_EQ(thrown("no_memory").at(0), "std::bad_alloc");
  EXPECT_LT(thrown("throw_long").at(1).size(), 10'000u);
  EXPECT_GT(thrown("throw_long").at(1).size(), 9'000u);
  EXPECT_EQ(thrown("aborts_by_itself").at(0), "std::system_error") << "nobody has cancelled it";
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, CancelReachesACoroutineOnce) {
  Worker worker;
  worker.expect_hello();
  const auto id = worker.call("nap", 30000, 100);
  ASSERT_TRUE(worker.told('b'));
  worker.cancel(id);
  worker.cancel(id);
  const Answer answer = worker.result();
  EXPECT_EQ(answer.status(), ResultStatus::cancelled);
  EXPECT_TRUE(worker.told('c')) << "its clean-up, which awaits, was cancelled too";
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, CancelReachesAStopTokenOfABusyThread) {
  Worker worker;
  worker.expect_hello();
  auto id = worker.call("until_stopped");
  ASSERT_TRUE(worker.told('b'));
  worker.cancel(id);
  EXPECT_EQ(worker.result().as<std::string>(), "stopped");
  EXPECT_TRUE(worker.told('c'));
  id = worker.call("abort_when_stopped");
  ASSERT_TRUE(worker.told('b'));
  worker.cancel(id);
  EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
  id = worker.call("coroutine_until_stopped");
  ASSERT_TRUE(worker.told('b'));
  worker.cancel(id);
  EXPECT_EQ(worker.result().as<int>(), 1);
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, CancelThatOvertakesItsCallIsNotLost) {
  Worker worker;
  worker.expect_hello();
  for (const char* routine : {"nap", "until_stopped", "spin", "echo"}) {
    SCOPED_TRACE(routine);
    worker.cancel(worker.last_call + 1);
    worker.status();  // CANCEL has been read by then
    worker.call(routine);
    EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
  }
  EXPECT_TRUE(worker.told_nothing());
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, CancelReachesACallBehindAnother) {
  Worker worker;
  worker.expect_hello();
  worker.queue_call("work", 300);
  const auto second = worker.queue_call("spin");
  const auto third = worker.queue_call("nap", 30000, 0);
  Worker::flush(worker.data);
  ASSERT_TRUE(worker.told('b'));
  worker.cancel(second);
  worker.cancel(third);
  EXPECT_EQ(worker.result().as<std::string>(), "worked");
  EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
  EXPECT_EQ(worker.result().status(), ResultStatus::cancelled);
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, LateCancelIsIgnored) {
  Worker worker;
  worker.expect_hello();
  for (int i = 0; i < 3000; ++i) {  // more than a block of the queue
    const auto id = worker.call("echo", std::string("x"));
    ASSERT_EQ(worker.result().status(), ResultStatus::ok);
    worker.cancel(id);
  }
  worker.call("echo", std::string("y"));
  EXPECT_EQ(worker.result().as<std::string>(), "y");
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, CancelMayRaceWithTheStartOfItsCall) {
  Worker worker;
  worker.expect_hello();
  for (int i = 0; i < 300; ++i) {
    const auto id = worker.call(i % 2 == 0 ? "until_stopped" : "coroutine_until_stopped");
    if (i % 3 == 0) std::this_thread::yield();
    worker.cancel(id);
    ASSERT_EQ(worker.result().header.id, id);
  }
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, StatusCountsTheCallsInFlight) {
  Worker worker;
  worker.expect_hello();
  auto status = worker.status();
  EXPECT_EQ(status.in_flight, 0u);
  EXPECT_EQ(status.served, 0u);
  EXPECT_GT(status.idle_ns, 0);
  worker.call("nap", 30000, 0);
  worker.call("nap", 30000, 0);
  ASSERT_TRUE(worker.told('b'));
  ASSERT_TRUE(worker.told('b'));
  status = worker.status();
  EXPECT_EQ(status.in_flight, 2u);
  EXPECT_EQ(status.idle_ns, 0);
  worker.cancel(1);
  worker.result();
  status = worker.status();
  EXPECT_EQ(status.in_flight, 1u);
  EXPECT_EQ(status.served, 1u);
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, StatusIsAnsweredWhileTheMainThreadSpins) {
  for (const char* routine : {"spin", "block_stop_callback", "hold_the_allocator"}) {
    SCOPED_TRACE(routine);
    Worker worker;
    worker.expect_hello();
    worker.call(routine);
    ASSERT_TRUE(worker.told('b'));
    if (std::string_view(routine) == "block_stop_callback") {
      worker.cancel(1);
      ASSERT_TRUE(worker.told('c'));  // the callback blocks now
    }
    Clock::duration slowest{};
    for (int i = 0; i < 50; ++i) {
      const Clock::time_point asked = Clock::now();
      EXPECT_EQ(worker.status().in_flight, 1u);
      slowest = std::max(slowest, Clock::now() - asked);
    }
    EXPECT_LT(slowest, 1500ms);
    worker.stop(0s, 0s);
    EXPECT_EQ(worker.stop_reply().cut, 1u);
    EXPECT_EQ(worker.exit_status(), 1);
  }
}

// The last call runs a routine that has been quick so far. Its results must not make the others wait until it has
// ended.
TEST_F(WorkerProtocol, ResultsForAnotherCoreLeaveInBatches) {
  Worker worker;
  worker.expect_hello();
  worker.core = 0xfffe;
  for (int i = 0; i < 40; ++i) {  // only after so many calls does the worker rely on the core
    worker.call("work", 0);
    worker.result();
  }
  // Fewer results than a batch may be held back at the end, wherever the worker was interrupted and sent what it had.
  constexpr int at_once = Channel::frames_at_a_time, all = 2 * at_once - 1;
  for (int i = 0; i < all; ++i) worker.queue_call("nothing");
  worker.queue_call("work", 1000);
  const Stopwatch watch;
  Worker::flush(worker.data);
  for (int i = 0; i < at_once; ++i) EXPECT_EQ(worker.result().status(), ResultStatus::ok);
  EXPECT_LT(watch.elapsed(), 1s);
  for (int i = at_once; i < all; ++i) EXPECT_EQ(worker.result().status(), ResultStatus::ok);
  EXPECT_EQ(worker.result().as<std::string>(), "worked");
  EXPECT_GE(watch.elapsed(), 1s);
  expect_clean_stop(worker);
}

// Results for the same core do not wait either, unless the next routine has always been quick.
TEST_F(WorkerProtocol, ResultsDoNotWaitForASlowRoutine) {
  Worker worker;
  worker.expect_hello();
  worker.call("work", 0);
  worker.result();
  worker.queue_call("work", 0);
  worker.queue_call("work", 3000);
  const Stopwatch watch;
  Worker::flush(worker.data);
  EXPECT_EQ(worker.result().as<std::string>(), "worked");
  EXPECT_LT(watch.elapsed(), 1500ms);
  worker.result();
  EXPECT_GE(watch.elapsed(), 3s);
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, StopCallbacksHaveTheSignalMaskOfRoutines) {
  Worker worker;
  worker.expect_hello();
  worker.call("blocked_in_callback");
  ASSERT_TRUE(worker.told('b'));
  worker.cancel(1);
  EXPECT_EQ(worker.result().as<int>(), 0);
  expect_clean_stop(worker);
}

TEST_F(WorkerProtocol, ResultCarriesTheCoreOfTheWorker) {
  Worker worker;
  worker.expect_hello();
  cpu_set_t allowed, one;
  ::sched_getaffinity(0, sizeof allowed, &allowed);
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &allowed)) continue;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    ASSERT_EQ(::sched_setaffinity(worker.pid, sizeof one, &one), 0);
    worker.call("nothing");
    EXPECT_EQ(worker.result().header.core, core + 1);
  }
  expect_clean_stop(worker);
}

std::string output_of(const std::string& command) {
  FILE* const pipe = ::popen(command.c_str(), "re");
  std::string text(1000, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), pipe));
  ::pclose(pipe);
  return text;
}

TEST_F(WorkerProtocol, ChildOfARoutineInheritsNothingOfDrover) {
  Worker worker;
  worker.expect_hello();
  worker.call("environment");
  EXPECT_EQ(worker.result().as<std::string>(), "gone");
  worker.call("in_child", std::string("cat /proc/self/status"));
  const auto status = worker.result().as<std::string>();
  EXPECT_NE(status.find("SigBlk:\t0000000000000000\n"), std::string::npos) << status;
  EXPECT_NE(status.find("SigIgn:\t0000000180000000\n"), std::string::npos)
      << "all but glibc's own 32 and 33: " << status;
  EXPECT_NE(status.find("SigCgt:\t0000000000000000\n"), std::string::npos) << status;
  // The descriptors that the test was started with are passed on, but none that drover has opened.
  const std::string kinds = "ls -l /proc/self/fd | grep -cE 'socket|eventfd|eventpoll|timerfd|pidfd|memfd'; true";
  worker.call("in_child", kinds);
  EXPECT_LE(std::stoi(worker.result().as<std::string>()), std::stoi(output_of(kinds)));
  expect_clean_stop(worker);
}

// A parent sends requests without end and reads no reply.
TEST_F(WorkerProtocol, UnreadRepliesDoNotAccumulate) {
  Worker worker;
  worker.expect_hello();
  FrameHeader header;
  header.type = FrameType::status;
  int asked = 0;
  pollfd writable{worker.control.fd(), POLLOUT, 0};
  while (::poll(&writable, 1, 300) > 0 && asked < 1'000'000) {
    header.id = static_cast<std::uint64_t>(asked + 1);
    if (::send(worker.control.fd(), &header, sizeof header, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof header) ++asked;
  }
  EXPECT_LT(asked, 100'000) << "what the sockets hold, and 256 replies";
  for (int i = 1; i <= asked; ++i) {
    const auto reply = worker.next_reply();
    ASSERT_TRUE(reply);
    ASSERT_EQ(reply->header.id, static_cast<std::uint64_t>(i));
  }
  expect_clean_stop(worker);
}

}  // namespace
