// Descriptors of calls that end early, are made again, or are made in a pool. None is left open.
#include <cstddef>
#include <functional>
#include <gtest/gtest.h>
#include <optional>
#include <ranges>
#include <signal.h>
#include <string>
#include <sys/resource.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <drover/pool/local_worker.hpp>
#include <drover/pool/worker_pool.hpp>

#include "support/descriptor_calls.hpp"

namespace {

using namespace support;

/// The writing end is closed soon, while the loop goes on.
asio::awaitable<void> expect_end(const UniqueFd& reading) {
  const bool ended = co_await soon([&] { return ends_within(reading, 0); });
  EXPECT_TRUE(ended);
}

/// Each test ends with as many descriptors as it began with, see Processes.
class DescriptorsOfACall : public Calls {
 protected:
  static void with_worker(std::function<asio::awaitable<void>(LocalWorker&)> body, std::size_t max_in_flight = 1) {
    on_one_thread([&]() -> asio::awaitable<void> {
      LocalWorker worker(co_await asio::this_coro::executor, descriptor_worker(max_in_flight));
      co_await worker.start();
      co_await body(worker);
      co_await worker.stop();
    });
  }
  static void with_pool_of(std::size_t size, std::function<asio::awaitable<void>(WorkerPool&)> body) {
    on_one_thread([&]() -> asio::awaitable<void> {
      WorkerPool pool = co_await WorkerPool::start(descriptor_pool(size));
      co_await body(pool);
      co_await pool.stop();
    });
  }
};

// ---- the end of the caller ------------------------------------------------------------------------------------------

// Cancelled calls close their argument and their result, also one that the worker sends all the same.
TEST_F(DescriptorsOfACall, ThatIsCancelledAreClosed) {
  with_worker(
      [](LocalWorker& worker) -> asio::awaitable<void> {
        const auto here = co_await asio::this_coro::executor;
        auto [reading, writing] = pipe_ends();
        const Task<std::string> argument(here, worker.call<std::string>("read_later", std::move(writing), 60'000));
        const Task<UniqueFd> result(here, worker.call<UniqueFd>("pipe_later", std::string("x"), 60'000));
        const Task<UniqueFd> stubborn(here, worker.call<UniqueFd>("pipe_after", 50));  // answers all the same
        co_await pause_for(20ms);
        argument.cancel();
        result.cancel();
        stubborn.cancel();
        EXPECT_TRUE((co_await argument.failure()).aborted());
        EXPECT_TRUE((co_await result.failure()).aborted());
        EXPECT_TRUE((co_await stubborn.failure()).aborted());
        co_await expect_end(reading);
        const int two = co_await worker.call<int>("number", 1);  // behind the answer that nobody waited for
        EXPECT_EQ(two, 2);
      },
      8);
}

// The argument is closed of a call that is cancelled in the queue, never awaited, or late in the queue.
TEST_F(DescriptorsOfACall, ThatNeverBeganAreClosed) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    const Task<void> busy(here, worker.call<void>("doze", 300));
    auto [reading, writing] = pipe_ends();
    const Task<std::string> queued(here, worker.call<std::string>("read", std::move(writing)));
    co_await pause_for(10ms);
    queued.cancel();
    EXPECT_TRUE((co_await queued.failure()).aborted());
    auto [other_reading, other_writing] = pipe_ends();
    {
      const auto unused = worker.call<std::string>("read", std::move(other_writing));
    }
    auto [late_reading, late_writing] = pipe_ends();
    const CallOptions hurried{.deadline = 20ms};
    const Failure late = co_await failure_of(worker.call<std::string>(hurried, "read", std::move(late_writing)));
    EXPECT_EQ(late, Errc::deadline_exceeded) << late;
    co_await expect_end(reading);
    co_await expect_end(other_reading);
    co_await expect_end(late_reading);
    co_await busy.ended();
  });
}

// A call before start(), and one with a tag that the worker lacks, close their argument.
TEST_F(DescriptorsOfACall, ThatIsRefusedAreClosed) {
  on_one_thread([]() -> asio::awaitable<void> {
    LocalWorker worker(co_await asio::this_coro::executor, descriptor_worker());
    auto [reading, writing] = pipe_ends();
    auto call = worker.call<std::string>("read", std::move(writing));  // before the start
    co_await expect_end(reading);
    const Failure refused = co_await failure_of(std::move(call));
    EXPECT_EQ(refused, Errc::not_running) << refused;
    co_await worker.start();
    auto [other_reading, other_writing] = pipe_ends();
    const CallOptions tagged{.tags = {"none"}};
    const Failure none = co_await failure_of(worker.call<std::string>(tagged, "read", std::move(other_writing)));
    EXPECT_EQ(none, Errc::no_such_worker) << none;
    co_await expect_end(other_reading);
    co_await worker.stop();
  });
}

// The context of the caller is gone before the answer comes.
TEST_F(DescriptorsOfACall, WhoseCallerIsDestroyedAreClosed) {
  auto [reading, writing] = pipe_ends();
  {
    asio::io_context context;
    LocalWorker worker(context.get_executor(), descriptor_worker());
    run(context, worker.start());
    asio::co_spawn(context, worker.call<UniqueFd>("pipe_after", 30), [](std::exception_ptr, UniqueFd) {});
    asio::co_spawn(context, worker.call<std::string>("read", std::move(writing)),
                   [](std::exception_ptr, std::string) {});
    context.restart();
    context.poll();
  }
  EXPECT_TRUE(ends_within(reading, 10'000));
}

// Descriptors are closed of results that are not awaited, or are taken by a task that drops them.
TEST_F(DescriptorsOfACall, OfAResultThatNobodyTakesAreClosed) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    for (int i = 0; i < 20; ++i) {
      auto call = worker.call<UniqueFd>("pipe_after", 0);
      co_await pause_for(1ms);  // the answer is there, and nobody has awaited it
    }
    for (int i = 0; i < 20; ++i) {
      const Task<UniqueFd> task(here, worker.call<UniqueFd>("pipe_after", 0));
      co_await pause_for(1ms);
    }
  });
}

// ---- the end of the worker ------------------------------------------------------------------------------------------

// The argument is closed of the call in which the worker exits, and of a later one.
TEST_F(DescriptorsOfACall, WhoseWorkerDiesAreClosed) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    auto [reading, writing] = pipe_ends();
    const Failure failure = co_await failure_of(worker.call<void>("exit_with", std::move(writing)));
    EXPECT_EQ(failure, Errc::worker_exited) << failure;
    co_await expect_end(reading);
    auto [other_reading, other_writing] = pipe_ends();
    const Failure later = co_await failure_of(worker.call<void>("exit_with", std::move(other_writing)));
    EXPECT_TRUE(later) << later;
    co_await expect_end(other_reading);
  });
}

