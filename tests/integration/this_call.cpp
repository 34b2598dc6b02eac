// What a routine knows of its call: deadline, context, and why it was cancelled. Calls inside a routine inherit its
// deadline.
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <signal.h>
#include <string>
#include <utility>
#include <vector>

#include <asio/io_context.hpp>

#include "support/call_seen.hpp"
#include "support/life.hpp"

namespace {

using namespace support;
using drover::CancelReason;

class ThisCall : public Calls {};
class InheritedDeadline : public Calls {};

asio::awaitable<std::shared_ptr<LocalWorker>> started_worker(std::size_t in_flight = 1) {
  WorkerOptions options = life_worker();
  options.max_in_flight = in_flight;
  auto worker = std::make_shared<LocalWorker>(co_await asio::this_coro::executor, options);
  co_await worker->start();
  co_return worker;
}

CallOptions with_context(std::string context) {
  CallOptions options;
  options.context = std::move(context);
  return options;
}

// Plain routines, and coroutines at any time.
TEST_F(ThisCall, KnowsContextAndDeadline) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker();
    const std::string odd("traceparent: 00-4bf92f35-01 \0\xff", 30);
    for (const std::string routine : {"seen", "look_often", "look_by_others"}) {
      const auto call = [&](CallOptions options) {
        if (routine == "seen") return worker->call<CallSeen>(options, routine);
        return worker->call<CallSeen>(options, routine, 5);
      };
      CallOptions options;
      CallSeen seen = co_await call(options);
      EXPECT_EQ(seen.context, "") << routine;
      EXPECT_EQ(seen.left, -1) << routine;
      EXPECT_EQ(seen.attempt, 1u) << routine;
      options.context = odd;
      seen = co_await call(options);
      EXPECT_EQ(seen.context, odd) << routine;
      EXPECT_EQ(seen.left, -1) << routine;
      options.deadline = 60s;
      seen = co_await call(options);
      EXPECT_EQ(seen.context, odd) << routine;
      EXPECT_GT(seen.left, 30000) << routine;
      EXPECT_LE(seen.left, 60000) << routine;
      options.context.clear();
      seen = co_await call(options);
      EXPECT_EQ(seen.context, "") << routine;
      EXPECT_GT(seen.left, 30000) << routine;
      seen = co_await call(CallOptions());
      EXPECT_EQ(seen.left, -1) << "nothing is left of the call before: " << routine;
    }
    co_await worker->stop();
  });
}

/// The events of a worker that say something of a call.
std::vector<Event> about_calls(const EventLog& log) {
  std::vector<Event> found = log.all();
  std::erase_if(found, [](const Event& event) { return event.routine.empty() && event.context.empty(); });
  return found;
}

// kill_sent and exited name the routine and the context of the oldest call; without a call they name none.
TEST_F(ThisCall, IsNamedByTheEventsOfItsWorker) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    EventLog log;
    WorkerOptions options = life_worker();
    options.on_event = log.handler();
    options.max_in_flight = 2;
    LocalWorker late(executor, options);
    co_await late.start();
    CallOptions bounded = with_context("the late one");
    bounded.deadline = 20ms;
    bounded.kill_after = 0s;
    const Failure killed = co_await failure_of(late.call(std::move(bounded), "spin"));
    EXPECT_TRUE(killed == Errc::deadline_exceeded) << killed;
    co_await late.stop();
    std::vector<Event> events = about_calls(log);
    EXPECT_EQ(events.size(), 2u);
    for (const Event& event : events) {
      EXPECT_EQ(event.kind, &event == &events.front() ? Event::Kind::kill_sent : Event::Kind::exited);
      EXPECT_EQ(event.routine, "spin");
      EXPECT_EQ(event.context, "the late one");
      EXPECT_NE(event.to_string().find("in routine 'spin'"), std::string::npos) << event.to_string();
    }

    LocalWorker crashing(executor, options);
    co_await crashing.start();
    Task<std::string> first(executor, crashing.call<std::string>(with_context("the first"), "nap", 30000, 0));
    const Failure crashed = co_await failure_of(crashing.call(with_context("the second"), "crash", SIGSEGV));
    EXPECT_TRUE(crashed == Errc::worker_exited) << crashed;
    co_await first.ended();
    co_await crashing.stop();
    events = about_calls(log);
    EXPECT_EQ(events.size(), 3u);
    EXPECT_EQ(events.back().kind, Event::Kind::exited);
    EXPECT_EQ(events.back().routine, "nap");
    EXPECT_EQ(events.back().context, "the first");

    LocalWorker idle(executor, options);
    co_await idle.start();
    co_await idle.call(with_context("over"), "echo", "x");
    co_await idle.stop();
    EXPECT_EQ(about_calls(log).size(), 3u);
  });
}

