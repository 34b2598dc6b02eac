// Workers that take the place of others are spawned on a thread of their own. posix_spawn(3) is replaced here: it can
// be held up.
#include <chrono>
#include <condition_variable>
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <memory>
#include <mutex>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <thread>

#include <asio/detached.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/pool/detail/worker/handle.hpp>
#include <drover/pool/detail/worker/session.hpp>

#include "support/calls.hpp"
#include "support/fleet.hpp"

namespace {

/// While it is closed, spawns wait. They go on after some seconds at the latest, and the test fails.
class Gate {
 public:
  void close() {
    const std::lock_guard held(mutex_);
    closed_ = true;
    waiting_ = 0;
  }
  void open() {
    const std::lock_guard held(mutex_);
    closed_ = false;
    waiting_ = 0;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock held(mutex_);
    if (!closed_) return;
    ++waiting_;
    changed_.notify_all();
    if (!changed_.wait_for(held, std::chrono::seconds(20), [this] { return !closed_; }))
      ADD_FAILURE() << "no one opens";
  }
  int waiting() {
    const std::lock_guard held(mutex_);
    return waiting_;
  }
  /// Returns once a spawn waits. The test fails if none does within some seconds.
  void await_spawn() {
    std::unique_lock held(mutex_);
    if (!changed_.wait_for(held, std::chrono::seconds(20), [this] { return waiting_ != 0; }))
      ADD_FAILURE() << "nothing is spawned";
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
  int waiting_ = 0;
};
Gate gate;          // before it
Gate spawned_gate;  // after it

}  // namespace

extern "C" int posix_spawn(pid_t* pid, const char* path, const posix_spawn_file_actions_t* actions,
                           const posix_spawnattr_t* attributes, char* const* arguments, char* const* environment) {
  static const auto original = reinterpret_cast<decltype(&posix_spawn)>(::dlsym(RTLD_NEXT, "posix_spawn"));
  gate.pass();
  const int result = original(pid, path, actions, attributes, arguments, environment);
  spawned_gate.pass();
  return result;
}

namespace {

using namespace support;

class ReplacementSpawn : public Calls {
 protected:
  void TearDown() override {
    gate.open();
    spawned_gate.open();
    Calls::TearDown();
  }
};

/// While a worker is being spawned, the others answer.
asio::awaitable<void> call_during_a_spawn(WorkerPool& pool) {
  const bool spawns = co_await soon([] { return gate.waiting() != 0; });
  EXPECT_TRUE(spawns);
  for (int i = 0; i < 20; ++i) {
    const int square = co_await pool.call<int>("square", i);
    EXPECT_EQ(square, i * i);
  }
  gate.open();
}

// The other worker answers while the replacement of a killed one is stuck in posix_spawn().
TEST_F(ReplacementSpawn, HoldsUpNoCallWhenAWorkerHasDied) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    options.restart.backoff = 1ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    gate.close();
    ::kill(pids(pool).front(), SIGKILL);
    co_await call_during_a_spawn(pool);
    const bool replaced = co_await soon([&] { return pool.stats().ready == 2; });
    EXPECT_TRUE(replaced);
    co_await pool.stop();
  });
}

// Calls are answered while the first successor of a reload is stuck in posix_spawn().
TEST_F(ReplacementSpawn, HoldsUpNoCallDuringAReload) {
  on_one_thread([]() -> asio::awaitable<void> {
    WorkerPool pool = co_await WorkerPool::start(call_pool(2));
    gate.close();
    const auto before = pids(pool);
    const auto executor = co_await asio::this_coro::executor;
    bool reloaded = false;
    asio::co_spawn(executor, pool.reload(), [&](const std::exception_ptr& thrown, const drover::ReloadReport&) {
      EXPECT_EQ(thrown, nullptr);
      reloaded = true;
    });
    co_await call_during_a_spawn(pool);
    const bool over = co_await soon([&] { return reloaded; });
    EXPECT_TRUE(over);
    EXPECT_FALSE(share_one(pids(pool), before));
    co_await pool.stop();
  });
}

