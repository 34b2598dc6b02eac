// Calls that succeed and calls that their caller gives up: on one thread, on four, and with two pools in two threads.
#include "support/calls.hpp"

#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <optional>
#include <tuple>

#include "support/call_types.hpp"

namespace {

using namespace support;

class Call : public CallsAnywhere {};
class CallCancellation : public CallsAnywhere {};
class QueuedCall : public CallsAnywhere {};
class CallDeadline : public CallsAnywhere {};
class KillAfter : public CallsAnywhere {};
class KilledWorker : public Calls {};
class ConcurrentCall : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, Call, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);
INSTANTIATE_TEST_SUITE_P(On, CallCancellation,
                         ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools), name_of);
INSTANTIATE_TEST_SUITE_P(On, QueuedCall, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);
INSTANTIATE_TEST_SUITE_P(On, CallDeadline, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);
INSTANTIATE_TEST_SUITE_P(On, KillAfter, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// Every kind of value that the codec knows can be an argument and a result.
TEST_P(Call, PassesEveryKindOfValue) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    WorkerPool pool = co_await WorkerPool::start(options);
    co_await pool.call("nothing");
    EXPECT_EQ(co_await pool.call<int>("square", 7), 49);
    EXPECT_EQ(co_await pool.call<long>("add", 1, 41), 42);
    EXPECT_EQ(co_await pool.call<std::string>("echo", "text"), "text");
    const std::vector<std::string> parts{"a", "b", "c"};
    EXPECT_EQ(co_await pool.call<std::string>("join", parts, ", "), "a, b, c");
    const std::map<std::string, int> numbers{{"one", 1}, {"two", 2}};
    const std::map<int, std::string> inverted{{1, "one"}, {2, "two"}};
    EXPECT_EQ((co_await pool.call<std::map<int, std::string>>("invert", numbers)), inverted);
    const std::tuple<int, std::string> pair{5, "five"}, none{};
    EXPECT_EQ((co_await pool.call<std::tuple<std::string, int>>("swap", pair)),
              (std::tuple<std::string, int>{"five", 5}));
    EXPECT_EQ(co_await pool.call<std::optional<int>>("half", 8), 4);
    EXPECT_EQ(co_await pool.call<std::optional<int>>("half", 7), std::nullopt);
    const Point point{1, 2};
    EXPECT_EQ(co_await pool.call<Point>("mirror", point), (Point{2, 1}));
    const Celsius warm(20);
    EXPECT_EQ(co_await pool.call<double>("fahrenheit", warm), 68.0);
    EXPECT_EQ((co_await pool.call<Celsius>("boil")).degrees(), 100.0);
    Message message;
    message.text = "hey";
    EXPECT_EQ((co_await pool.call<Message>("shout", message)).text, "hey!");
    EXPECT_EQ(co_await pool.call<std::string>("slow_echo", "a coroutine", 5), "a coroutine");
    EXPECT_EQ(co_await pool.call<std::string>("echo", ""), "");
    // The caller ignores the result.
    co_await pool.call("square", 3);
    co_await pool.stop();
  });
}

// Move-only values can be arguments and results.
TEST_P(Call, PassesMoveOnlyValues) {
  run_scenario([]() -> asio::awaitable<void> {
    LocalWorker worker(co_await asio::this_coro::executor, call_worker());
    co_await worker.start();
    Parcel parcel{std::make_unique<std::string>("fragile")};
    Parcel same = co_await worker.call<Parcel>("forward", std::move(parcel));
    EXPECT_EQ(*same.content, "fragile");
    auto text = std::make_unique<std::string>("wrapped");
    Parcel wrapped = co_await worker.call<Parcel>("wrap", text);
    EXPECT_EQ(*wrapped.content, "wrapped");
    co_await worker.stop();
  });
}

// The arguments and the name of the routine may change or be destroyed as soon as call() has returned.
TEST_P(Call, EncodesItsArgumentsBeforeItReturns) {
  run_scenario([]() -> asio::awaitable<void> {
    LocalWorker worker(co_await asio::this_coro::executor, call_worker());
    co_await worker.start();
    auto text = std::make_unique<std::string>(1000, 'x');
    auto routine = std::make_unique<std::string>("echo");
    auto pending = worker.call<std::string>(*routine, std::string_view(*text));
    text->assign(1000, 'y');
    text.reset();
    routine.reset();
    EXPECT_EQ(co_await std::move(pending), std::string(1000, 'x'));
    co_await worker.stop();
  });
}

