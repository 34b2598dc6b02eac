// The program closes descriptors that are not its own, those of pools with calls in flight among them. Every call ends
// in bounded time, nothing is left, and files that took the numbers are left alone.
#include <fcntl.h>
#include <filesystem>
#include <gtest/gtest.h>
#include <string>
#include <unistd.h>
#include <vector>

#include "support/calls.hpp"

namespace {

using namespace support;

class LostSockets : public Calls {};

/// The sockets and pidfds that are open now; Asio has neither.
std::vector<int> of_drover() {
  std::vector<int> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    const std::string file = std::filesystem::read_symlink(entry.path(), ignored).string();
    if (file.starts_with("socket:") || file.find("pidfd") != std::string::npos)
      found.push_back(std::stoi(entry.path().filename().string()));
  }
  return found;
}

PoolOptions brief_pool() {
  PoolOptions options = call_pool(2);
  options.worker.max_in_flight = 2;
  options.worker.shutdown_grace = 500ms;
  options.worker.term_grace = 500ms;
  options.worker.stop_margin = 500ms;
  options.shutdown_grace = 500ms;
  options.restart.backoff = 1ms;
  return options;
}

/// Closes the descriptors with numbers `first` to `last` in the order of their opening, while calls are in flight.
asio::awaitable<void> lose(std::size_t first, std::size_t last, bool reused) {
  const std::vector<int> before = of_drover();
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  WorkerPool pool = co_await WorkerPool::start(brief_pool());
  std::vector<Task<std::string>> calls;
  for (int i = 0; i < 6; ++i) calls.emplace_back(executor, pool.call<std::string>("doze", i < 3 ? 100 : 60000));
  const CallOptions bounded{.deadline = 500ms};
  calls.emplace_back(executor, pool.call<std::string>(bounded, "doze", 60000));
  co_await pause_for(20ms);

  std::vector<int> taken;
  const std::vector<int> open = of_drover();
  for (std::size_t i = first; i <= last && i < open.size(); ++i) {
    if (std::find(before.begin(), before.end(), open[i]) != before.end()) continue;
    ::close(open[i]);
    if (reused) taken.push_back(::open("/dev/null", O_RDWR | O_CLOEXEC));
  }
  // What lives on is stopped: calls without a bound end by that at the latest.
  const auto start = Clock::now();
  co_await pause_for(300ms);
  const auto reports = co_await pool.stop();
  for (const auto& call : calls) (void)co_await call.failure();
  EXPECT_LT(since(start), 8s);
  for (const StopReport& report : reports) EXPECT_NE(report.exit.kind, ExitStatus::Kind::unknown);
  for (const int fd : taken) {
    EXPECT_EQ(::fcntl(fd, F_GETFD), FD_CLOEXEC) << "a file that took the number " << fd << " was closed";
    ::close(fd);
  }
}

TEST_F(LostSockets, OneByOneEndTheirCalls) {
  for (const bool reused : {false, true})
    for (std::size_t i = 0; i < 10; ++i) {
      SCOPED_TRACE(testing::Message() << i << (reused ? ", and its number taken" : ""));
      on_one_thread([i, reused] { return lose(i, i, reused); });
    }
}

TEST_F(LostSockets, AllAtOnceEndTheirCalls) {
  for (const bool reused : {false, true}) on_one_thread([reused] { return lose(0, 1000, reused); });
}

}  // namespace
