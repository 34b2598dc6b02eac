// Calls with large arguments and results, and calls under a small size limit.
#include <gtest/gtest.h>

#include "support/calls.hpp"

namespace {

using namespace support;

class CallSize : public Calls {};
class MessageLimit : public CallsAnywhere {};

INSTANTIATE_TEST_SUITE_P(On, MessageLimit, ::testing::Values(Where::one_thread, Where::four_threads, Where::two_pools),
                         name_of);

// Arguments and results of 50 MiB and of 0 bytes arrive unchanged.
TEST_F(CallSize, MayBeFiftyMebibytesBothWays) {
  on_one_thread([]() -> asio::awaitable<void> {
    LocalWorker worker(co_await asio::this_coro::executor, call_worker());
    co_await worker.start();
    const std::vector<std::byte> large(50u << 20, std::byte{3});
    EXPECT_EQ(co_await worker.call<std::uint64_t>("sum", large), 3 * large.size());
    EXPECT_EQ((co_await worker.call<std::vector<std::byte>>("bytes", large.size())).size(), large.size());
    const auto same = co_await worker.call<std::vector<std::byte>>("blob", large);
    EXPECT_TRUE(same == large);
    const std::vector<std::byte> empty;
    EXPECT_EQ((co_await worker.call<std::vector<std::byte>>("blob", empty)).size(), 0u);
    co_await worker.stop();
  });
}

// Large strings that are moved into a call arrive unchanged, in any position among the arguments.
TEST_F(CallSize, LargeStringMayBeMovedIn) {
  on_one_thread([]() -> asio::awaitable<void> {
    auto options = call_worker();
    options.max_message_size = 4u << 20;
    LocalWorker worker(co_await asio::this_coro::executor, options);
    co_await worker.start();
    const std::string text(1u << 20, 'x');
    std::string given = text;
    EXPECT_TRUE(co_await worker.call<std::string>("echo", std::move(given)) == text);
    EXPECT_TRUE(co_await worker.call<std::string>("echo", text) == text);
    const std::vector<std::string> ends{"a", "b"};
    given = text;
    EXPECT_TRUE(co_await worker.call<std::string>("join", ends, std::move(given)) == "a" + text + "b");
    std::vector<std::byte> bytes(100000, std::byte{2});
    EXPECT_EQ(co_await worker.call<std::uint64_t>("sum", std::move(bytes)), 200000u);
    given = text;
    std::string separator = text;
    const std::vector<std::string> three{"a", "b", "c"};
    EXPECT_TRUE(co_await worker.call<std::string>("join", three, std::move(separator)) ==
                "a" + text + "b" + text + "c");
    EXPECT_TRUE(co_await worker.call<std::string>("slow_echo", std::move(given), 1) == text);  // not the last argument
    // A refused call, on either side, harms no other call.
    std::string too_large(5u << 20, 'x');
    EXPECT_TRUE(co_await failure_of(worker.call<std::string>("echo", std::move(too_large))) == Errc::message_too_large);
    EXPECT_TRUE(co_await failure_of(worker.call<std::vector<std::byte>>("bytes", 5u << 20)) == Errc::message_too_large);
    std::string dropped = text;
    const char* const null = nullptr;
    EXPECT_THROW(co_await worker.call<std::string>("join", std::move(dropped), null), std::invalid_argument);
    EXPECT_EQ(co_await worker.call<int>("square", 3), 9);
    co_await worker.stop();
  });
}

// max_message_size bounds calls and results; drover's own messages and errors get through however small it is.
TEST_P(MessageLimit, DoesNotApplyToDroversOwnMessages) {
  run_scenario([]() -> asio::awaitable<void> {
    for (const std::size_t size : {std::size_t{1}, std::size_t{60}, std::size_t{200}}) {
      WorkerOptions options = call_worker();
      options.max_message_size = size;
      LocalWorker worker(co_await asio::this_coro::executor, options);
      co_await worker.start();
      const pid_t pid = worker.pid();
      const std::string text(size, 'x');
      EXPECT_TRUE(co_await failure_of(worker.call<std::string>("echo", text)) == Errc::message_too_large);
      if (size > 1) {
        EXPECT_EQ(co_await worker.call<int>("square", 3), 9);
        const std::uint64_t count = size;
        EXPECT_TRUE(co_await failure_of(worker.call<std::vector<std::byte>>("bytes", count)) ==
                    Errc::message_too_large);
        EXPECT_TRUE(co_await failure_of(worker.call("no such routine")) == Errc::unknown_routine);
        try {
          co_await worker.call("throw_int");
          ADD_FAILURE() << "it did not throw";
        } catch (const RemoteError& error) {
          EXPECT_EQ(error.type(), "int");
        }
      }
      EXPECT_EQ((co_await worker.status()).in_flight, 0u);
      EXPECT_EQ(worker.pid(), pid);
      const StopReport report = co_await worker.stop();
      EXPECT_TRUE(report.exit.success()) << report.exit.to_string();
      EXPECT_FALSE(report.rpc);
    }
  });
}

}  // namespace
