#include <atomic>
#include <gtest/gtest.h>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/strand.hpp>
#include <asio/thread_pool.hpp>

#include <drover/detail/context/strand.hpp>

namespace {

using drover::detail::ContextStrand;

TEST(ContextStrand, RunsItsFunctionsBeforeLaterPosts) {
  asio::io_context context;
  const auto strand = ContextStrand::create(context.get_executor());
  std::vector<int> order;
  for (int i = 0; i < 3; ++i) strand->post([&order, i] { order.push_back(i); });
  asio::post(context, [&order] { order.push_back(9); });
  context.run();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 9}));
}

TEST(ContextStrand, FunctionThatThrowsDoesNotStopTheNext) {
  asio::io_context context;
  const auto strand = ContextStrand::create(context.get_executor());
  int ran = 0;
  strand->post([] { throw std::runtime_error("thrown"); });
  strand->post([&ran] { ++ran; });
  EXPECT_THROW(context.run(), std::runtime_error);
  context.restart();
  context.run();
  EXPECT_EQ(ran, 1);
}

TEST(ContextStrand, RunsFunctionsInOrderOnManyThreads) {
  asio::thread_pool context(4);
  const auto strand = ContextStrand::create(context.get_executor());
  std::atomic<int> inside{0};
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i)
    strand->post([&, i] {
      EXPECT_EQ(++inside, 1);
      order.push_back(i);
      --inside;
    });
  context.join();
  ASSERT_EQ(order.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
}

TEST(ContextStrand, CloseDropsPendingFunctions) {
  asio::io_context context;
  const auto closed = ContextStrand::create(context.get_executor());
  int dropped = 0;
  closed->post([&dropped] { ++dropped; });
  closed->close();
  EXPECT_FALSE(closed->post([] {}));
  context.run();
  EXPECT_EQ(dropped, 0);
  EXPECT_EQ(closed.use_count(), 1);  // nothing but this variable refers to the strand
}

TEST(ContextStrand, PostMayRaceWithTheContextsDestruction) {
  for (int round = 0; round < 200; ++round) {
    const auto kept = std::make_shared<int>();
    auto context = std::make_unique<asio::io_context>();
    const auto strand = ContextStrand::create(asio::make_strand(*context));
    std::thread poster([strand, kept] {
      for (int i = 0; i < 50; ++i) strand->post([kept] {});
    });
    context->poll();
    context.reset();
    poster.join();
    EXPECT_FALSE(strand->post([kept] {}));
    EXPECT_EQ(kept.use_count(), 1);
  }
}

}  // namespace
