// Any object may be destroyed before or after its context, with operations pending and on any kind of executor, and
// event handlers of the program do no harm.
#include <atomic>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <mutex>
#include <signal.h>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/strand.hpp>
#include <asio/thread_pool.hpp>

#include "support/workers.hpp"

namespace {

using namespace support;

class Lifetime : public Workers {};

class Events : public Workers {};

WorkerOptions brief() {
  WorkerOptions options = plain_worker();
  options.stop_margin = 2s;
  options.term_grace = 1s;
  return options;
}

// ---- orders of destruction ------------------------------------------------------------------------------------------

/// A context, the threads that run it, and the executor for the objects of a test.
class Place {
 public:
  enum class Kind { loop, strand_of_two_threads, pool_of_threads, strand_of_pool };

  explicit Place(Kind kind) : kind_(kind) {
    if (kind == Kind::pool_of_threads || kind == Kind::strand_of_pool) {
      pool_ = std::make_unique<asio::thread_pool>(2);
      return;
    }
    context_ = std::make_unique<asio::io_context>();
    work_.emplace(context_->get_executor());
    for (int i = 0; i < (kind == Kind::loop ? 1 : 2); ++i) threads_.emplace_back([this] { context_->run(); });
  }
  ~Place() { end(); }

  asio::any_io_executor executor() {
    switch (kind_) {
      case Kind::loop: return context_->get_executor();
      case Kind::strand_of_two_threads: return asio::make_strand(*context_);
      case Kind::pool_of_threads: return pool_->get_executor();
      case Kind::strand_of_pool: return asio::make_strand(*pool_);
    }
    return {};
  }

  void end() {
    if (pool_) pool_->stop(), pool_->join();
    pool_.reset();
    work_.reset();
    if (context_) context_->stop();
    for (auto& thread : threads_) thread.join();
    threads_.clear();
    context_.reset();
  }

