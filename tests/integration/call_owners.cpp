// Calls from several contexts, and every order of destruction: the caller, its context, the worker, the worker's
// context.
#include <gtest/gtest.h>

#include <asio/detached.hpp>
#include <asio/use_future.hpp>

#include "support/calls.hpp"

namespace {

using namespace support;

class Handle : public CallsAnywhere {};
class CallLifetime : public CallsAnywhere {};
class CallContext : public CallsAnywhere {};
class WorkerContext : public Calls {};
class WorkerDestruction : public Calls {};

INSTANTIATE_TEST_SUITE_P(On, Handle, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);
INSTANTIATE_TEST_SUITE_P(On, CallLifetime, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);
INSTANTIATE_TEST_SUITE_P(On, CallContext, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// Every operation on an empty or moved-from worker or pool fails with not_running, and a move disturbs no pending call.
TEST_P(Handle, EmptyOrMovedFromFailsWithNotRunning) {
  run_scenario([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    LocalWorker empty_worker;
    WorkerPool empty_pool;
    EXPECT_TRUE(co_await failure_of(empty_worker.call<int>("square", 3)) == Errc::not_running);
    EXPECT_TRUE(co_await failure_of(empty_worker.start()) == Errc::not_running);
    EXPECT_TRUE(co_await failure_of(empty_worker.stop()) == Errc::not_running);
    EXPECT_TRUE(co_await failure_of(empty_worker.status()) == Errc::not_running);
    EXPECT_TRUE(co_await failure_of(empty_pool.call<int>("square", 3)) == Errc::not_running);
    EXPECT_TRUE(co_await failure_of(empty_pool.stop()) == Errc::not_running);
    EXPECT_EQ(empty_worker.pid(), 0);
    EXPECT_FALSE(empty_worker.alive());
    EXPECT_EQ(empty_pool.stats().workers, 0u);
    EXPECT_TRUE(empty_pool.workers().empty());

    LocalWorker unstarted(here, call_worker());
    EXPECT_TRUE(co_await failure_of(unstarted.call<int>("square", 3)) == Errc::not_running);

    // A move disturbs no pending call.
    LocalWorker first(here, call_worker());
    co_await first.start();
    auto pending = first.call<std::string>("slow_echo", "moved", 50);
    LocalWorker second(std::move(first));
    EXPECT_TRUE(co_await failure_of(first.call<int>("square", 3)) == Errc::not_running);
    EXPECT_EQ(co_await std::move(pending), "moved");
    LocalWorker third;
    third = std::move(second);
    EXPECT_EQ(co_await third.call<int>("square", 3), 9);
    co_await third.stop();
    EXPECT_TRUE(co_await failure_of(third.call<int>("square", 3)) == Errc::stopping);
  });
}

// A call whose awaitable is destroyed without being awaited is cancelled in the worker.
TEST_P(CallLifetime, DroppedAwaitableCancelsTheCall) {
  run_scenario([]() -> asio::awaitable<void> {
    auto told = std::make_shared<ReadPipe>();
    WorkerOptions options = call_worker();
    options.command.out = told->stdio();
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    {
      auto call = worker.call<std::string>("nap", 30000, 0);
      co_await said(told, "napping");
    }
    co_await said(told, "cleaned up");
    EXPECT_EQ(co_await worker.call<int>("square", 3), 9);
    co_await worker.stop();
  });
}

asio::awaitable<int> many(WorkerPool& pool, int count) {
  int sum = 0;
  for (int i = 0; i < count; ++i) sum += co_await pool.call<int>("square", i % 10);
  co_return sum;
}

// Coroutines on another io_context, a thread pool and a strand may all call the same pool.
TEST_P(CallContext, MayBeAnotherContextOrAStrand) {
  run_scenario([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    WorkerPool pool = co_await WorkerPool::start(options);
    constexpr int count = 500, sum = count / 10 * 285;
    asio::io_context other;
    asio::thread_pool threads(2);
    const asio::any_io_executor executor = threads.get_executor();
    auto on_pool = asio::co_spawn(threads, many(pool, count), asio::use_future);
    auto in_strand = asio::co_spawn(asio::make_strand(executor), many(pool, count), asio::use_future);
    auto on_other = asio::co_spawn(other, many(pool, count), asio::use_future);
    std::thread runner([&] { other.run(); });
    EXPECT_EQ(co_await many(pool, count), sum);
    const auto all = [&] {
      for (auto* each : {&on_pool, &in_strand, &on_other})
        if (each->wait_for(0s) != std::future_status::ready) return false;
      return true;
    };
    const bool ended = co_await soon(all);
    EXPECT_TRUE(ended);
    for (auto* each : {&on_pool, &in_strand, &on_other}) EXPECT_EQ(each->get(), sum);
    runner.join();
    threads.join();
    co_await pool.stop();
  });
}

/// Counts the calls that are answered on this thread.
asio::awaitable<void> answered_on(LocalWorker& worker, std::thread::id thread, int& count) {
  for (int i = 0; i < 100; ++i) {
    co_await worker.call<int>("square", i);
    count += std::this_thread::get_id() == thread;
  }
}
// A caller on another context is resumed on the thread that runs its own context.
TEST_P(CallContext, CallerResumesOnItsOwnExecutor) {
  run_scenario([]() -> asio::awaitable<void> {
    LocalWorker worker(co_await asio::this_coro::executor, call_worker());
    co_await worker.start();
    std::atomic<bool> done{false};
    int count = 0;
    std::thread runner([&] {
      asio::io_context other;
      asio::co_spawn(other, answered_on(worker, std::this_thread::get_id(), count), asio::detached);
      other.run();
      done = true;
    });
    const bool ended = co_await soon([&] { return done.load(); });
    EXPECT_TRUE(ended);
    runner.join();
    EXPECT_EQ(count, 100);
    co_await worker.stop();
  });
}

// Calls whose caller's context is destroyed are cancelled in the worker, which goes on working.
TEST_P(CallContext, IfDestroyedCancelsItsCalls) {
  run_scenario([]() -> asio::awaitable<void> {
    auto told = std::make_shared<ReadPipe>();
    WorkerOptions options = call_worker();
    options.command.out = told->stdio();
    options.max_in_flight = 2;
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    {
      asio::io_context other;
      asio::co_spawn(other, worker.call<std::string>("nap", 30000, 0), asio::detached);
      asio::co_spawn(other, worker.call<std::string>("doze", 30000), asio::detached);
      asio::co_spawn(other, worker.call<int>("square", 3), asio::detached);  // queued
      other.poll();
      co_await said(told, "napping");
    }
    co_await said(told, "cleaned up");
    EXPECT_EQ(co_await worker.call<int>("square", 3), 9);
    // The context is destroyed while results arrive.
    for (int round = 0; round < 30; ++round) {
      asio::io_context other;
      for (int i = 0; i < 20; ++i) asio::co_spawn(other, worker.call<int>("square", i), asio::detached);
      other.poll();
      if (round % 3 == 0) co_await worker.call<int>("square", 3);
      if (round % 3 == 1) other.run_for(1ms);
    }
    EXPECT_EQ(co_await worker.call<int>("square", 3), 9);
    co_await worker.stop();
  });
}

/// Expects each call to fail in this way. If one does not end, the threads of the callers are stopped.
void expect_failures(std::vector<std::future<Failure>>& failures, asio::thread_pool& callers,
                     bool (*expected)(const Failure&)) {
  for (auto& failure : failures) {
    if (failure.wait_for(10s) != std::future_status::ready) {
      ADD_FAILURE() << "a call does not end";
      return callers.stop();
    }
    const Failure ended = failure.get();
    EXPECT_TRUE(expected(ended)) << ended;
  }
}

template <class Owner>
asio::awaitable<void> gone_from_elsewhere(std::function<asio::awaitable<Owner>()> make) {
  for (int round = 0; round < 10 && !::testing::Test::HasFailure(); ++round) {
    std::vector<std::future<Failure>> failures;
    asio::thread_pool callers(2);
    {
      Owner owner = co_await make();
      for (int i = 0; i < 6; ++i) {
        auto nap = owner.template call<std::string>("doze", 30000);
        failures.push_back(asio::co_spawn(callers, failure_of(std::move(nap)), asio::use_future));
      }
    }
    expect_failures(failures, callers, [](const Failure& failure) { return failure.aborted(); });
    callers.join();
  }
}
asio::awaitable<LocalWorker> one_worker() {
  LocalWorker worker(co_await asio::this_coro::executor, call_worker());
  co_await worker.start();
  co_return worker;
}
asio::awaitable<WorkerPool> two_workers() {
  PoolOptions options = call_pool(2);
  return WorkerPool::start(options);
}
// Calls from other contexts fail with operation_aborted when the LocalWorker is destroyed.
TEST_P(CallLifetime, EndsWithTheWorkerObject) {
  run_scenario([] { return gone_from_elsewhere<LocalWorker>(one_worker); });
}
// Calls from other contexts fail with operation_aborted when the WorkerPool is destroyed.
TEST_P(CallLifetime, EndsWithThePoolObject) {
  run_scenario([] { return gone_from_elsewhere<WorkerPool>(two_workers); });
}

// Calls from other contexts fail with connection_lost when the worker's context is destroyed.
TEST_F(WorkerContext, IfDestroyedFailsCallsFromOtherContexts) {
  for (int round = 0; round < 5; ++round) {
    asio::thread_pool callers(2);
    std::vector<std::future<Failure>> failures;
    LocalWorker worker;
    WorkerPool pool;
    {
      asio::io_context context;
      const auto make = [&]() -> asio::awaitable<void> {
        worker = co_await one_worker();
        pool = co_await two_workers();
        for (int i = 0; i < 6; ++i) {
          auto first = worker.call<std::string>("doze", 30000);
          auto second = pool.call<std::string>("doze", 30000);
          failures.push_back(asio::co_spawn(callers, failure_of(std::move(first)), asio::use_future));
          failures.push_back(asio::co_spawn(callers, failure_of(std::move(second)), asio::use_future));
        }
        context.stop();
      };
      asio::co_spawn(context, make(), asio::detached);
      context.run_for(30s);
    }
    EXPECT_EQ(failures.size(), 12u) << "the worker and the pool have started";
    expect_failures(failures, callers, [](const Failure& failure) { return failure == Errc::connection_lost; });
    auto late = asio::co_spawn(callers, failure_of(worker.call<int>("square", 3)), asio::use_future);
    EXPECT_TRUE(late.get());
    auto later = asio::co_spawn(callers, failure_of(pool.call<int>("square", 3)), asio::use_future);
    EXPECT_TRUE(later.get());
    callers.join();
  }
}

// One thread destroys the worker while other threads deliver its results.
TEST_F(WorkerDestruction, MayRaceWithResultsOnOtherThreads) {
  for (int round = 0; round < (sanitized ? 15 : 40); ++round) {
    asio::thread_pool threads(3);
    asio::thread_pool callers(1);
    std::vector<std::future<Failure>> ended;
    std::atomic<int> answers{0}, callers_waiting{0};
    const auto caller = [&](LocalWorker& of) -> asio::awaitable<void> {
      std::vector<asio::awaitable<std::vector<std::byte>>> calls;
      for (int i = 0; i < 100; ++i) calls.push_back(of.call<std::vector<std::byte>>("bytes", 100000u));
      ++callers_waiting;
      for (auto& call : calls) {
        const auto bytes = co_await std::move(call);
        if (bytes.size() != 100000u || bytes.back() != std::byte{1}) throw std::runtime_error("a wrong answer");
        ++answers;
      }
    };
    {
      auto starting = asio::co_spawn(threads, one_worker(), asio::use_future);
      LocalWorker worker = starting.get();
      ended.push_back(asio::co_spawn(threads, failure_of(caller(worker)), asio::use_future));
      ended.push_back(asio::co_spawn(callers, failure_of(caller(worker)), asio::use_future));
      while (callers_waiting < 2 || answers < round) std::this_thread::yield();
      worker = LocalWorker();
    }
    threads.join();
    callers.join();
    for (auto& each : ended) {
      const Failure failure = each.get();
      EXPECT_TRUE(!failure || failure.aborted() || failure == Errc::not_running) << failure;
    }
  }
}

// A caller may destroy the worker when its call completes; the other calls complete or fail with operation_aborted.
TEST_P(CallLifetime, CompletionMayDestroyTheWorker) {
  run_scenario([]() -> asio::awaitable<void> {
    for (int round = 0; round < 20; ++round) {
      WorkerOptions options = call_worker();
      options.max_in_flight = 8;
      auto worker = std::make_unique<LocalWorker>(co_await asio::this_coro::executor, options);
      co_await worker->start();
      std::vector<asio::awaitable<int>> calls;
      for (int i = 0; i < 20; ++i) calls.push_back(worker->call<int>("square", i));
      EXPECT_EQ(co_await std::move(calls[0]), 0);  // more results have arrived together with this one
      worker.reset();
      for (std::size_t i = 1; i < calls.size(); ++i) {
        const Failure failure = co_await failure_of(std::move(calls[i]));
        EXPECT_TRUE(!failure || failure.aborted()) << failure;
      }
    }
  });
}

}  // namespace
