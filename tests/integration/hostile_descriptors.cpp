// Workers that send descriptors which nobody asked for. They hurt only themselves: no thread of the parent blocks, and
// nothing is left open.
#include <atomic>
#include <cerrno>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <drover/os/detail/descriptor_rights.hpp>
#include <drover/pool/local_worker.hpp>

#include "support/calls.hpp"
#include "support/descriptors.hpp"

namespace {
std::atomic<bool> kernel_passes_descriptors{false};  // as kernels before Linux 6.16 do
}

extern "C" int setsockopt(int fd, int level, int option, const void* value, socklen_t size) noexcept {
  if (kernel_passes_descriptors && level == SOL_SOCKET && option == drover::detail::so_passrights) {
    errno = ENOPROTOOPT;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_setsockopt, fd, level, option, value, size));
}

namespace {

using namespace support;

class HostileDescriptors : public Calls {
 protected:
  void TearDown() override {
    kernel_passes_descriptors = false;
    Calls::TearDown();
  }
  static WorkerOptions hostile_worker(std::string how, std::size_t max_in_flight = 1) {
    WorkerOptions options;
    options.command.program = DROVER_HELPER_HOSTILE_DESCRIPTORS;
    options.command.args = {std::move(how)};
    options.max_in_flight = max_in_flight;
    options.shutdown_grace = options.term_grace = 500ms;
    options.stop_margin = 50ms;
    return options;
  }
  /// Runs it on a loop that must not be blocked, whatever the kernel does about descriptors.
  static void without_blocking(std::function<asio::awaitable<void>()> body) {
    for (const bool passed : {false, true}) {
      SCOPED_TRACE(passed ? "passed by the kernel" : "refused by the kernel");
      kernel_passes_descriptors = passed;
      on_one_thread([&]() -> asio::awaitable<void> {
        const Ticker ticker(co_await asio::this_coro::executor);
        co_await body();
        co_await pause_for(20ms);
        EXPECT_LT(ticker.longest_gap(), 500ms);
      });
    }
  }
  /// Whether the whole worker fails, or this call only.
  static void expect_failure(const std::string& how, Errc expected) {
    SCOPED_TRACE(how);
    without_blocking([&]() -> asio::awaitable<void> {
      auto worker = std::make_unique<LocalWorker>(co_await asio::this_coro::executor, hostile_worker(how));
      co_await worker->start();
      const Failure failure = co_await failure_of(worker->call<UniqueFd>("x"));
      EXPECT_EQ(failure, expected) << failure;
      co_await worker->stop(0s);
      worker.reset();
    });
  }
};

// Another number than their frame says, or too many.
TEST_F(HostileDescriptors, InTheWrongNumberAreAProtocolError) {
  for (const std::string how : {"fewer", "more", "none", "too many"}) expect_failure(how, Errc::protocol_error);
}

// With a result that is whole without them.
TEST_F(HostileDescriptors, TooManyEndTheWorker) {
  for (const std::string how : {"unnamed", "twice"})
    without_blocking([how]() -> asio::awaitable<void> {
      SCOPED_TRACE(how);
      const auto here = co_await asio::this_coro::executor;
      LocalWorker worker(here, hostile_worker(how, 2));
      co_await worker.start();
      const Task<UniqueFd> answered(here, worker.call<UniqueFd>("x"));
      const Failure other = co_await failure_of(worker.call<UniqueFd>("x"));
      EXPECT_EQ(other, Errc::protocol_error) << other;
      const Failure failure = co_await answered.failure();
      EXPECT_EQ(failure, Errc::bad_arguments) << failure;
      co_await worker.stop(0s);
    });
}

// They come as their frame says, but do not fit what the frame contains.
TEST_F(HostileDescriptors, OfAWrongResultAreBadArguments) {
  for (const std::string how : {"malformed", "half", "without a value"}) expect_failure(how, Errc::bad_arguments);
}

// An exception arrives although descriptors come with it. The fixture looks for open ones.
TEST_F(HostileDescriptors, OfAnErrorAreClosed) {
  without_blocking([]() -> asio::awaitable<void> {
    LocalWorker worker(co_await asio::this_coro::executor, hostile_worker("with an error"));
    co_await worker.start();
    try {
      (void)co_await worker.call<UniqueFd>("x");
      ADD_FAILURE() << "nothing was thrown";
    } catch (const RemoteError& error) {
      EXPECT_EQ(error.type(), "a type");
    }
    co_await worker.stop(0s);
  });
}

// While a call takes descriptors, another one that does not gets some.
TEST_F(HostileDescriptors, ForAnotherCallAreAProtocolError) {
  without_blocking([]() -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    LocalWorker worker(here, hostile_worker("for another call", 2));
    co_await worker.start();
    const Task<UniqueFd> first(here, worker.call<UniqueFd>("x"));
    const Failure second = co_await failure_of(worker.call<int>("x"));
    EXPECT_EQ(second, Errc::protocol_error) << second;
    const Failure other = co_await first.failure();
    EXPECT_EQ(other, Errc::protocol_error) << other;
    co_await worker.stop(0s);
  });
}

// A message more, which comes while they are expected, or is refused if it comes later.
TEST_F(HostileDescriptors, AfterTheResultEndTheWorker) {
  without_blocking([]() -> asio::awaitable<void> {
    LocalWorker worker(co_await asio::this_coro::executor, hostile_worker("afterwards"));
    co_await worker.start();
    auto result = std::make_unique<UniqueFd>(co_await worker.call<UniqueFd>("x"));
    EXPECT_TRUE(*result);
    const int number = result->release();  // it lingers
    drover::detail::DescriptorDisposal::close({&number, 1});
    const bool ended = co_await soon([&] { return !worker.alive(); });
    EXPECT_TRUE(ended);
    co_await worker.stop(0s);
  });
}

// Its caller has gone when the answer comes.
TEST_F(HostileDescriptors, OfAnAbandonedCallBlockNobody) {
  without_blocking([]() -> asio::awaitable<void> {
    LocalWorker worker(co_await asio::this_coro::executor, hostile_worker("malformed"));
    co_await worker.start();
    {
      const auto unused = worker.call<UniqueFd>("x");
    }
    co_await pause_for(100ms);
    co_await worker.stop(0s);
  });
}

// The parent takes no more than one message of them.
TEST_F(HostileDescriptors, InAnEndlessFrameDoNotFillTheTable) {
  without_blocking([]() -> asio::awaitable<void> {
    LocalWorker worker(co_await asio::this_coro::executor, hostile_worker("forever"));
    co_await worker.start();
    const Failure failure = co_await failure_of(worker.call<UniqueFd>("x"));
    EXPECT_EQ(failure, Errc::protocol_error) << failure;
    co_await worker.stop(0s);
  });
}

}  // namespace