 private:
  Kind kind_;
  std::unique_ptr<asio::io_context> context_;
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work_;
  std::vector<std::thread> threads_;
  std::unique_ptr<asio::thread_pool> pool_;
};

using Kind = Place::Kind;
constexpr Kind everywhere[] = {Kind::loop, Kind::strand_of_two_threads, Kind::pool_of_threads, Kind::strand_of_pool};

/// Begins every operation that can be pending on a worker, each in a coroutine of its own.
void begin_all(LocalWorker& worker, const asio::any_io_executor& executor, int stage) {
  const auto nothing = [](std::exception_ptr, auto&&...) {};
  if (stage == 0) return asio::co_spawn(executor, worker.start(), nothing);
  asio::co_spawn(executor, worker.call<int>("square", 2), nothing);
  asio::co_spawn(executor, worker.call<std::string>("doze", 30000), nothing);
  CallOptions timed{.deadline = 20ms};
  asio::co_spawn(executor, worker.call<std::string>(timed, "doze", 30000), nothing);
  asio::co_spawn(executor, worker.status(), nothing);
  if (stage == 2) asio::co_spawn(executor, worker.stop(50ms), nothing);
  if (stage == 3) asio::co_spawn(executor, worker.stop(std::nullopt), nothing);
}

void wait_until_ready(const LocalWorker& worker) {
  for (const auto start = Clock::now(); since(start) < 10s; ::poll(nullptr, 0, 1)) {
    try {
      (void)worker.metadata();
      return;
    } catch (const Error&) {
    }
  }
  FAIL() << "the worker is not ready";
}

// A worker and its context may be destroyed in either order, at any stage, with operations pending here and elsewhere.
TEST_F(Lifetime, WorkerAndContextMayBeDestroyedInAnyOrder) {
  for (const Kind kind : everywhere)
    for (const bool context_first : {false, true})
      for (int stage = 0; stage < 4; ++stage)
        for (const auto wait : {0us, 400us, 3000us}) {
          Place place(kind), elsewhere(Kind::loop);
          auto executor = place.executor();
          auto worker = std::make_unique<LocalWorker>(executor, brief());
          if (stage > 0) {
            begin_all(*worker, executor, 0);
            wait_until_ready(*worker);
            begin_all(*worker, elsewhere.executor(), 1);  // a call awaited on another context completes there
          }
          begin_all(*worker, executor, stage);
          std::this_thread::sleep_for(wait);
          executor = {};  // it must not outlive the context
          if (context_first) {
            place.end();
            worker.reset();
          } else {
            worker.reset();
            place.end();
          }
          EXPECT_TRUE(soon_childless(1s + slack));
        }
}

// A pool and its context may be destroyed in either order, while it starts and with calls pending.
TEST_F(Lifetime, PoolAndContextMayBeDestroyedInAnyOrder) {
  for (const Kind kind : everywhere)
    for (const bool context_first : {false, true})
      for (const std::optional<Duration> wait : {std::optional<Duration>(0us), {2000us}, {}}) {
        Place place(kind);
        drover::PoolOptions options;
        options.size = 2;
        options.worker = brief();
        options.worker.max_in_flight = 2;
        auto executor = place.executor();
        struct Shared {
          std::mutex mutex;
          std::unique_ptr<WorkerPool> pool;
        };
        const auto shared = std::make_shared<Shared>();
        const auto body = [](drover::PoolOptions o, std::shared_ptr<Shared> s) -> asio::awaitable<void> {
          auto made = std::make_unique<WorkerPool>(co_await WorkerPool::start(o));
          const auto here = co_await asio::this_coro::executor;
          const auto nothing = [](std::exception_ptr, auto&&...) {};
          for (int i = 0; i < 8; ++i) asio::co_spawn(here, made->call<std::string>("doze", 3 * i), nothing);
          const std::lock_guard held(s->mutex);
          s->pool = std::move(made);
        };
        asio::co_spawn(executor, body(options, shared), asio::detached);
        executor = {};
        std::unique_ptr<WorkerPool> pool;
        const auto take_pool = [&] {
          const std::lock_guard held(shared->mutex);
          pool = std::move(shared->pool);
          return pool != nullptr;
        };
        if (wait) {
          std::this_thread::sleep_for(*wait);
          take_pool();
        } else {  // until it has started and its calls are pending
          for (const auto start = Clock::now(); !take_pool() && since(start) < 10s;) std::this_thread::yield();
          EXPECT_TRUE(pool);
        }
        if (context_first) place.end();
        pool.reset();
        place.end();
        shared->pool.reset();
        EXPECT_TRUE(soon_childless(1s + slack));
      }
}

// Threads that start, call, stop and destroy workers of one context at the same time.
TEST_F(Lifetime, ManyThreadsMayShareAContext) {
  Place place(Kind::strand_of_two_threads);
  std::vector<std::thread> users;
  std::atomic<int> good{0};
  for (int t = 0; t < 4; ++t)
    users.emplace_back([&, t] {
      for (int i = 0; i < 10; ++i) {
        LocalWorker worker(place.executor(), brief());
        asio::io_context context;
        const auto life = [](LocalWorker& w, int n) -> asio::awaitable<int> {
          co_await w.start();
          auto first = w.call<int>("square", n);
          auto second = w.call<std::string>("doze", 5);
          auto stop = w.stop(2s);
          const int result = co_await std::move(first);
          co_await failure_of(std::move(second));
          const StopReport report = co_await std::move(stop);
          co_return report.exit.success() ? result : -1;
        };
        if (support::run(context, life(worker, t)) == t * t) ++good;
      }
    });
  for (auto& user : users) user.join();
  EXPECT_EQ(good, 40);
  place.end();
}

// ---- handlers of events ---------------------------------------------------------------------------------------------

// An event handler that is slow or throws harms nothing and gets all events in order.
TEST_F(Events, KeepTheirOrderIfTheHandlerIsSlowOrThrows) {
  const auto watched = [](std::function<void(const Event&)> handler) -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const auto kinds = std::make_shared<std::vector<Event::Kind>>();
    WorkerOptions options = brief();
    options.name = "watched";
    options.on_event = [kinds, handler](const Event& event) {
      EXPECT_EQ(event.worker, "watched");
      EXPECT_NE(event.pid, 0);
      kinds->push_back(event.kind);
      handler(event);
    };
    using enum Event::Kind;
    {
      const auto worker = std::make_shared<LocalWorker>(executor, options);
      co_await worker->start();
      EXPECT_EQ(co_await worker->call<int>("square", 3), 9);
      const StopReport report = co_await worker->stop();
      EXPECT_TRUE(report.exit.success());
      const std::vector all{spawned, ready, stopping, exited, reaped};
      EXPECT_EQ(*kinds, all);
      co_await pause_for(300ms);  // no further one comes
      EXPECT_EQ(*kinds, all);
    }
    kinds->clear();
    {
      const auto worker = std::make_shared<LocalWorker>(executor, options);
      co_await worker->start();
      EXPECT_EQ(co_await failure_of(worker->call("exit", 3)), Errc::worker_exited);
      co_await worker->stop();
      const std::vector all{spawned, ready, exited, reaped};
      EXPECT_EQ(*kinds, all);
      co_await pause_for(300ms);  // no further one comes
      EXPECT_EQ(*kinds, all);
    }
  };
  run_together({
      [&] { return watched([](const Event&) {}); },
      [&] { return watched([](const Event&) { throw std::runtime_error("a handler's own"); }); },
      [&] { return watched([](const Event&) { throw 7; }); },
      [&] { return watched([](const Event&) { std::this_thread::sleep_for(20ms); }); },
  });
}