// The spare worker that has taken the slot answers while the next spare is stuck in posix_spawn().
TEST_F(ReplacementSpawn, HoldsUpNoCallForASpare) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.spares = 1;
    WorkerPool pool = co_await WorkerPool::start(options);
    const bool first = co_await soon([&] { return pool.stats().spares == 1; });
    EXPECT_TRUE(first);
    gate.close();
    ::kill(pids(pool).front(), SIGKILL);
    co_await call_during_a_spawn(pool);
    const bool second = co_await soon([&] { return pool.stats().spares == 1; });
    EXPECT_TRUE(second);
    co_await pool.stop();
  });
}

// A stop of the pool finds a worker that is still being spawned.
TEST_F(ReplacementSpawn, IsOverBeforeAStopIs) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.restart.backoff = 1ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    gate.close();
    ::kill(pids(pool).front(), SIGKILL);
    const bool spawns = co_await soon([] { return gate.waiting() != 0; });
    EXPECT_TRUE(spawns);
    asio::steady_timer opens(co_await asio::this_coro::executor, 20ms);
    opens.async_wait([](std::error_code) { gate.open(); });
    co_await pool.stop();
  });
}

// Nothing else keeps the context running meanwhile.
TEST_F(ReplacementSpawn, KeepsItsContextRunning) {
  asio::io_context context(1);
  std::optional<WorkerPool> pool;
  asio::co_spawn(
      context,
      [](std::optional<WorkerPool>* made) -> asio::awaitable<void> {
        PoolOptions options = call_pool(1);
        options.restart.backoff = 1ms;
        *made = co_await WorkerPool::start(options);
        gate.close();
        ::kill(pids(**made).front(), SIGKILL);
      }(&pool),
      asio::detached);
  std::thread opener([] {
    gate.await_spawn();
    gate.open();
  });
  const auto until = Clock::now() + 20s;
  bool replaced = false;
  while (!replaced && Clock::now() < until && context.run_one_for(20s) != 0)
    replaced = pool && pool->stats().restarts == 1 && pool->stats().ready == 1;
  EXPECT_TRUE(replaced);
  opener.join();
  pool.reset();
}

// The context ends the work that kept it running meanwhile: an end on the thread that spawns could stop a context that
// has been restarted.
TEST_F(ReplacementSpawn, LeavesTheLastWorkToItsContext) {
  asio::io_context context;
  const auto worker = drover::detail::create_worker(context.get_executor(), plain_worker(), true);
  worker->keep_context();
  worker->release_context();
  EXPECT_FALSE(context.stopped());
  context.run_for(10s);
  EXPECT_TRUE(context.stopped());
}

// Its owner is destroyed first, and the context after that.
TEST_F(ReplacementSpawn, KeepsNoContextOfADestroyedPool) {
  asio::io_context context;
  const auto worker = drover::detail::create_worker(context.get_executor(), plain_worker(), true);
  worker->owner_destroyed();
  worker->keep_context();
  context.poll();
  EXPECT_TRUE(context.stopped());
}

// The pool's context is destroyed while a replacement is being spawned: a stop that is awaited elsewhere waits for that
// process, too.
TEST_F(ReplacementSpawn, IsAwaitedByAStopWhoseContextIsDestroyed) {
  auto theirs = std::make_unique<asio::io_context>();
  WorkerPool pool;
  const auto begin = [&]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.restart.backoff = 1ms;
    pool = co_await WorkerPool::start(options);
    gate.close();
    ::kill(pids(pool).front(), SIGKILL);
    const bool spawns = co_await soon([] { return gate.waiting() != 0; });
    EXPECT_TRUE(spawns);
  };
  run(*theirs, begin());
  asio::io_context ours;
  const auto stop = [&]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const Task<std::vector<StopReport>> stops(executor, pool.stop());
    theirs.reset();
    for (int i = 0; i < 20; ++i) co_await asio::post(executor, asio::use_awaitable);
    EXPECT_FALSE(stops.done());
    gate.open();
    const auto reports = co_await stops.result();
    EXPECT_EQ(reports.size(), 1u);
    for (const auto& report : reports) EXPECT_NE(report.exit.kind, ExitStatus::Kind::unknown);
  };
  run(ours, stop());
}

