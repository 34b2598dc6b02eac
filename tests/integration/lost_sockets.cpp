// The program closes descriptors that it does not own, among them those of pools with calls in flight. Every call
// completes in bounded time, no process is left, and files that reuse the numbers are not touched.
#include <algorithm>
#include <fcntl.h>
#include <filesystem>
#include <gtest/gtest.h>
#include <signal.h>
#include <string>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include "support/calls.hpp"

namespace {

using namespace support;

class LostSocket : public Calls {};

/// The sockets and pidfds that are open now; Asio opens neither.
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

bool is_socket(int fd) {
  struct stat file{};
  return ::fstat(fd, &file) == 0 && S_ISSOCK(file.st_mode);
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

/// Closes `count` descriptors of a pool, from the one that is `first` in the order of their numbers, while calls are in
/// flight. `lost`: how many there were to close.
asio::awaitable<void> lose(std::size_t first, std::size_t count, bool reused, std::size_t& lost) {
  const std::vector<int> before = of_drover();
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  WorkerPool pool = co_await WorkerPool::start(brief_pool());
  std::vector<Task<std::string>> calls;
  for (int i = 0; i < 6; ++i) calls.emplace_back(executor, pool.call<std::string>("doze", i < 3 ? 100 : 60000));
  const CallOptions bounded{.deadline = 500ms};
  calls.emplace_back(executor, pool.call<std::string>(bounded, "doze", 60000));
  EXPECT_EQ(pool.stats().in_flight, 4u);

  std::vector<int> taken, of_pool = of_drover();
  std::erase_if(of_pool, [&](int fd) { return std::find(before.begin(), before.end(), fd) != before.end(); });
  lost = 0;
  for (std::size_t i = first; lost < count && i < of_pool.size(); ++i) {
    ::close(of_pool[i]);
    ++lost;
    if (reused) taken.push_back(::open("/dev/null", O_RDWR | O_CLOEXEC));
  }
  // The pool is stopped then: calls without a bound complete by that at the latest.
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

// The program closes one descriptor of a pool; every call completes, whether or not the number is reused.
TEST_F(LostSocket, OfAnyKindEndsItsCalls) {
  for (const bool reused : {false, true}) {
    std::size_t all = 0;
    for (std::size_t lost = 1; lost != 0; all += lost) {
      SCOPED_TRACE(testing::Message() << all << (reused ? ", and its number taken" : ""));
      on_one_thread([&] { return lose(all, 1, reused, lost); });
    }
    EXPECT_GE(all, 4u) << "two sockets of each worker";
  }
}

// The program closes all descriptors of a pool at once; every call completes.
TEST_F(LostSocket, TogetherWithAllOthersEndsAllCalls) {
  for (const bool reused : {false, true}) {
    std::size_t lost = 0;
    on_one_thread([&] { return lose(0, 1000, reused, lost); });
    EXPECT_GE(lost, 4u) << "two sockets of each worker";
  }
}

/// A worker exits, killed or stopped, after the program has put sockets of its own under the numbers of the worker's
/// sockets.
asio::awaitable<void> take_the_numbers(bool stops) {
  const std::vector<int> before = of_drover();
  const PoolOptions options = brief_pool();  // two calls in flight
  drover::LocalWorker worker(co_await asio::this_coro::executor, options.worker);
  co_await worker.start();
  const Task<std::string> call(co_await asio::this_coro::executor, worker.call<std::string>("doze", 60000));
  std::vector<int> taken, others;
  for (const int fd : of_drover()) {
    int ends[2];
    if (std::find(before.begin(), before.end(), fd) != before.end() || !is_socket(fd)) continue;
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    EXPECT_EQ(::dup3(ends[0], fd, O_CLOEXEC), fd);
    ::close(ends[0]);
    EXPECT_EQ(::send(ends[1], "hello", 5, 0), 5);
    taken.push_back(fd), others.push_back(ends[1]);
  }
  EXPECT_EQ(taken.size(), 2u);
  co_await pause_for(1ms);  // drover believes a number for 100 us after it has looked
  const CallOptions soon_over{.deadline = 100ms};
  const Task<std::string> later(co_await asio::this_coro::executor, worker.call<std::string>(soon_over, "doze", 1));
  EXPECT_TRUE((co_await later.failure()).code);
  const Task<drover::WorkerStatus> status(co_await asio::this_coro::executor, worker.status(100ms));
  EXPECT_TRUE((co_await status.failure()).code);
  if (!stops) ::kill(worker.pid(), SIGKILL);
  while (!stops && worker.alive()) co_await pause_for(1ms);
  const auto start = Clock::now();
  co_await worker.stop();
  EXPECT_LT(since(start), 5s);
  EXPECT_TRUE((co_await call.failure()).code);
  for (const int fd : others) {
    char byte;
    EXPECT_EQ(::recv(fd, &byte, 1, MSG_DONTWAIT), -1) << "somebody has written to a socket of the program's";
    EXPECT_EQ(errno, EAGAIN);
  }
  for (const int fd : taken) {
    char bytes[8];
    EXPECT_EQ(::recv(fd, bytes, sizeof bytes, MSG_DONTWAIT), 5) << "somebody has read from a socket of the program's";
    ::close(fd);
  }
  for (const int fd : others) ::close(fd);
}

// drover neither reads nor writes nor closes sockets of the program that reuse the numbers of its own.
TEST_F(LostSocket, NumberReusedByTheProgramIsNotTouched) {
  for (const bool stops : {false, true}) on_one_thread([stops] { return take_the_numbers(stops); });
}

}  // namespace