// An event handler may use the worker and even destroy it.
TEST_F(Events, HandlerMayStopOrDestroyItsWorker) {
  run_together({
      []() -> asio::awaitable<void> {
        const auto executor = co_await asio::this_coro::executor;
        const auto worker = std::make_shared<std::unique_ptr<LocalWorker>>();
        WorkerOptions options = brief();
        options.on_event = [weak = std::weak_ptr(worker)](const Event& event) {
          const auto held = weak.lock();
          if (held && *held && event.kind == Event::Kind::ready) held->reset();
        };
        *worker = std::make_unique<LocalWorker>(executor, options);
        const Task<void> start(executor, (*worker)->start());
        co_await start.ended();
        for (const auto begun = Clock::now(); *worker && since(begun) < 10s;) co_await pause_for(1ms);
        EXPECT_EQ(*worker, nullptr);
      },
      []() -> asio::awaitable<void> {
        const auto executor = co_await asio::this_coro::executor;
        const auto worker = std::make_shared<std::unique_ptr<LocalWorker>>();
        const auto stopped = std::make_shared<bool>(false);
        WorkerOptions options = brief();
        options.on_event = [weak = std::weak_ptr(worker), stopped, executor](const Event& event) {
          const auto held = weak.lock();
          if (!held || !*held || event.kind != Event::Kind::spawned) return;
          asio::co_spawn(executor, (*held)->stop(0s),
                         [stopped](std::exception_ptr thrown, const StopReport&) { *stopped = !thrown; });
        };
        *worker = std::make_unique<LocalWorker>(executor, options);
        const Failure failure = co_await failure_of((*worker)->start());
        EXPECT_TRUE(!failure || failure.aborted()) << failure;
        for (const auto begun = Clock::now(); !*stopped && since(begun) < 10s;) co_await pause_for(1ms);
        EXPECT_TRUE(*stopped) << "by the handler";
        EXPECT_FALSE((*worker)->alive());
        co_await (*worker)->stop();
      },
  });
  EXPECT_TRUE(soon_childless());
}

// A strand is destroyed before drover's registry in its context. A coroutine that waits on the strand is destroyed when
// its wait ends, and the workers that it owns are destroyed with it.
TEST_F(Lifetime, CoroutineOnAStrandTakesItsWorkersAlong) {
  {
    asio::io_context context;
    auto called = std::make_unique<LocalWorker>(context.get_executor(), brief());
    auto other = std::make_unique<LocalWorker>(context.get_executor(), brief());
    run(context, called->start());
    run(context, other->start());
    context.restart();
    const auto strand = asio::make_strand(context);
    bool waits = false, queued = false;
    const auto wait = [](LocalWorker& worker, std::unique_ptr<LocalWorker>, bool& about_to) -> asio::awaitable<void> {
      auto call = worker.call<std::string>("doze", 30000);
      about_to = true;
      co_await std::move(call);
    };
    const auto queue = [](std::unique_ptr<LocalWorker>, bool& about_to) -> asio::awaitable<void> {
      const auto executor = co_await asio::this_coro::executor;
      about_to = true;
      co_await asio::post(executor, asio::use_awaitable);
    };
    asio::co_spawn(strand, wait(*called, std::move(other), waits), asio::detached);
    while (!waits) ASSERT_NE(context.run_one(), 0u);
    asio::co_spawn(strand, queue(std::move(called), queued), asio::detached);
    while (!queued) ASSERT_NE(context.run_one(), 0u);
  }
  EXPECT_TRUE(soon_childless());
}

// Moving a worker disturbs no pending operation.
TEST_F(Lifetime, WorkerMayMoveWithOperationsPending) {
  run_together({[]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    LocalWorker first(executor, brief());
    const Task<void> start(executor, first.start());
    co_await asio::post(executor, asio::use_awaitable);
    LocalWorker second(std::move(first));
    EXPECT_FALSE(co_await start.failure());
    const Task<std::string> call(executor, second.call<std::string>("doze", 100));
    LocalWorker third;
    third = std::move(second);
    const Task<StopReport> stop(executor, third.stop(5s));
    LocalWorker fourth(std::move(third));
    EXPECT_EQ(co_await call.result(), "slept");
    const StopReport report = co_await stop.result();
    EXPECT_TRUE(report.exit.success());
    EXPECT_EQ(co_await failure_of(first.stop()), Errc::not_running);  // NOLINT: that is what is tested
    EXPECT_FALSE(fourth.alive());
  }});
}

}  // namespace
