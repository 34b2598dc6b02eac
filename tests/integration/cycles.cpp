// Many workers, one after another and all at once: nothing stays behind.
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <gtest/gtest.h>
#include <malloc.h>
#include <poll.h>
#include <string>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

#include "support/workers.hpp"

namespace {

using namespace support;

class WorkerCycle : public Workers {};

std::size_t threads() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("Threads:", 0) == 0) return std::stoul(line.substr(8));
  return 0;
}

asio::awaitable<void> cycle(int times) {
  const auto executor = co_await asio::this_coro::executor;
  for (int i = 0; i < times; ++i) {
    WorkerOptions options = plain_worker();
    options.on_event = [](const Event&) {};
    LocalWorker worker(executor, options);
    co_await worker.start();
    EXPECT_EQ(co_await worker.call<int>("square", i % 1000), i % 1000 * (i % 1000));
    const StopReport report = co_await worker.stop();
    EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
    EXPECT_FALSE(report.terminated);
  }
}

struct Usage {
  std::size_t descriptors = open_descriptors(), threads_ = threads(), bytes = ::mallinfo2().uordblks;
};

// A thousand workers, four at a time, leave no descriptor, thread or memory behind.
TEST_F(WorkerCycle, RepeatedAThousandTimesLeaksNothing) {
  run_together({[] { return cycle(30); }, [] { return cycle(30); }});
  const Usage before;
  std::vector<std::function<asio::awaitable<void>()>> side_by_side;
  for (int i = 0; i < 4; ++i) side_by_side.push_back([] { return cycle(slowed_down ? 25 : 250); });
  run_together(std::move(side_by_side), 120s);
  // Without pidfds a thread waits for each child; the last of these threads may still be exiting.
  for (const auto end = Clock::now(); threads() > before.threads_ && since(end) < slack;) ::poll(nullptr, 0, 2);
  const Usage after;
  EXPECT_EQ(after.descriptors, before.descriptors);
  EXPECT_LE(after.threads_, before.threads_);
  if (!slowed_down) {  // sanitizers keep freed memory
    EXPECT_LT(after.bytes, before.bytes + 16 * 1024) << "a cycle may not keep even 16 bytes";
  }
}

// 64 workers start, take a call and stop at the same time, without a thread for each.
TEST_F(WorkerCycle, SixtyFourWorkersStartAndStopAtOnce) {
  std::size_t with_one = 0, with_all = 0;
  run_together({[&]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const Ticker ticker(executor);
    std::vector<LocalWorker> workers;
    for (int i = 0; i < 64; ++i) workers.emplace_back(executor, plain_worker());
    co_await workers.front().start();
    with_one = threads();
    std::vector<Task<void>> starts;
    for (std::size_t i = 1; i < workers.size(); ++i) starts.emplace_back(executor, workers[i].start());
    for (const auto& start : starts) EXPECT_FALSE(co_await start.failure());
    with_all = threads();
    std::vector<Task<int>> calls;
    for (auto& worker : workers) calls.emplace_back(executor, worker.call<int>("pid"));
    for (std::size_t i = 0; i < workers.size(); ++i) EXPECT_EQ(co_await calls[i].result(), workers[i].pid());
    const auto start = Clock::now();
    std::vector<Task<StopReport>> stops;
    for (auto& worker : workers) stops.emplace_back(executor, worker.stop(0s));
    for (const auto& stop : stops) {
      const StopReport report = co_await stop.result();
      EXPECT_TRUE(report.exit.success());
      EXPECT_FALSE(report.rpc);
      EXPECT_FALSE(report.terminated);
    }
    EXPECT_LT(since(start), 64 * 10ms + slack);
  }});
#ifdef SYS_pidfd_open
  if (UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)))) {
    EXPECT_EQ(with_all, with_one);
  }
#endif
}

// A pool of 64 workers starts and stops without errors.
TEST_F(WorkerCycle, PoolOfSixtyFourStartsAndStops) {
  run_together({[]() -> asio::awaitable<void> {
    drover::PoolOptions options;
    options.size = 64;
    options.worker = plain_worker();
    WorkerPool pool = co_await WorkerPool::start(options);
    EXPECT_EQ(pool.workers().size(), 64u);
    const auto start = Clock::now();
    const std::vector<StopReport> reports = co_await pool.stop();
    EXPECT_EQ(reports.size(), 64u);
    EXPECT_TRUE(std::all_of(reports.begin(), reports.end(), [](const StopReport& r) { return r.exit.success(); }));
    EXPECT_LT(since(start), 64 * 10ms + slack);
  }});
}

}  // namespace

int main(int argc, char** argv) {
  // Each thread caches some freed memory, which mallinfo2(3) counts as used. The cache can be disabled only at the
  // start of the process: see ld.so(8).
  if (::setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0", 0) == 0 &&
      ::getenv("DROVER_TEST_NO_CACHE") == nullptr) {
    ::setenv("DROVER_TEST_NO_CACHE", "1", 1);
    ::execv("/proc/self/exe", argv);
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
