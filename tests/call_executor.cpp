// The executor of a routine that is a coroutine: which call runs while its functions do.
#include <chrono>
#include <concepts>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/bind_executor.hpp>
#include <asio/co_spawn.hpp>
#include <asio/defer.hpp>
#include <asio/detached.hpp>
#include <asio/dispatch.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/worker/detail/call_executor.hpp>
#include <drover/worker/this_call.hpp>

namespace {

using namespace std::chrono_literals;
using drover::CancelReason;
using drover::detail::CurrentCallScope;
using drover::detail::RunningCall;
using Inner = asio::io_context::executor_type;
using Executor = drover::detail::CallExecutor<Inner>;

static_assert(asio::execution::is_executor<Executor>::value);
static_assert(std::is_convertible_v<Executor, asio::any_io_executor>);
static_assert(std::is_nothrow_copy_constructible_v<Executor> && std::is_nothrow_move_constructible_v<Executor>);
static_assert(std::equality_comparable<Executor>);
static_assert(asio::can_require<Executor, asio::execution::blocking_t::never_t>::value);
static_assert(asio::can_prefer<Executor, asio::execution::outstanding_work_t::tracked_t>::value);
static_assert(asio::can_query<Executor, asio::execution::context_t>::value);
static_assert(!asio::can_require<Executor, int>::value);
static_assert(sizeof(Executor) <= sizeof(std::shared_ptr<void>) + sizeof(void*), "any_io_executor would allocate");

struct News : drover::detail::CancelNews {
  CancelReason reason = CancelReason::none;
  int asked = 0;
  CancelReason reason_for(std::uint64_t) override { return ++asked, reason; }
};

class CallExecutor : public testing::Test {
 protected:
  std::shared_ptr<RunningCall> make_call(std::string_view context) {
    return std::make_shared<RunningCall>(++last_, std::nullopt, context, news_);
  }
  Executor executor(const std::shared_ptr<RunningCall>& call) { return {context_.get_executor(), call}; }
  static std::string here() {
    return drover::this_call::attempt() == 0 ? "none" : std::string(drover::this_call::context());
  }