// An unknown routine, wrong arguments and too large messages fail with an error of their own and leave the worker
// running.
TEST_P(Call, IfRefusedFailsWithASpecificError) {
  run_scenario([]() -> asio::awaitable<void> {
    WorkerOptions options = call_worker();
    options.max_message_size = 1 << 20;
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    const pid_t pid = worker.pid();
    const std::string much(2 << 20, 'x'), text = "text";
    const Failure unknown = co_await failure_of(worker.call<int>("no such routine", 1));
    EXPECT_TRUE(unknown == Errc::unknown_routine) << unknown;
    EXPECT_NE(unknown.text.find("no such routine"), std::string::npos) << unknown;
    EXPECT_TRUE(co_await failure_of(worker.call<int>("square", text)) == Errc::bad_arguments);
    EXPECT_TRUE(co_await failure_of(worker.call<int>("square")) == Errc::bad_arguments);
    EXPECT_TRUE(co_await failure_of(worker.call<int>("square", 1, 2)) == Errc::bad_arguments);
    EXPECT_TRUE(co_await failure_of(worker.call<int>("square", 1LL << 40)) == Errc::bad_arguments);
    EXPECT_TRUE(co_await failure_of(worker.call<std::string>("square", 3)) == Errc::bad_arguments);
    EXPECT_TRUE(co_await failure_of(worker.call<std::string>("echo", much)) == Errc::message_too_large);
    EXPECT_TRUE(co_await failure_of(worker.call<std::vector<std::byte>>("bytes", 2u << 20)) == Errc::message_too_large);
    EXPECT_TRUE(co_await failure_of(worker.call<std::vector<std::byte>>("bytes", 200u << 20)) ==
                Errc::message_too_large);
    EXPECT_EQ(co_await worker.call<int>("square", 5), 25);
    EXPECT_EQ(worker.pid(), pid);
    EXPECT_TRUE(worker.alive());
    co_await worker.stop();
  });
}

// An exception in a routine reaches the caller as a RemoteError with its type and text.
TEST_P(Call, TurnsAnExceptionIntoARemoteError) {
  run_scenario([]() -> asio::awaitable<void> {
    LocalWorker worker(co_await asio::this_coro::executor, call_worker());
    co_await worker.start();
    const std::pair<const char*, std::string> thrown[] = {
        {"throw", "std::runtime_error"}, {"throw_unusual", "Unusual"}, {"fail_later", "Unusual"}, {"throw_int", "int"}};
    for (const auto& [routine, type] : thrown) {
      try {
        const std::string name = routine;
        if (name == "throw_int")
          co_await worker.call(name);
        else
          co_await worker.call(name, "what went wrong");
        ADD_FAILURE() << routine << " did not throw";
      } catch (const RemoteError& error) {
        EXPECT_NE(error.type().find(type), std::string::npos) << error.type();
        EXPECT_TRUE(type == "int" || error.what() == std::string("what went wrong")) << error.what();
      }
    }
    EXPECT_EQ(co_await worker.call<int>("square", 5), 25);
    co_await worker.stop();
  });
}

/// A started worker whose output goes to `told`.
asio::awaitable<LocalWorker> worker_that_tells(std::shared_ptr<ReadPipe> told, std::size_t max_in_flight) {
  WorkerOptions options = call_worker();
  options.command.out = told->stdio();
  options.max_in_flight = max_in_flight;
  LocalWorker worker(co_await asio::this_coro::executor, options);
  co_await worker.start();
  co_return worker;
}

// A cancelled call fails at once, and its routine in the worker is cancelled.
TEST_P(CallCancellation, ReachesTheRoutine) {
  run_in_strand([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    auto told = std::make_shared<ReadPipe>();
    LocalWorker worker = co_await worker_that_tells(told, 1);
    Task napping(here, worker.call<std::string>("nap", 30000, 100));
    co_await said(told, "napping");
    auto before = Clock::now();
    napping.cancel();
    EXPECT_TRUE((co_await napping.failure()).aborted());
    EXPECT_LT(since(before), 1s) << "the caller does not wait for the routine";
    co_await said(told, "cleaned up");
    EXPECT_GE(since(before), 100ms);
    EXPECT_LT(since(before), slack);

    Task looping(here, worker.call<std::string>("until_stopped"));
    co_await said(told, "looping");
    looping.cancel();
    EXPECT_TRUE((co_await looping.failure()).aborted());
    EXPECT_EQ(co_await worker.call<int>("square", 3), 9) << "it saw the token while it blocked the main thread";

    // This routine cannot be cancelled: its late result is dropped without a trace.
    Task working(here, worker.call<std::string>("work", 200));
    co_await said(told, "working");
    working.cancel();
    EXPECT_TRUE((co_await working.failure()).aborted());
    EXPECT_EQ(co_await worker.call<std::string>("echo", "next"), "next");
    co_await worker.stop();
  });
}

