// borrow(): arguments that stay the caller's. What is sent must be what was there while the call lasted.
#include <atomic>
#include <cerrno>
#include <concepts>
#include <cstddef>
#include <gtest/gtest.h>
#include <memory>
#include <span>
#include <string>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

#include <asio/detached.hpp>

#include <drover/wire/body.hpp>
#include <drover/wire/borrow.hpp>
#include <drover/wire/frame.hpp>

#include "support/calls.hpp"

namespace {
std::atomic<std::size_t> mmap_fails_from{0};  // sizes; 0: never
}

extern "C" void* mmap(void* at, size_t size, int protection, int flags, int fd, off_t offset) noexcept {
  const std::size_t from = mmap_fails_from;
  if (from != 0 && size >= from) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  return reinterpret_cast<void*>(::syscall(SYS_mmap, at, size, protection, flags, fd, offset));
}

namespace {

using namespace support;
using drover::borrow;
using drover::detail::FrameBody;
using drover::detail::FrameHeader;
using drover::detail::FrameWriter;

// ---- the frame ------------------------------------------------------------------------------------------------------

std::string unsent(FrameWriter& writer) {
  std::string bytes;
  iovec parts[16];
  for (std::size_t i = 0, count = writer.gather(parts, std::size(parts)); i < count; ++i)
    bytes.append(static_cast<const char*>(parts[i].iov_base), parts[i].iov_len);
  return bytes;
}

// The writer reads the lent string itself: what the caller changes is sent.
TEST(BorrowedBody, IsSentFromWhereItIs) {
  std::string lent(1 << 20, 'a');
  FrameBody body;
  body.insert_borrowed(std::as_bytes(std::span(lent)));
  EXPECT_EQ(body.size(), lent.size());
  FrameWriter writer;
  writer.queue(FrameHeader{}, body);
  lent.back() = 'z';
  EXPECT_EQ(unsent(writer).back(), 'z');
}

// The bytes that are not sent yet are copied, so that the caller may change its string.
TEST(BorrowedBody, IsCopiedWhenTheCallerTakesItBack) {
  std::string lent(1 << 20, 'a');
  FrameBody body;
  body.insert_borrowed(std::as_bytes(std::span(lent)));
  FrameWriter writer;
  writer.queue(FrameHeader{}, body);
  writer.consumed(1000);
  const std::string rest = unsent(writer);
  body.return_borrowed();
  EXPECT_FALSE(body.has_borrowed());
  lent.assign(lent.size(), 'b');
  EXPECT_TRUE(unsent(writer) == rest);
  writer.consumed(rest.size());
  EXPECT_TRUE(writer.empty());
}

// When all bytes are sent, nothing is copied: a copy would fail here.
TEST(BorrowedBody, IsDroppedIfNothingRefersToIt) {
  std::string lent(1 << 20, 'a');
  FrameBody body;
  body.insert_borrowed(std::as_bytes(std::span(lent)));
  {
    FrameWriter writer;
    writer.queue(FrameHeader{}, body);
    writer.consumed(writer.pending());
  }
  mmap_fails_from = 1;  // a copy would fail
  body.return_borrowed();
  mmap_fails_from = 0;
  EXPECT_FALSE(body.has_borrowed());
}

// If there is no memory for the copy, the bytes stay borrowed, and a later attempt succeeds.
TEST(BorrowedBody, StaysBorrowedWithoutMemoryForACopy) {
  std::string lent(9 << 20, 'a');  // of a size that no earlier test has left a block of
  FrameBody body;
  body.insert_borrowed(std::as_bytes(std::span(lent)));
  FrameWriter writer;
  writer.queue(FrameHeader{}, body);
  mmap_fails_from = 8u << 20;
  EXPECT_THROW(body.return_borrowed(), std::bad_alloc);
  mmap_fails_from = 0;
  EXPECT_TRUE(body.has_borrowed());
  body.return_borrowed();
  lent.assign(lent.size(), 'b');
  EXPECT_EQ(unsent(writer).back(), 'a');
}

// ---- calls ----------------------------------------------------------------------------------------------------------

template <class T>
concept Lendable = requires(T&& value) { borrow(std::forward<T>(value)); };
static_assert(Lendable<std::string&> && Lendable<const std::string&> && Lendable<std::string_view>);
static_assert(Lendable<std::vector<std::byte>&> && Lendable<std::vector<unsigned char>&>);
static_assert(Lendable<std::span<const std::byte>> && Lendable<const char (&)[4]>);
static_assert(!Lendable<std::string> && !Lendable<const std::string> && !Lendable<std::vector<std::byte>>);

class Borrow : public Calls {};

asio::awaitable<LocalWorker> started_worker(std::size_t max_in_flight) {
  WorkerOptions options = call_worker();
  options.max_in_flight = max_in_flight;
  LocalWorker worker(co_await asio::this_coro::executor, std::move(options));
  co_await worker.start(30s);
  co_return worker;
}

// Text and bytes of all sizes arrive as they would without borrow(), and stay the caller's.
TEST_F(Borrow, BringsTextAndBytes) {
  on_one_thread([]() -> asio::awaitable<void> {
    LocalWorker worker = co_await started_worker(1);
    for (const std::size_t size : {0u, 1u, 65535u, 65536u, 3'000'000u}) {
      const std::string text(size, 'x');
      const std::string same = co_await worker.call<std::string>("echo", borrow(text));
      EXPECT_TRUE(same == text) << size;
      EXPECT_EQ(text, std::string(size, 'x'));
      const std::vector<std::byte> bytes(size, std::byte{2});
      const auto sum = co_await worker.call<std::uint64_t>("sum", borrow(bytes));
      EXPECT_EQ(sum, 2 * size);
      const std::vector<unsigned char> numbers(size, 3);
      const auto other_sum = co_await worker.call<std::uint64_t>("sum", borrow(numbers));
      EXPECT_EQ(other_sum, 3 * size);
    }
    const std::string separator(100'000, '-');
    const std::vector<std::string> three{"a", "b", "c"};
    const std::string joined = co_await worker.call<std::string>("join", three, borrow(separator));
    EXPECT_TRUE(joined == "a" + separator + "b" + separator + "c");
    co_await worker.stop(5s);
  });
}

// A deadline passes while most of the argument has not been sent: the caller may free it at once, and the next calls
// find the stream of frames intact.
TEST_F(Borrow, MayBeFreedWhenTheCallHasExpired) {
  on_one_thread([]() -> asio::awaitable<void> {
    LocalWorker worker = co_await started_worker(4);
    auto busy = worker.call<std::string>("work", 300);
    auto lent = std::make_unique<std::string>(20u << 20, 'x');
    const CallOptions bounded{.deadline = 50ms};
    const Failure late = co_await failure_of(worker.call<std::string>(bounded, "echo", borrow(*lent)));
    EXPECT_TRUE(late == Errc::deadline_exceeded) << late;
    lent->assign(lent->size(), 'y');
    lent.reset();
    const int nine = co_await worker.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    const std::string worked = co_await std::move(busy);
    EXPECT_EQ(worked, "worked");
    co_await worker.stop(5s);
  });
}

// The same for an awaitable that is destroyed, which cancels its call.
TEST_F(Borrow, MayBeFreedWhenTheAwaitableIsDestroyed) {
  on_one_thread([]() -> asio::awaitable<void> {
    LocalWorker worker = co_await started_worker(4);
    auto busy = worker.call<std::string>("work", 200);
    {
      const std::string lent(20u << 20, 'x');
      auto dropped = worker.call<std::string>("echo", borrow(lent));
    }
    const int nine = co_await worker.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    const std::string worked = co_await std::move(busy);
    EXPECT_EQ(worked, "worked");
    co_await worker.stop(5s);
  });
}

// The worker exits while most of the argument has not been sent.
TEST_F(Borrow, MayBeFreedWhenTheWorkerHasExited) {
  on_one_thread([]() -> asio::awaitable<void> {
    LocalWorker worker = co_await started_worker(4);
    auto busy = worker.call<std::string>("work", 5000);
    auto lent = std::make_unique<std::string>(20u << 20, 'x');
    auto call = worker.call<std::string>("echo", borrow(*lent));
    ::kill(worker.pid(), SIGKILL);
    const Failure failure = co_await failure_of(std::move(call));
    EXPECT_TRUE(failure == Errc::worker_exited) << failure;
    lent.reset();
    const Failure other = co_await failure_of(std::move(busy));
    EXPECT_TRUE(other == Errc::worker_exited) << other;
    co_await worker.stop(5s);
  });
}

asio::awaitable<void> owner_of_lent_bytes(LocalWorker& worker) {
  const std::string lent(20u << 20, 'x');
  co_await worker.call<std::string>("echo", borrow(lent));
}

// The context of the caller is destroyed, and with it the coroutine that owns the bytes. The worker's context goes on.
TEST_F(Borrow, MayBeFreedWithTheCallersContext) {
  on_one_thread([]() -> asio::awaitable<void> {
    LocalWorker worker = co_await started_worker(4);
    auto busy = worker.call<std::string>("work", 200);
    {
      asio::io_context other;
      asio::co_spawn(other, owner_of_lent_bytes(worker), asio::detached);
      other.poll();
    }
    const int nine = co_await worker.call<int>("square", 3);
    EXPECT_EQ(nine, 9);
    const std::string worked = co_await std::move(busy);
    EXPECT_EQ(worked, "worked");
    co_await worker.stop(5s);
  });
}

// A worker that drains has not begun the call: the whole argument goes to another worker.
TEST_F(Borrow, GoesToAnotherWorkerWhenTheFirstOneDrains) {
  on_one_thread([]() -> asio::awaitable<void> {
    PoolOptions options = call_pool(1);
    options.worker.max_in_flight = 2;
    options.restart.backoff = 1ms;
    WorkerPool pool = co_await WorkerPool::start(options);
    const pid_t first = pool.workers().front().pid;
    auto busy = pool.call<std::string>("work", 300);
    const std::string lent(20u << 20, 'x');
    auto echo = pool.call<std::string>("echo", borrow(lent));
    ::kill(first, SIGTERM);
    const std::string same = co_await std::move(echo);
    EXPECT_TRUE(same == lent);
    (void)co_await failure_of(std::move(busy));
    co_await pool.stop();
  });
}

// Without memory for the copy the frame cannot be completed: the worker is terminated, and nobody waits in vain.
TEST_F(Borrow, TerminatesTheWorkerWithoutMemoryForTheCopy) {
  on_one_thread([]() -> asio::awaitable<void> {
    LocalWorker worker = co_await started_worker(4);
    auto busy = worker.call<std::string>("work", 30'000);
    auto lent = std::make_unique<std::string>(50u << 20, 'x');
    const CallOptions bounded{.deadline = 50ms};
    mmap_fails_from = 8u << 20;
    const Failure late = co_await failure_of(worker.call<std::string>(bounded, "echo", borrow(*lent)));
    mmap_fails_from = 0;
    EXPECT_TRUE(late == Errc::deadline_exceeded) << late;
    lent.reset();
    const Failure other = co_await failure_of(std::move(busy));
    EXPECT_TRUE(other == Errc::connection_lost) << other;
    co_await worker.stop(5s);
  });
}

}  // namespace