  std::uint64_t last_ = 0;
  News news_;
  asio::io_context context_;
};

TEST_F(CallExecutor, FunctionsRunWithTheirCall) {
  const auto a = make_call("a"), b = make_call("b");
  std::vector<std::string> seen;
  const auto look = [&] { seen.push_back(here()); };
  asio::post(executor(a), look);
  asio::post(context_, look);
  asio::defer(executor(b), look);
  asio::dispatch(executor(a), look);
  asio::post(context_, asio::bind_executor(executor(b), look));
  EXPECT_EQ(here(), "none");
  context_.run();
  EXPECT_EQ(seen, (std::vector<std::string>{"a", "none", "b", "a", "b"}));
  EXPECT_EQ(here(), "none");
}

// One inside another: what ran before is there again afterwards, also after an exception.
TEST_F(CallExecutor, ScopesNest) {
  const auto a = make_call("a"), b = make_call("b");
  int inside = 0;
  asio::post(executor(a), [&] {
    asio::dispatch(executor(b), [&] {
      EXPECT_EQ(here(), "b");
      ++inside;
    });
    EXPECT_EQ(inside, 1) << "it ran at once";
    EXPECT_EQ(here(), "a");
    throw 7;
  });
  EXPECT_THROW(context_.run(), int);
  EXPECT_EQ(here(), "none");
}

TEST_F(CallExecutor, AfterItsCallThereIsNone) {
  auto call = make_call("a");
  const Executor kept = executor(call);
  const std::weak_ptr<RunningCall> watched = call;
  call->deadline = drover::Clock::now();
  std::string before, after;
  asio::post(kept, [&] {
    before = here();
    EXPECT_TRUE(drover::this_call::deadline());
    call->end();
    EXPECT_EQ(here(), "none") << "at once";
    EXPECT_FALSE(drover::detail::current_call->deadline) << "calls inherit nothing from it";
    call.reset();
  });
  asio::post(kept, [&] {
    after = here();
    EXPECT_EQ(drover::this_call::reason(), CancelReason::none);
    EXPECT_EQ(drover::detail::current_call, nullptr);
  });
  context_.run();
  EXPECT_EQ(before, "a");
  EXPECT_EQ(after, "none");
  EXPECT_EQ(news_.asked, 0);
  EXPECT_FALSE(watched.expired()) << "its executor keeps it";
}

TEST_F(CallExecutor, AnotherThreadHasNoCall) {
  const auto a = make_call("a");
  std::string there;
  asio::post(executor(a), [&] { std::thread([&] { there = here(); }).join(); });
  context_.run();
  EXPECT_EQ(there, "none");
}

// The first reason counts. Until there is one, each question looks again.
TEST_F(CallExecutor, FirstReasonCounts) {
  const auto a = make_call("a");
  const CurrentCallScope running(a.get());
  EXPECT_EQ(drover::this_call::reason(), CancelReason::none);
  news_.reason = CancelReason::deadline;
  EXPECT_EQ(drover::this_call::reason(), CancelReason::deadline);
  news_.reason = CancelReason::stop;
  EXPECT_EQ(drover::this_call::reason(), CancelReason::deadline);
}

TEST_F(CallExecutor, EqualityIsThatOfContextAndCall) {
  const auto a = make_call("a"), b = make_call("b");
  asio::io_context other;
  EXPECT_TRUE(executor(a) == executor(a));
  EXPECT_TRUE(executor(a) != executor(b));
  EXPECT_FALSE(executor(a) == executor(b));
  EXPECT_FALSE((executor(a) == Executor(other.get_executor(), a)));
  const asio::any_io_executor any = executor(a), same = executor(a), of_b = executor(b),
                              plain = context_.get_executor();
  EXPECT_TRUE(any == same);
  EXPECT_FALSE(any == of_b);
  EXPECT_FALSE(any == plain);
}

TEST_F(CallExecutor, PropertiesAreThoseOfTheLoop) {
  using namespace asio::execution;
  const Executor plain = executor(make_call("a"));
  EXPECT_EQ(&asio::query(plain, asio::execution::context), &context_);
  EXPECT_EQ(asio::query(plain, blocking), blocking.possibly);
  EXPECT_EQ(asio::query(asio::require(plain, blocking.never), blocking), blocking.never);
  EXPECT_EQ(asio::query(plain, outstanding_work), outstanding_work.untracked);
  EXPECT_EQ(asio::query(asio::prefer(plain, outstanding_work.tracked), outstanding_work), outstanding_work.tracked);
  EXPECT_EQ(asio::query(asio::require(plain, relationship.continuation), relationship), relationship.continuation);

  context_.restart();  // there was work, and it has ended
  const asio::any_io_executor any = plain;
  EXPECT_EQ(&asio::query(any, asio::execution::context), &context_);
  const auto never = asio::require(any, blocking.never);
  bool ran = false;
  asio::post(context_, [&] {
    never.execute([&] { ran = true; });
    EXPECT_FALSE(ran);
    bool inside = false;
    any.execute([&] { inside = here() == "a"; });
    EXPECT_TRUE(inside);
  });
  context_.run();
  EXPECT_TRUE(ran);
}

TEST_F(CallExecutor, TrackedWorkKeepsTheLoopRunning) {
  const auto a = make_call("a");
  auto work = std::make_unique<asio::executor_work_guard<Executor>>(executor(a));
  context_.poll();
  EXPECT_FALSE(context_.stopped());
  auto any = std::make_unique<asio::any_io_executor>(
      asio::prefer(asio::any_io_executor(executor(a)), asio::execution::outstanding_work.tracked));
  work.reset();
  context_.poll();
  EXPECT_FALSE(context_.stopped());
  any.reset();
  context_.poll();
  EXPECT_TRUE(context_.stopped());
}

asio::awaitable<void> pause_for(std::chrono::microseconds time) {
  asio::steady_timer timer(co_await asio::this_coro::executor, time);
  co_await timer.async_wait(asio::use_awaitable);
}

/// Looks after every co_await, in this coroutine and in others that it spawns.
asio::awaitable<int> count_wrong(std::string expected, int depth) {
  const auto wrong = [&] { return drover::this_call::context() == expected ? 0 : 1; };
  int count = wrong();
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  for (int i = 0; i < 20; ++i) {
    co_await pause_for(std::chrono::microseconds(i * 7 % 13));
    count += wrong();
    co_await asio::post(executor, asio::use_awaitable);
    count += wrong();
    if (depth == 0) continue;
    count += co_await asio::co_spawn(executor, count_wrong(expected, depth - 1), asio::use_awaitable);
    count += wrong();
    const auto strand = asio::make_strand(executor);
    count += co_await asio::co_spawn(strand, count_wrong(expected, 0), asio::use_awaitable);
    count += wrong();
  }
  co_return count;
}

// A timer of the bare context and a thread of another pool complete on the coroutine's own executor.
asio::awaitable<int> count_wrong_elsewhere(std::string expected, asio::io_context& context, asio::io_context& other) {
  int count = 0;
  for (int i = 0; i < 20; ++i) {
    asio::steady_timer timer(context, 10us);
    co_await timer.async_wait(asio::use_awaitable);
    count += drover::this_call::context() == expected ? 0 : 1;
    asio::steady_timer foreign(other, 10us);
    co_await foreign.async_wait(asio::use_awaitable);
    count += drover::this_call::context() == expected ? 0 : 1;
  }
  co_return count;
}

TEST_F(CallExecutor, EachCoroutineKeepsItsCall) {
  asio::io_context other;
  const auto guard = asio::make_work_guard(other);
  std::thread thread([&] { other.run(); });
  int ended = 0, wrong = 0;
  std::vector<std::shared_ptr<RunningCall>> calls;
  std::vector<std::string> names;
  for (int i = 0; i < 8; ++i) names.push_back("call " + std::to_string(i));
  const auto end = [&](std::exception_ptr thrown, int count) {
    EXPECT_FALSE(thrown);
    wrong += count;
    ++ended;
  };
  for (const std::string& name : names) {
    calls.push_back(make_call(name));
    asio::co_spawn(executor(calls.back()), count_wrong(name, 1), end);
    asio::co_spawn(executor(calls.back()), count_wrong_elsewhere(name, context_, other), end);
  }
  asio::co_spawn(context_, count_wrong("", 1), end);
  context_.run();
  EXPECT_EQ(ended, 17);
  EXPECT_EQ(wrong, 0);
  other.stop();
  thread.join();
}

}  // namespace