// The third attempt of a call reads from the descriptor that was moved into the call.
TEST_F(DescriptorsOfACall, ThatIsMadeAgainAreSentAgain) {
  with_pool_of(1, [](WorkerPool& pool) -> asio::awaitable<void> {
    const CallOptions again{.retry = {.attempts = 3}};
    auto [reading, writing] = pipe_ends();
    (void)::write(writing.get(), "text", 4);
    writing.reset();
    const std::string text = co_await pool.call<std::string>(again, "read_in_attempt", 3u, std::move(reading));
    EXPECT_EQ(text, "text");
  });
}

// A worker that is asked to leave gives back what it has not begun, and another one gets the same descriptors.
TEST_F(DescriptorsOfACall, ThatIsGivenBackAreSentAgain) {
  with_pool_of(2, [](WorkerPool& pool) -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    for (int round = 0; round < 5; ++round) {
      std::vector<Task<void>> busy;
      std::vector<Task<std::string>> readers;
      for (int i = 0; i < 2; ++i) busy.emplace_back(here, pool.call<void>("doze", 30));
      for (int i = 0; i < 10; ++i) readers.emplace_back(here, pool.call<std::string>("read", pipe_with("text")));
      for (const auto& worker : pool.workers()) ::kill(worker.pid, SIGTERM);
      for (const auto& task : busy) co_await task.ended();
      for (const auto& reader : readers) {
        const std::string text = co_await reader.result();
        EXPECT_EQ(text, "text");
      }
    }
  });
}

// A call with descriptors is not sent ahead: a worker that is busy would have them, too, until it looks for calls.
TEST_F(DescriptorsOfACall, AreNotSentAheadOfIt) {
  with_pool_of(2, [](WorkerPool& pool) -> asio::awaitable<void> {
    const auto here = co_await asio::this_coro::executor;
    for (int i = 0; i < 50; ++i) (void)co_await pool.call<int>("number", 1);  // both are quick
    const Task<void> one(here, pool.call<void>("doze", 1000));
    const Task<void> two(here, pool.call<void>("doze", 100));
    auto [reading, writing] = pipe_ends();
    const auto written = co_await pool.call<long>("write", std::move(writing), std::string("x"));
    EXPECT_EQ(written, 1);
    char byte = 0;
    EXPECT_EQ(::read(reading.get(), &byte, 1), 1);
    co_await expect_end(reading);
    EXPECT_FALSE(one.done()) << "the worker that is still busy had it, too";
    co_await two.ended();
    co_await one.ended();
  });
}