// A call that is cancelled while it is still in the worker's socket never begins.
TEST_P(CallCancellation, BeforeTheRoutineBeginsPreventsIt) {
  run_scenario([]() -> asio::awaitable<void> {
    auto told = std::make_shared<ReadPipe>();
    LocalWorker worker = co_await worker_that_tells(told, 3);
    auto first = worker.call<std::string>("work", 300);
    co_await said(told, "working");
    {
      auto second = worker.call<int>("bump");  // in the worker's socket; destroying the awaitable cancels the call
      auto third = worker.call<int>("bump");
    }
    EXPECT_EQ(co_await std::move(first), "worked");
    EXPECT_EQ(co_await worker.call<int>("bumped"), 0);
    co_await worker.stop();
  });
}

// A call that expires or is dropped in the queue is never sent, and the deadline covers the time in the queue.
TEST_P(QueuedCall, ExpiredOrDroppedIsNeverSent) {
  run_scenario([]() -> asio::awaitable<void> {
    auto told = std::make_shared<ReadPipe>();
    LocalWorker worker = co_await worker_that_tells(told, 1);
    auto first = worker.call<std::string>("work", 400);
    co_await said(told, "working");
    const CallOptions soon_over{.deadline = 100ms}, over{.deadline = 0ms};
    const auto before = Clock::now();
    auto queued = worker.call<int>(soon_over, "bump");
    EXPECT_TRUE(co_await failure_of(worker.call<int>(over, "bump")) == Errc::deadline_exceeded);
    {
      auto dropped = worker.call<int>("bump");
    }
    EXPECT_TRUE(co_await failure_of(std::move(queued)) == Errc::deadline_exceeded);
    EXPECT_GE(since(before), 100ms);
    EXPECT_LT(since(before), 380ms) << "it covers the time in the queue";
    EXPECT_EQ(co_await std::move(first), "worked");
    EXPECT_EQ(co_await worker.call<int>("bumped"), 0);
    co_await worker.stop();
  });
}

// A call fails with deadline_exceeded at its deadline, whether or not its routine can be cancelled.
TEST_P(CallDeadline, FailsTheCallOnTime) {
  run_scenario([]() -> asio::awaitable<void> {
    LocalWorker worker(co_await asio::this_coro::executor, call_worker());
    co_await worker.start();
    const CallOptions options{.deadline = 200ms};
    for (const std::string routine : {"doze", "work"}) {
      const auto before = Clock::now();
      EXPECT_TRUE(co_await failure_of(worker.call<std::string>(options, routine, 600)) == Errc::deadline_exceeded);
      EXPECT_GE(since(before), 200ms);
      EXPECT_LT(since(before), 200ms + slack);
    }
    EXPECT_EQ(co_await worker.call<int>("square", 3), 9);
    const CallOptions enough{.deadline = 10s};
    EXPECT_EQ(co_await worker.call<int>(enough, "square", 4), 16);
    const CallOptions endless{.deadline = drover::Duration::max(), .kill_after = drover::Duration::max()};
    EXPECT_EQ(co_await worker.call<int>(endless, "square", 5), 25);
    const CallOptions negative{.deadline = -1ms};
    EXPECT_TRUE((co_await failure_of(worker.call<int>(negative, "square", 5))).argument);
    co_await worker.stop();
  });
}

