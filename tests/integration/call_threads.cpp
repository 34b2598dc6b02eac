// The coroutine that a result resumes may keep its thread: as long as another thread is free, nothing else is delayed.
#include <atomic>
#include <barrier>
#include <chrono>
#include <fcntl.h>
#include <future>
#include <gtest/gtest.h>
#include <memory>
#include <poll.h>
#include <string>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <asio/co_spawn.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_future.hpp>

#include "support/calls.hpp"

namespace {

using namespace support;

class Completion : public Workers {
 protected:
  void SetUp() override {
    Workers::SetUp();
    threads_ = std::make_unique<asio::thread_pool>(4);
  }
  void TearDown() override {
    threads_->join();
    threads_.reset();
    Workers::TearDown();
  }

  template <class T>
  auto spawn(asio::awaitable<T> body) {
    return asio::co_spawn(*threads_, std::move(body), asio::use_future);
  }
  std::shared_ptr<LocalWorker> started_worker(std::size_t max_in_flight) {
    WorkerOptions options = call_worker();
    options.max_in_flight = max_in_flight;
    auto worker = std::make_shared<LocalWorker>(threads_->get_executor(), options);
    spawn(worker->start()).get();
    return worker;
  }
  template <class Future>
  static bool ends(const Future& future, Duration bound = 20s) {
    return future.wait_for(bound) == std::future_status::ready;
  }

  std::unique_ptr<asio::thread_pool> threads_;
};

asio::awaitable<bool> meet(std::shared_ptr<LocalWorker> worker, int milliseconds, std::barrier<>* barrier) {
  const std::string said = co_await worker->call<std::string>("doze", milliseconds);
  barrier->arrive_and_wait();  // all must be here at the same time, so none can give its thread back earlier
  co_return !said.empty();
}

// Callers whose results arrive together are resumed on several threads at the same time.
TEST_F(Completion, OfOneBatchRunsOnSeveralThreads) {
  const auto worker = started_worker(8);
  for (int round = 0; round < 10; ++round) {
    std::barrier<> barrier(4);
    std::vector<std::future<bool>> met;
    for (int i = 0; i < 4; ++i) met.push_back(spawn(meet(worker, 20, &barrier)));
    for (auto& each : met) {
      ASSERT_TRUE(ends(each)) << "round " << round;
      EXPECT_TRUE(each.get());
    }
  }
  spawn(worker->stop(0s)).get();
}

// A continuation may block its thread until another call to the same worker has completed.
TEST_F(Completion, MayBlockOnAnotherCall) {
  const auto worker = started_worker(8);
  auto other = spawn(worker->call<std::string>("doze", 150));
  const auto body = [&]() -> asio::awaitable<bool> {
    co_await worker->call<std::string>("doze", 20);
    co_return ends(other);
  };
  EXPECT_TRUE(spawn(body()).get());
  spawn(worker->stop(0s)).get();
}

// A continuation may block its thread until its worker has stopped.
TEST_F(Completion, MayBlockOnTheStop) {
  for (int round = 0; round < 10; ++round) {
    const auto worker = started_worker(1);
    const auto body = [&]() -> asio::awaitable<bool> {
      co_await worker->call<std::string>("doze", 1);
      const auto stopped = spawn(worker->stop(0s));
      co_return ends(stopped);
    };
    EXPECT_TRUE(spawn(body()).get()) << round;
  }
}

// The continuation of a worker's last call may block its thread until the worker is reaped.
TEST_F(Completion, OfTheLastCallMayBlockOnTheReap) {
  for (int round = 0; round < 10; ++round) {
    const auto worker = started_worker(2);
    std::promise<void> stopped;
    auto gone = stopped.get_future();
    const auto body = [&]() -> asio::awaitable<bool> {
      co_await failure_of(
          worker->call("exit_later", round * 200, 0));  // its result and its exit arrive together, or nearly
      co_return ends(gone);
    };
    auto blocked = spawn(body());
    const auto stop = [&]() -> asio::awaitable<void> {
      co_await soon([&] { return !worker->alive(); });
      co_await worker->stop(0s);
      stopped.set_value();
    };
    spawn(stop()).get();
    EXPECT_TRUE(blocked.get()) << round;
  }
}

// A call with a deadline completes in time although another continuation blocks its thread.
TEST_F(Completion, ThatBlocksCostsNoDeadline) {
  const auto pool = std::make_shared<WorkerPool>(spawn(WorkerPool::start(call_pool(1))).get());
  std::promise<void> end_of_work;
  const auto works = [&]() -> asio::awaitable<void> {
    co_await pool->call<std::string>("doze", 50);
    end_of_work.get_future().wait();
  };
  const auto waits = [&]() -> asio::awaitable<void> {
    CallOptions options;
    options.deadline = 10s;
    co_await pool->call<std::string>(options, "doze", 50);
  };
  auto working = spawn(works());
  auto waiting = spawn(waits());
  EXPECT_TRUE(ends(waiting, 5s));
  end_of_work.set_value();
  EXPECT_NO_THROW(waiting.get());
  working.get();
  spawn(pool->stop()).get();
}

// A call from a continuation is sent at once, even if the continuation keeps its thread.
TEST_F(Completion, SendsACallBeforeItYieldsTheThread) {
  run([]() -> asio::awaitable<void> {
    const Folder folder;
    WorkerOptions options = call_worker();
    options.max_in_flight = 3;
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    auto longer = worker.call<std::string>("doze", 30000);
    co_await worker.call<std::string>("doze", 20);
    const std::string fifo = folder.file("numbers");
    EXPECT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
    const drover::UniqueFd reader(::open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    auto call = worker.call("append", fifo, 1);
    pollfd readable{reader.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&readable, 1, 10'000), 1) << "it does not run while the caller keeps the thread";
    char text[8];
    EXPECT_EQ(::read(reader.get(), text, sizeof text), 2);
    EXPECT_EQ(std::string(text, 2), "1\n");
    co_await std::move(call);
    co_await worker.stop(0s);
    EXPECT_TRUE((co_await failure_of(std::move(longer))) == Errc::stopping);
  }());
}

}  // namespace
