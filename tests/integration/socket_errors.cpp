// Errors of the system calls on a worker's sockets, in the parent. The system calls are replaced here.
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <optional>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <asio/detached.hpp>
#include <asio/steady_timer.hpp>

#include <drover/os/detail/descriptor_rights.hpp>
#include <drover/wire/frame.hpp>

#include "support/calls.hpp"

namespace {

using drover::detail::FrameType;

struct Fault {
  std::atomic<int> count{0};  // this many calls fail from now on
  std::atomic<int> error{0};
  std::atomic<std::uint8_t> frame{0};  // only if a frame of this type comes first; 0: any

  bool strikes() {
    for (int left = count.load(); left > 0;)
      if (count.compare_exchange_weak(left, left - 1)) return true;
    return false;
  }
};
Fault sending, receiving, registering;
std::atomic<int> registrations_spared{0};            // so many succeed first
std::atomic<bool> kernel_passes_descriptors{false};  // as kernels before Linux 6.16 do

/// Whether sending these bytes fails.
bool strikes(const void* bytes, size_t size) {
  const std::uint8_t wanted = sending.frame;
  const std::uint8_t type = size >= 24 ? static_cast<const std::uint8_t*>(bytes)[4] : std::uint8_t{0};
  if ((wanted != 0 && type != wanted) || !sending.strikes()) return false;
  errno = sending.error;
  return true;
}

}  // namespace

extern "C" {
int epoll_ctl(int epoll, int how, int fd, epoll_event* event) noexcept {
  if (registering.count > 0 && registrations_spared.fetch_sub(1) <= 0 && registering.strikes()) {
    errno = registering.error;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_epoll_ctl, epoll, how, fd, event));
}
ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  if (message->msg_iovlen != 0 && strikes(message->msg_iov[0].iov_base, message->msg_iov[0].iov_len)) return -1;
  return ::syscall(SYS_sendmsg, fd, message, flags);
}
ssize_t send(int fd, const void* bytes, size_t size, int flags) {
  if (size != 0 && strikes(bytes, size)) return -1;
  return ::syscall(SYS_sendto, fd, bytes, size, flags, nullptr, 0);
}
ssize_t recv(int fd, void* place, size_t size, int flags) {
  if (receiving.strikes()) {
    errno = receiving.error;
    return -1;
  }
  return ::syscall(SYS_recvfrom, fd, place, size, flags, nullptr, nullptr);
}
int setsockopt(int fd, int level, int option, const void* value, socklen_t size) noexcept {
  if (kernel_passes_descriptors && level == SOL_SOCKET && option == drover::detail::so_passrights) {
    errno = ENOPROTOOPT;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_setsockopt, fd, level, option, value, size));
}
}

namespace {

using namespace support;

class SocketError : public Calls {
 protected:
  void TearDown() override {
    sending.count = receiving.count = 0;
    kernel_passes_descriptors = false;
    Calls::TearDown();
  }
};

class HostileWorker : public SocketError {};

void fail_to_send(FrameType type, int error, int count = 1) {
  sending.frame = static_cast<std::uint8_t>(type);
  sending.error = error;
  sending.count = count;
}

WorkerOptions hostile_worker(std::string mode) {
  WorkerOptions options;
  options.command.program = DROVER_HELPER_HOSTILE_WORKER;
  options.command.args = {std::move(mode)};
  options.shutdown_grace = 500ms;
  options.term_grace = 500ms;
  return options;
}

asio::awaitable<std::unique_ptr<LocalWorker>> started_worker(WorkerOptions options) {
  auto worker = std::make_unique<LocalWorker>(co_await asio::this_coro::executor, std::move(options));
  co_await worker->start();
  co_return worker;
}

// The kernel is short of memory for a moment: each frame is sent again, and every operation completes.
TEST_F(SocketError, SendIsRetriedWhenMemoryIsShort) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker(call_worker());
    for (const int error : {ENOBUFS, ENOMEM}) {
      fail_to_send(FrameType::call, error, 3);
      const int nine = co_await worker->call<int>("square", 3);
      EXPECT_EQ(nine, 9);
      EXPECT_EQ(sending.count, 0);

      fail_to_send(FrameType::status, error, 3);
      const drover::WorkerStatus status = co_await worker->status();
      EXPECT_EQ(status.in_flight, 0u);
      EXPECT_EQ(sending.count, 0);

      fail_to_send(FrameType::cancel, error, 3);
      const CallOptions hurried{.deadline = 50ms};
      const Failure late = co_await failure_of(worker->call<std::string>(hurried, "doze", 30000));
      EXPECT_EQ(late, Errc::deadline_exceeded);
      const int four = co_await worker->call<int>("square", 2);  // the slot is free again
      EXPECT_EQ(four, 4);
      EXPECT_EQ(sending.count, 0);
    }
    fail_to_send(FrameType::stop, ENOBUFS, 3);
    const auto start = Clock::now();
    const StopReport report = co_await worker->stop(10s);
    EXPECT_LT(since(start), 5s);
    EXPECT_FALSE(report.rpc) << report.rpc.message();
    EXPECT_FALSE(report.terminated);
    EXPECT_EQ(sending.count, 0);
  });
}