// Coroutines that interleave, each with its own context and deadline; plain routines run in between.
TEST_F(ThisCall, IsThatOfEachCoroutine) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const auto worker = co_await started_worker(64);
    std::vector<std::unique_ptr<Task<CallSeen>>> calls;
    const auto options_of = [](int i) {
      CallOptions options;
      if (i % 4 != 0) options.context = "call " + std::to_string(i);
      if (i % 3 != 0) options.deadline = std::chrono::seconds(1000 * (i + 1));
      return options;
    };
    constexpr int count = 48;
    for (int i = 0; i < count; ++i) {
      auto call = i % 5 == 0   ? worker->call<CallSeen>(options_of(i), "seen")
                  : i % 5 == 1 ? worker->call<CallSeen>(options_of(i), "look_by_others", 10)
                               : worker->call<CallSeen>(options_of(i), "look_often", 20);
      calls.push_back(std::make_unique<Task<CallSeen>>(executor, std::move(call)));
    }
    for (int i = 0; i < count; ++i) {
      const CallSeen seen = co_await calls[static_cast<std::size_t>(i)]->result();
      EXPECT_EQ(seen.context, options_of(i).context.value()) << i;
      EXPECT_EQ(seen.attempt, 1u) << i;
      if (i % 3 == 0) {
        EXPECT_EQ(seen.left, -1) << i;
      } else {
        EXPECT_GT(seen.left, 1000'000 * i) << i;
        EXPECT_LE(seen.left, 1000'000 * (i + 1)) << i;
      }
    }
    co_await worker->stop();
  });
}

// Other threads, and coroutines that outlive their call, have no call.
TEST_F(ThisCall, EndsWithTheRoutine) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker();
    CallOptions options = with_context("mine");
    options.deadline = 60s;
    const auto elsewhere = co_await worker->call<CallSeen>(options, "seen_elsewhere");
    EXPECT_EQ(elsewhere.context, "");
    EXPECT_EQ(elsewhere.left, -1);
    EXPECT_EQ(elsewhere.attempt, 0u);
    co_await worker->call(options, "leave_behind");
    std::optional<CallSeen> seen;
    for (const auto until = Clock::now() + 10s; !seen && Clock::now() < until;)
      seen = co_await worker->call<std::optional<CallSeen>>(options, "seen_afterwards");
    EXPECT_TRUE(seen);
    if (seen) {
      EXPECT_EQ(seen->context, "");
      EXPECT_EQ(seen->left, -1);
      EXPECT_EQ(seen->attempt, 0u);
    }
    co_await worker->stop();
  });
}

// A context of 4,096 bytes arrives; one of 4,097 is an error that names the option.
TEST_F(ThisCall, BoundsTheContext) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker();
    const CallSeen seen = co_await worker->call<CallSeen>(with_context(std::string(4096, 'c')), "seen");
    EXPECT_EQ(seen.context.size(), 4096u);
    const Failure failure = co_await failure_of(worker->call<CallSeen>(with_context(std::string(4097, 'c')), "seen"));
    EXPECT_TRUE(failure.argument) << failure;
    EXPECT_NE(failure.text.find("CallOptions::context has 4097 bytes"), std::string::npos) << failure;
    co_await worker->stop();
  });
}

// A large argument that is moved in is in a piece of its own, behind the context.
TEST_F(ThisCall, ContextTravelsWithLargeArguments) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker();
    const std::string large(1 << 20, 'l');
    CallOptions options = with_context("with it");
    options.deadline = 60s;
    EXPECT_EQ(co_await worker->call<std::string>(options, "echo", std::string(large)), large);
    EXPECT_EQ(co_await worker->call<std::string>(options, "echo", drover::borrow(large)), large);
    const Failure unknown = co_await failure_of(worker->call(options, "missing"));
    EXPECT_EQ(unknown, Errc::unknown_routine) << unknown;
    EXPECT_NE(unknown.text.find("missing"), std::string::npos) << unknown;
    co_await worker->stop();
  });
}

enum class Why { caller, deadline, stop, signal };

