// A forked copy of the program has everything that the original has and must not do anything with it.
#include <cstdlib>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>

#include "support/calls.hpp"

namespace {

using namespace support;

class ForkedCopy : public Workers {};

/// A worker and a pool, with calls in flight and queued calls.
struct Busy {
  explicit Busy(asio::io_context& context) {
    run(context, begin());
    for (int i = 0; i < 6; ++i) {
      add(context, worker->call<std::string>("doze", 300));
      add(context, pool.call<std::string>("doze", 300));
    }
  }

  asio::awaitable<void> begin() {
    worker.emplace(co_await asio::this_coro::executor, call_worker());
    co_await worker->start();
    pool = co_await WorkerPool::start(call_pool(2));
    process.emplace(co_await asio::this_coro::executor, plain_worker());
    co_await process->start();
    never.emplace(co_await asio::this_coro::executor, call_worker());
  }
  void add(asio::io_context& context, asio::awaitable<std::string> call) {
    asio::co_spawn(context, std::move(call), [this](std::exception_ptr thrown, std::string) {
      const Failure failure = describe(thrown);
      EXPECT_FALSE(failure) << failure;
      ++ended;
    });
  }

  std::optional<LocalWorker> worker;
  WorkerPool pool;
  std::optional<drover::WorkerProcess> process;
  std::optional<LocalWorker> never;  // started
  int ended = 0;
};

void expect_no_harm(
    const std::function<void(std::unique_ptr<asio::io_context>&, std::unique_ptr<Busy>&)>& in_the_copy) {
  auto context = std::make_unique<asio::io_context>();
  auto busy = std::make_unique<Busy>(*context);
  context->restart();
  context->poll();
  const pid_t copy = ::fork();
  if (copy == 0) {
    in_the_copy(context, busy);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(copy, &status, 0), copy);
  EXPECT_EQ(status, 0);
  for (const auto until = Clock::now() + 20s; busy->ended < 12 && Clock::now() < until;) context->run_one_until(until);
  EXPECT_EQ(busy->ended, 12);
  context->restart();
  EXPECT_TRUE(run(*context, busy->worker->stop(0s)).exit.success());
  run(*context, busy->process->reap(0s));
  for (const auto& report : run(*context, busy->pool.stop())) EXPECT_TRUE(report.exit.success());
  busy.reset();
}

// A forked copy that destroys the context fails no call of the original.
TEST_F(ForkedCopy, ThatDestroysTheContextHarmsNoCall) {
  expect_no_harm([](auto& context, auto&) { context.reset(); });
}
// A forked copy that destroys the workers and the context fails no call of the original.
TEST_F(ForkedCopy, ThatDestroysTheWorkersHarmsNoCall) {
  expect_no_harm([](auto& context, auto& busy) {
    busy.reset();
    context.reset();
  });
}
// A call in a forked copy fails with not_running and fails no call of the original.
TEST_F(ForkedCopy, ThatCallsIsRefusedAndHarmsNoCall) {
  expect_no_harm([](auto&, auto& busy) {
    asio::io_context own;
    const auto refused = [&](auto&& operation) {
      return run(own, failure_of(std::move(operation))) == Errc::not_running;
    };
    if (!refused(busy->worker->template call<int>("square", 1))) ::_exit(1);
    if (!refused(busy->pool.template call<int>("square", 1))) ::_exit(2);
  });
}

// Each operation on an inherited object fails at once; none waits for a reaper thread that the copy does not have.
TEST_F(ForkedCopy, IsRefusedEveryOperation) {
  expect_no_harm([](auto&, auto& busy) {
    asio::io_context own;
    int number = 0;
    const auto expect_refused = [&](auto&& operation) {
      ++number;
      try {
        if (run(own, failure_of(std::move(operation)), 3s) == Errc::not_running) return;
      } catch (const std::exception& error) {
        std::fprintf(stderr, "operation %d: %s\n", number, error.what());
      }
      ::_exit(number);
    };
    expect_refused(busy->worker->status());
    expect_refused(busy->worker->stop());
    expect_refused(busy->worker->stop(0s));
    expect_refused(busy->pool.stop());
    expect_refused(busy->process->reap());
    expect_refused(busy->process->reap(0s));
    expect_refused(busy->never->start(1s));
    expect_refused(busy->never->stop());
    expect_refused(busy->process->start());
  });
}

// The body of with_pool() forks, and with_pool() returns in the copy without stopping the workers.
TEST_F(ForkedCopy, ReturnsFromWithPool) {
  const pid_t original = ::getpid();
  asio::io_context context;
  pid_t copy = -1;
  const auto body = [&](WorkerPool& pool) -> asio::awaitable<int> {
    copy = ::fork();
    if (copy == 0) {
      context.notify_fork(asio::io_context::fork_child);
      co_return 7;
    }
    int status = 0;
    EXPECT_EQ(::waitpid(copy, &status, 0), copy);
    EXPECT_EQ(status, 0);
    const int nine = co_await pool.call<int>("square", 3);
    co_return nine;
  };
  int result = 0;
  try {
    result = run(context, drover::with_pool(call_pool(1), body), 5s);
  } catch (const std::exception& error) {
    if (::getpid() == original) throw;
    ::_exit(2);
  }
  if (::getpid() != original) ::_exit(result == 7 ? 0 : 1);
  EXPECT_EQ(result, 9);
}

}  // namespace