// The kernel is short of memory for a moment: drover receives again, and every operation completes.
TEST_F(SocketError, ReceiveIsRetriedWhenMemoryIsShort) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker(call_worker());
    receiving.error = ENOMEM;
    receiving.count = 3;
    const int nine = co_await worker->call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    EXPECT_EQ(receiving.count, 0);
    receiving.count = 3;
    (void)co_await worker->status();
    EXPECT_EQ(receiving.count, 0);
    co_await worker->stop();
  });
}

// Any other error of a send ends the worker, and all its pending operations fail within its term_grace.
TEST_F(SocketError, OtherThanShortMemoryEndsTheWorker) {
  for (const FrameType type : {FrameType::call, FrameType::status, FrameType::cancel}) {
    SCOPED_TRACE(static_cast<int>(type));
    on_one_thread([type]() -> asio::awaitable<void> {
      const asio::any_io_executor executor = co_await asio::this_coro::executor;
      WorkerOptions options = call_worker();
      options.max_in_flight = 4;
      const auto worker = co_await started_worker(options);
      const Task<std::string> other(executor, worker->call<std::string>("doze", 30000));
      fail_to_send(type, EIO);
      const auto start = Clock::now();
      if (type == FrameType::call) {
        const Failure failure = co_await failure_of(worker->call<int>("square", 3));
        EXPECT_EQ(failure, Errc::connection_lost) << failure;
      } else if (type == FrameType::status) {
        const Failure failure = co_await failure_of(worker->status());
        EXPECT_EQ(failure, Errc::connection_lost) << failure;
      } else {
        const CallOptions hurried{.deadline = 20ms};
        const Failure failure = co_await failure_of(worker->call<std::string>(hurried, "doze", 30000));
        EXPECT_EQ(failure, Errc::deadline_exceeded) << failure;
      }
      const Failure failure = co_await other.failure();
      EXPECT_EQ(failure, Errc::connection_lost) << failure;
      EXPECT_NE(failure.text.find("Input/output error"), std::string::npos) << failure;
      EXPECT_LT(since(start), 5s);
      co_await worker->stop();
    });
  }
}

// A worker shuts its data socket for reading and lives on: its calls fail, with and without a deadline, and drover ends
// it.
TEST_F(HostileWorker, DeafToCallsLosesThemAndIsEnded) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker(hostile_worker("deaf_to_calls"));
    (void)co_await worker->call<int>("x");
    const auto start = Clock::now();
    const Failure failure = co_await failure_of(worker->call<int>("x"));
    EXPECT_EQ(failure, Errc::connection_lost) << failure;
    const Failure later = co_await failure_of(worker->call<int>("x"));
    EXPECT_TRUE(later) << later;
    EXPECT_LT(since(start), 3s);
    const bool ended = co_await soon([&] { return !worker->alive(); });
    EXPECT_TRUE(ended);
    co_await worker->stop();
  });
}

// A worker shuts its control socket for reading with a STATUS unread, which the kernel does not report to a sender that
// has written before.
TEST_F(HostileWorker, LeavingAStatusUnreadIsEnded) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker(hostile_worker("leaves_status_unread"));
    const auto start = Clock::now();
    const Failure failure = co_await failure_of(worker->status(500ms));
    EXPECT_EQ(failure, Errc::deadline_exceeded) << failure;
    const bool ended = co_await soon([&] { return !worker->alive(); });
    EXPECT_TRUE(ended);
    EXPECT_LT(since(start), 5s);
    co_await worker->stop();
  });
}

// A worker shuts its control socket for reading: status() fails, and drover ends the worker.
TEST_F(HostileWorker, DeafToControlIsEnded) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker(hostile_worker("deaf_to_control"));
    const auto start = Clock::now();
    const Failure failure = co_await failure_of(worker->status());
    EXPECT_TRUE(failure == Errc::connection_lost || failure == Errc::worker_exited) << failure;
    const bool ended = co_await soon([&] { return !worker->alive(); });
    EXPECT_TRUE(ended);
    EXPECT_LT(since(start), 4s);
    co_await worker->stop();
  });
}

// A descriptor that takes a second to close blocks neither the loop nor a coroutine that waits for the worker, whether
// the kernel refuses it or drover has to take it out of the message.
TEST_F(HostileWorker, DescriptorFromItBlocksNoCoroutine) {
  for (const bool passed : {false, true})
    for (const std::string mode : {"attaches_descriptors", "attaches_to_control", "leaves_descriptors"}) {
      SCOPED_TRACE(mode + (passed ? ", passed by the kernel" : ""));
      kernel_passes_descriptors = passed;
      on_one_thread([mode, passed]() -> asio::awaitable<void> {
        auto worker = co_await started_worker(hostile_worker(mode));
        Ticker ticker(co_await asio::this_coro::executor);
        const bool on_control = mode == "attaches_to_control";
        Failure failure;
        if (on_control)
          failure = co_await failure_of(worker->status(10s));
        else
          failure = co_await failure_of(worker->call<int>("x"));
        // If the kernel refuses the descriptor, the worker has failed to answer and exits.
        const bool refused = !passed && mode != "leaves_descriptors";
        EXPECT_EQ(failure, refused ? Errc::worker_exited : Errc::protocol_error) << failure;
        co_await worker->stop(0s);
        worker.reset();
        EXPECT_LT(ticker.longest_gap(), 500ms);
      });
    }
}