// One that is killed while it is being spawned gets SIGKILL at once. It ignores SIGTERM.
TEST_F(ReplacementSpawn, IsKilledIfItsWorkerIs) {
  ReadPipe pipe;
  asio::io_context context;
  WorkerOptions options = worker_with({"ignore", std::to_string(SIGTERM), "say", "ignores", "pause"});
  options.command.out = pipe.stdio();
  options.term_grace = 20s;
  const auto worker = drover::detail::create_worker(context.get_executor(), options, true);
  spawned_gate.close();
  std::jthread spawner([session = worker->shared_from_this()] { EXPECT_NO_THROW(session->start(20s)); });
  EXPECT_EQ(pipe.line(), "ignores");
  const auto start = Clock::now();
  worker->kill();
  spawned_gate.open();
  spawner.join();
  run(context, drover::detail::AsyncEvent::wait(worker->child()->settled()));
  EXPECT_LT(since(start), slack);
  EXPECT_EQ(worker->child()->report().exit.value, SIGKILL);
}

// A worker, or a process, that one thread is starting is ended by another. The spawn takes longer than drover waits for
// a context that does not run, and the context of the start never runs again.
class EndDuringTheSpawn : public ReplacementSpawn {
 protected:
  template <class W, class End>
  static void meet(W& started, asio::io_context& theirs, End end) {
    gate.close();
    asio::co_spawn(theirs, failure_of(started.start()), asio::detached);
    std::jthread spawner([&] { theirs.run(); });
    gate.await_spawn();
    asio::io_context ours;
    asio::steady_timer later(ours);
    bool timed = false;
    // Both begin now: this timer expires after the one for the other context.
    const auto both = [&]() -> asio::awaitable<void> {
      auto ended = end();
      const Task<void> ends(co_await asio::this_coro::executor, std::move(ended));
      later.expires_after(200ms);
      co_await later.async_wait(asio::use_awaitable);
      timed = true;
      theirs.stop();
      gate.open();
      spawner.join();
      co_await ends.result();
    };
    run(ours, both());
    EXPECT_TRUE(timed);
    EXPECT_FALSE(started.alive());
    EXPECT_TRUE(gone(started.pid()));
  }
};

TEST_F(EndDuringTheSpawn, StopOfAWorkerIsAnswered) {
  asio::io_context theirs;
  LocalWorker worker(theirs.get_executor(), plain_worker());
  meet(worker, theirs, [&]() -> asio::awaitable<void> {
    const StopReport report = co_await worker.stop(0s);
    EXPECT_NE(report.exit.kind, ExitStatus::Kind::unknown);
  });
}

TEST_F(EndDuringTheSpawn, ReapOfAProcessIsAnswered) {
  asio::io_context theirs;
  drover::WorkerProcess process(theirs.get_executor(), plain_worker());
  meet(process, theirs, [&]() -> asio::awaitable<void> {
    const drover::ReapReport report = co_await process.reap(0s);
    EXPECT_NE(report.exit.kind, ExitStatus::Kind::unknown);
  });
}

/// The first core that the worker may use, and how many.
std::pair<int, int> cores_of(pid_t pid) {
  cpu_set_t cores;
  if (::sched_getaffinity(pid, sizeof cores, &cores) != 0) return {-1, -1};
  int first = 0;
  while (first < CPU_SETSIZE && !CPU_ISSET(first, &cores)) ++first;
  return {first, CPU_COUNT(&cores)};
}

// As the process that it replaces: the cores are those of the thread that runs the pool.
TEST_F(ReplacementSpawn, GivesTheWorkerTheCoresOfItsPool) {
  const auto round = [] {
    on_one_thread([]() -> asio::awaitable<void> {
      PoolOptions options = call_pool(1);
      options.restart.backoff = 1ms;
      WorkerPool pool = co_await WorkerPool::start(options);
      const pid_t before = pids(pool).front();
      const auto cores = cores_of(before);
      ::kill(before, SIGKILL);
      const bool replaced = co_await soon([&] { return pool.stats().restarts == 1 && pool.stats().ready == 1; });
      EXPECT_TRUE(replaced);
      EXPECT_EQ(cores_of(pids(pool).front()), cores);
      co_await pool.stop();
    });
  };
  round();  // the thread exists from now on
  std::thread([&] {
    cpu_set_t one;
    ASSERT_EQ(::sched_getaffinity(0, sizeof one, &one), 0);
    int last = CPU_SETSIZE - 1;
    while (!CPU_ISSET(last, &one)) --last;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(last), &one);
    ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
    round();
  }).join();
}

}  // namespace
