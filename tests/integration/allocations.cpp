// What one call allocates in the parent once caches are warm: the frames of its coroutines and nothing else.
#include <cstdlib>
#include <gtest/gtest.h>
#include <new>

#include <asio/use_future.hpp>

#include "support/calls.hpp"

namespace {
std::atomic<std::size_t> allocations{0};

void* counted(std::size_t size) {
  ++allocations;
  if (void* const memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void* operator new[](std::size_t size) { return counted(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace support;

class Allocation : public Calls {};

constexpr int warm_up = 3000, measured = 10000;

template <class Callable>
asio::awaitable<double> per_call(Callable& callable, CallOptions options) {
  for (int i = 0; i < warm_up; ++i) co_await callable.template call<int>(options, "square", 7);
  const std::size_t before = allocations;
  for (int i = 0; i < measured; ++i) co_await callable.template call<int>(options, "square", 7);
  co_return double(allocations - before) / measured;
}

void report(const char* what, double count) {
  std::printf("%s: %.3f allocations per call\n", what, count);
  ::testing::Test::RecordProperty(what, std::to_string(count));
}

// Asio takes coroutine frames from a cache of the thread, so that with a warm cache not even these are allocated.
constexpr double bound = 0.01;

// A call to a LocalWorker allocates nothing, with and without a deadline.
TEST_F(Allocation, CallToAWorkerAllocatesNothing) {
  on_one_thread([]() -> asio::awaitable<void> {
    LocalWorker worker(co_await asio::this_coro::executor, call_worker());
    co_await worker.start();
    const CallOptions plain, with_deadline{.deadline = 60s};
    const double without = co_await per_call(worker, plain), with = co_await per_call(worker, with_deadline);
    report("LocalWorker", without);
    report("LocalWorker, with a deadline", with);
    EXPECT_LE(without, bound);
    EXPECT_LE(with, bound);
    co_await worker.stop();
  });
}

// A call to a WorkerPool allocates nothing.
TEST_F(Allocation, CallToAPoolAllocatesNothing) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    WorkerPool pool = co_await WorkerPool::start(options);
    const CallOptions plain;
    const double count = co_await per_call(pool, plain);
    report("WorkerPool", count);
    EXPECT_LE(count, bound);
    co_await pool.stop();
  });
}

asio::awaitable<void> keep_calling(WorkerPool& pool, int count) {
  for (int i = 0; i < count; ++i) co_await pool.call<int>("square", 7);
}

// With many calls in flight, each call allocates at most one coroutine frame.
TEST_F(Allocation, ConcurrentCallsAllocateTheirFramesOnly) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(2);
    options.worker.max_in_flight = 8;
    WorkerPool pool = co_await WorkerPool::start(options);
    const auto here = co_await asio::this_coro::executor;
    std::vector<Task<void>> tasks;
    constexpr int side_by_side = 32;
    for (int i = 0; i < side_by_side; ++i) tasks.emplace_back(here, keep_calling(pool, 2 * warm_up));
    co_await keep_calling(pool, warm_up);
    const std::size_t before = allocations;
    const std::uint64_t calls_before = pool.stats().calls;
    co_await keep_calling(pool, warm_up / 2);
    const double calls = double(pool.stats().calls - calls_before);
    const double count = double(allocations - before) / calls;
    report("WorkerPool, 32 side by side", count);
    // More frames are alive than the thread's cache holds, so each call allocates one: that of call().
    EXPECT_LE(count, 1.1);
    for (auto& task : tasks) co_await task.ended();
    co_await pool.stop();
  });
}

// A call from another context than the worker's allocates no more than its coroutine frames.
TEST_F(Allocation, CallFromAnotherContextAllocatesItsFrames) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    WorkerPool pool = co_await WorkerPool::start(options);
    asio::thread_pool other(1);
    const CallOptions plain;
    auto counting = asio::co_spawn(other, per_call(pool, plain), asio::use_future);
    const bool ended = co_await soon([&] { return counting.wait_for(0s) == std::future_status::ready; }, 40s);
    EXPECT_TRUE(ended);
    const double count = counting.get();
    report("WorkerPool, from another context", count);
    EXPECT_LE(count, 3);
    other.join();
    co_await pool.stop();
  });
}

}  // namespace