// The same before it is ready.
TEST_F(HostileWorker, DescriptorWithStartFailedIsAProtocolError) {
  kernel_passes_descriptors = true;
  on_one_thread([]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const Ticker ticker(executor);
    LocalWorker worker(executor, hostile_worker("start_failed_with_descriptors"));
    const Failure failure = co_await failure_of(worker.start());
    EXPECT_EQ(failure, Errc::protocol_error) << failure;
    EXPECT_LT(ticker.longest_gap(), 500ms);
  });
}

// A STATUS_REPLY without a STATUS is a protocol error.
TEST_F(HostileWorker, UnrequestedStatusReplyIsAProtocolError) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker(hostile_worker("answers_status_twice"));
    (void)co_await worker->status();
    const Failure failure = co_await failure_of(worker->call<int>("x"));
    EXPECT_EQ(failure, Errc::protocol_error) << failure;
    co_await worker->stop();
  });
}

// A result of a call that has not been sent completely is a protocol error: the worker cannot have received it.
TEST_F(HostileWorker, EarlyResultIsAProtocolError) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker(hostile_worker("answers_unread"));
    const Failure failure = co_await failure_of(worker->call<int>("x", std::string(20u << 20, 'x')));
    EXPECT_EQ(failure, Errc::protocol_error) << failure;
    co_await worker->stop();
  });
}

// A worker that refuses a call says so once.
TEST_F(HostileWorker, RepeatedRefusalIsAProtocolError) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker(hostile_worker("refuses_twice"));
    const Failure failure = co_await failure_of(worker->call<int>("x"));
    EXPECT_EQ(failure, Errc::protocol_error) << failure;
    co_await worker->stop();
  });
}

// A call that a worker returns goes to the next worker in the pool slot.
TEST_F(HostileWorker, ReturnedCallGoesToAnotherWorker) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options;
    options.size = 1;
    options.worker = hostile_worker("returns_calls");
    options.restart.backoff = 1ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    const CallOptions bounded{.deadline = 1s};
    const Failure failure = co_await failure_of(pool.call<int>(bounded, "x", std::string(200000, 'x')));
    EXPECT_EQ(failure, Errc::deadline_exceeded) << failure;  // each worker returns it
    EXPECT_GE(pool.stats().restarts, 3u);
    EXPECT_EQ(pool.stats().crashes, 0u);
    co_await pool.stop();
  });
}

// A result of a call that the worker has returned is a protocol error.
TEST_F(HostileWorker, ResultOfAReturnedCallIsAProtocolError) {
  on_one_thread([]() -> asio::awaitable<void> {
    const auto worker = co_await started_worker(hostile_worker("answers_what_it_returned"));
    const Task<int> call(co_await asio::this_coro::executor, worker->call<int>("x"));
    (void)co_await worker->status();
    EXPECT_FALSE(call.done());  // there is no other worker, so the call waits for the exit of this one
    EXPECT_TRUE(co_await failure_of(worker->status()) == Errc::worker_exited);
    const Failure failure = co_await call.failure();
    EXPECT_EQ(failure, Errc::protocol_error) << failure;
    co_await worker->stop();
  });
}

/// The life of a worker, in which something may fail.
asio::awaitable<void> whole_life(bool& over) {
  try {
    LocalWorker worker(co_await asio::this_coro::executor, call_worker());
    co_await worker.start(5s);
    co_await worker.call<int>("square", 3);
    co_await worker.stop(1s);
  } catch (const std::system_error&) {
  }
  over = true;
}

// A socket that cannot be watched fails the start, or the calls. Nobody waits in vain, whichever registration fails.
TEST_F(SocketError, OfARegistrationLetsNobodyWait) {
  int failed = 0;
  for (bool fired = true; fired; ++failed) {
    asio::io_context context;
    asio::steady_timer(context, 0s).async_wait([](std::error_code) {});
    context.run();  // Asio ignores such errors where it creates its own descriptors
    context.restart();
    registering.error = ENOSPC;
    registrations_spared = failed;
    registering.count = 1;
    bool over = false;
    const auto start = Clock::now();
    asio::co_spawn(context, whole_life(over), asio::detached);
    while (!over && since(start) < 15s) context.run_for(100ms), context.restart();
    fired = registering.count.exchange(0) == 0;
    EXPECT_TRUE(over) << "after the failure of registration " << failed;
    ASSERT_LT(failed, 100);
    if (!over) break;
  }
  EXPECT_GE(failed, 3);
}

}  // namespace