// A coroutine that is cancelled, a plain routine that asks for a reason, and one with a std::stop_token know why.
TEST_F(ThisCall, KnowsWhyItWasCancelled) {
  const auto cancelled = [](std::string routine, Why why) -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const Started s = co_await started(life_worker());
    CallOptions options;
    const auto begun = Clock::now();
    if (why == Why::deadline) options.deadline = 300ms;
    const Task<void> call(executor, s.worker->call(options, routine));
    const bool naps = routine == "nap_with_reason";
    co_await said(s.pipe, naps ? "napping, none" : "blocking");
    std::optional<Task<StopReport>> stop;
    if (why == Why::caller) call.cancel();
    if (why == Why::stop) stop.emplace(executor, s.worker->stop(0s));
    if (why == Why::signal) ::kill(s.worker->pid(), SIGTERM);
    const std::string reason = why == Why::caller ? "caller" : why == Why::deadline ? "deadline" : "stop";
    co_await said(s.pipe, (naps ? "woken by " : "ended by ") + reason);
    if (why == Why::deadline) {
      EXPECT_GE(since(begun), 300ms);
    }
    co_await call.ended();
    if (why == Why::caller || why == Why::deadline) {
      EXPECT_EQ(co_await s.worker->call<std::string>("reason"), "none") << "of the next call";
    }
    if (!stop) co_await s.worker->stop(0s);
    if (stop) co_await stop->ended();
  };
  std::vector<std::function<asio::awaitable<void>()>> all;
  for (const std::string routine : {"nap_with_reason", "block_until_reason", "block_with_token"})
    for (const Why why : {Why::caller, Why::deadline, Why::stop, Why::signal})
      all.push_back([&cancelled, routine, why] { return cancelled(routine, why); });
  run_together(std::move(all));
}

// ---- calls inside a routine -----------------------------------------------------------------------------------------

// The earlier one of both deadlines counts. The context is not inherited.
TEST_F(InheritedDeadline, IsTheEarlierOne) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker();
    CallOptions options = with_context("mine");
    options.deadline = 60s;
    const auto nested = [&](bool inherits, int own) {
      return worker->call<CallSeen>(options, "ask_nested", inherits ? 1 : 0, own);
    };
    CallSeen seen = co_await nested(true, 0);
    EXPECT_GT(seen.left, 30'000);
    EXPECT_LE(seen.left, 60'000);
    EXPECT_EQ(seen.context, "");
    seen = co_await nested(true, 20'000);
    EXPECT_GT(seen.left, 1000);
    EXPECT_LE(seen.left, 20'000);
    seen = co_await nested(true, 100'000);
    EXPECT_GT(seen.left, 30'000);
    EXPECT_LE(seen.left, 60'000);
    seen = co_await nested(false, 100'000);
    EXPECT_GT(seen.left, 60'000);
    seen = co_await nested(false, 0);
    EXPECT_EQ(seen.left, -1);
    options.deadline.reset();
    seen = co_await nested(true, 0);
    EXPECT_EQ(seen.left, -1);
    co_await worker->stop();
  });
}

// A plain routine that runs a loop of its own.
TEST_F(InheritedDeadline, ReachesALoopInsideAPlainRoutine) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker();
    CallOptions options;
    options.deadline = 60s;
    const auto seen = co_await worker->call<CallSeen>(options, "ask_nested_inside");
    EXPECT_GT(seen.left, 30'000);
    EXPECT_LE(seen.left, 60'000);
    const auto free = co_await worker->call<CallSeen>("ask_nested_inside");
    EXPECT_EQ(free.left, -1);
    co_await worker->stop();
  });
}

// The nested call ends by itself, even if the routine does not react to its cancellation.
TEST_F(InheritedDeadline, EndsTheNestedCall) {
  run_together({[]() -> asio::awaitable<void> {
    const Started s = co_await started(life_worker());
    co_await s.worker->call("start_nested");  // how long that takes does not matter
    CallOptions options;
    options.deadline = 1500ms;
    const Failure failure = co_await failure_of(s.worker->call<std::string>(options, "nap_nested"));
    EXPECT_TRUE(!failure || failure == Errc::deadline_exceeded) << failure;  // both end at the same time
    std::string line;
    while (line.empty()) {
      if (s.pipe->readable()) line = s.pipe->line();
      co_await pause_for(1ms);
    }
    EXPECT_NE(line.find("the call of 'nap' did not end in time"), std::string::npos) << line;
    co_await s.worker->stop();
  }});
}

}  // namespace