// ---- pools ----------------------------------------------------------------------------------------------------------

// Three workers write to one pipe, whose end stays open here. Each returns a pipe of its own.
TEST_F(DescriptorsOfACall, OfABroadcastAreDuplicatedForEachWorker) {
  with_pool_of(3, [](WorkerPool& pool) -> asio::awaitable<void> {
    auto [reading, writing] = pipe_ends();
    const auto written = co_await pool.broadcast<long>("write", writing, std::string("x"));
    EXPECT_EQ(written.size(), 3u);
    for (const auto& result : written) EXPECT_EQ(result.value(), 1);
    EXPECT_TRUE(is_open(writing.get()));
    writing.reset();
    EXPECT_EQ(rest_of(reading), "xxx");
    auto pipes = co_await pool.broadcast<UniqueFd>("pipe_later", std::string("text"), 1);
    for (auto& result : pipes) EXPECT_EQ(rest_of(result.value()), "text");
  });
}

// map() passes a descriptor with each item, or returns one. A map() that is destroyed closes what is left.
TEST_F(DescriptorsOfACall, OfAMapArriveWithTheirItems) {
  with_pool_of(2, [](WorkerPool& pool) -> asio::awaitable<void> {
    std::vector<std::string> texts;
    for (int i = 0; i < 30; ++i) texts.push_back(std::to_string(i));
    auto opened = pool.map<UniqueFd>({.ordered = true}, "pipe_of", texts);
    for (std::size_t i = 0;; ++i) {
      auto done = co_await opened.next();
      if (!done) break;
      EXPECT_EQ(rest_of(done->value()), texts.at(i));
    }
    std::vector<UniqueFd> pipes;
    for (const auto& text : texts) pipes.push_back(pipe_with(text));
    auto read = pool.map<std::string>({.ordered = true}, "read",
                                      std::views::transform(pipes, [](UniqueFd& pipe) { return std::move(pipe); }));
    for (std::size_t i = 0;; ++i) {
      auto done = co_await read.next();
      if (!done) break;
      EXPECT_EQ(done->value(), texts.at(i));
    }
    auto left = pool.map<UniqueFd>({}, "pipe_of", texts);  // destroyed with results that nobody has taken
    const auto first = co_await left.next();
    EXPECT_TRUE(first);
  });
}

// ---- no room --------------------------------------------------------------------------------------------------------

/// While it exists, this process can open so many files more.
class FewDescriptors {
 public:
  explicit FewDescriptors(int free) {
    ::getrlimit(RLIMIT_NOFILE, &usual_);
    const UniqueFd next(::dup(0));
    const rlimit few{static_cast<rlim_t>(next.get() + free), usual_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &few);
  }
  ~FewDescriptors() { ::setrlimit(RLIMIT_NOFILE, &usual_); }
  FewDescriptors(const FewDescriptors&) = delete;
  FewDescriptors& operator=(const FewDescriptors&) = delete;

 private:
  rlimit usual_{};
};

// A call fails if there is no room for its descriptors, here or in the worker; the next one succeeds.
TEST_F(DescriptorsOfACall, WithoutRoomForThemFailIt) {
  with_worker([](LocalWorker& worker) -> asio::awaitable<void> {
    {
      const FewDescriptors few(3);
      const Failure failure = co_await failure_of(worker.call<std::vector<UniqueFd>>("many", std::size_t{20}));
      EXPECT_EQ(failure.code, std::errc::too_many_files_open) << failure;
    }
    {
      const UniqueFd pipe = pipe_with("x");
      const FewDescriptors few(0);
      const Failure failure = co_await failure_of(worker.call<std::string>("read", pipe));
      EXPECT_EQ(failure.code, std::errc::too_many_files_open) << failure;
    }
    const auto all = co_await worker.call<std::vector<UniqueFd>>("many", std::size_t{20});
    EXPECT_EQ(all.size(), 20u);
    co_await worker.call<void>("lower_limit", std::uint64_t{2});
    std::vector<UniqueFd> many;
    for (int i = 0; i < 20; ++i) many.push_back(pipe_with("x"));
    const Failure there = co_await failure_of(worker.call<std::string>("read_all", std::move(many)));
    EXPECT_EQ(there, Errc::bad_arguments) << there;
    EXPECT_NE(there.text.find("no room for a descriptor"), std::string::npos) << there;
    const std::string text = co_await worker.call<std::string>("read", pipe_with("text"));
    EXPECT_EQ(text, "text");
  });
}

}  // namespace