// With kill_after, a worker whose routine does not end after its cancellation is killed and replaced.
TEST_P(KillAfter, KillsAWorkerWhoseRoutineDoesNotEnd) {
  run_scenario([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    auto told = std::make_shared<ReadPipe>();
    PoolOptions options = call_pool(1);
    options.worker.command.out = told->stdio();
    WorkerPool pool = co_await WorkerPool::start(options);
    const CallOptions killing{.deadline = 100ms, .kill_after = 100ms};
    const pid_t first = co_await pool.call<int>("pid");
    EXPECT_TRUE(co_await failure_of(pool.call(killing, "spin")) == Errc::deadline_exceeded);
    const pid_t second = co_await pool.call<int>("pid");
    EXPECT_NE(first, second);
    EXPECT_TRUE(gone(first));
    co_await said(told, "spinning");
    const CallOptions on_cancel{.kill_after = 100ms};
    {
      auto dropped = pool.call(on_cancel, "spin");
      co_await said(told, "spinning");
    }
    const auto before = Clock::now();
    const pid_t third = co_await pool.call<int>("pid");
    EXPECT_NE(second, third);
    EXPECT_GE(since(before), 95ms);
    // A routine that ends within kill_after is not killed.
    const CallOptions patient{.deadline = 50ms, .kill_after = 5s};
    EXPECT_TRUE(co_await failure_of(pool.call<std::string>(patient, "work", 300)) == Errc::deadline_exceeded);
    EXPECT_EQ(co_await pool.call<int>("pid"), third);
    // However often callers request a kill, the pool does not give up.
    const CallOptions at_once{.deadline = 1ms, .kill_after = 1ms};
    for (int i = 0; i < 8; ++i) {
      EXPECT_TRUE(co_await failure_of(pool.call(at_once, "spin")) == Errc::deadline_exceeded);
      EXPECT_EQ(co_await pool.call<int>("square", i), i * i);
    }
    EXPECT_EQ(pool.stats().crashes, 0u);
    EXPECT_GT(pool.stats().restarts, 2u);  // a call that expires before it is sent kills no worker
    co_await pool.stop();
  });
}

// Calls made after a worker was killed go to its replacement, although the killed worker has free slots.
TEST_F(KilledWorker, TakesNoFurtherCalls) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    const auto pool = std::make_shared<WorkerPool>();
    const auto answered = std::make_shared<std::atomic<int>>(0);
    PoolOptions options = call_pool(1);
    options.worker.max_in_flight = 2;
    options.worker.on_event = [here, answered, weak = std::weak_ptr(pool)](const Event& event) {
      if (event.kind != Event::Kind::kill_sent) return;
      asio::co_spawn(
          here,
          [](std::shared_ptr<WorkerPool> all, std::shared_ptr<std::atomic<int>> count) -> asio::awaitable<void> {
            const int nine = co_await all->call<int>("square", 3);
            *count += nine == 9;
          }(weak.lock(), answered),
          [](std::exception_ptr thrown) {
            if (thrown) ADD_FAILURE() << describe(thrown);
          });
    };
    *pool = co_await WorkerPool::start(options);
    const CallOptions killing{.deadline = 50ms, .kill_after = 0ms};
    for (int i = 1; i <= 10; ++i) {
      EXPECT_TRUE(co_await failure_of(pool->call(killing, "spin")) == Errc::deadline_exceeded);
      const bool made = co_await soon([&] { return *answered == i; });
      EXPECT_TRUE(made);
    }
    co_await pool->stop();
  });
}

// 64 callers on four threads all get the right results.
TEST_F(ConcurrentCall, GetsTheRightResultOnFourThreads) {
  constexpr int callers = 64, calls = sanitized ? 200 : 1600;
  std::atomic<int> right{0}, wrong{0};
  on_four_threads([&]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(4);
    options.worker.max_in_flight = 16;
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    const auto caller = [&](int me) -> asio::awaitable<void> {
      for (int i = 0; i < calls; i += 4) {
        std::vector<asio::awaitable<long>> several;  // in flight at the same time
        for (int j = 0; j < 4; ++j) several.push_back(pool.call<long>("add", me * 1000000, i + j));
        for (int j = 0; j < 4; ++j)
          ++(co_await std::move(several[std::size_t(j)]) == me * 1000000L + i + j ? right : wrong);
      }
    };
    std::vector<Task<void>> tasks;
    for (int me = 0; me < callers; ++me) tasks.emplace_back(strand_of(here), caller(me));
    const bool all = co_await soon([&] { return right + wrong == callers * calls; }, 50s);
    EXPECT_TRUE(all);
    EXPECT_EQ(pool.stats().calls, std::uint64_t(callers) * calls);
    EXPECT_EQ(pool.stats().crashes, 0u);
    co_await pool.stop();
  });
  EXPECT_EQ(right, callers * calls);
  EXPECT_EQ(wrong, 0);
}

}  // namespace
