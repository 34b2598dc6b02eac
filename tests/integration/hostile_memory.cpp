// Workers that send memory which they could change, or of another size or kind than they say. They hurt only
// themselves.
#include <cstddef>
#include <functional>
#include <gtest/gtest.h>
#include <string>
#include <utility>
#include <vector>

#include <drover/pool/local_worker.hpp>

#include "support/mappings.hpp"
#include "support/shared_routines.hpp"

namespace {

using namespace support;

class HostileMemory : public CallsWithMemory {
 protected:
  static void with_hostile(std::string how, std::function<asio::awaitable<void>(LocalWorker&)> body) {
    SCOPED_TRACE(how);
    on_one_thread([&]() -> asio::awaitable<void> {
      const auto here = co_await asio::this_coro::executor;
      const Ticker ticker(here);
      WorkerOptions options;
      options.command.program = DROVER_HELPER_HOSTILE_MEMORY;
      options.command.args = {how};
      options.shutdown_grace = options.term_grace = 500ms;
      options.stop_margin = 50ms;
      LocalWorker worker(here, options);
      co_await worker.start();
      co_await body(worker);
      co_await worker.stop(0s);
      EXPECT_LT(ticker.longest_gap(), 500ms);
    });
  }
};

// Memory that is unsealed, of another size, too large or none at all fails its call with the reason, not the worker.
TEST_F(HostileMemory, FailsItsCallOnly) {
  const std::string size = "shared memory of 4 bytes was sent as ", other = "found a descriptor of something else",
                    change = "shared memory was sent that its sender can still change";
  const std::vector<std::pair<std::string, std::string>> cases{
      {"unsealed", change},
      {"half sealed", change},
      {"a block", change},
      {"truncated", change},
      {"shorter", size + "4000"},
      {"longer", size + "3"},
      {"a pipe", other},
      {"a socket", other},
      {"enormous", "where at most"},
      {"too large", "where at most"},
      {"all that is allowed", "where at most"},  // and the message itself
      {"sparse", "has allocated a part"},
      {"bloated", "that takes 16777216"},
  };
  for (const auto& [how, text] : cases)
    with_hostile(how, [&text](LocalWorker& worker) -> asio::awaitable<void> {
      for (int i = 0; i < 3; ++i) {
        const Failure failure = co_await failure_of(worker.call<Text>("x"));
        EXPECT_EQ(failure, Errc::bad_arguments) << failure;
        EXPECT_NE(failure.text.find(text), std::string::npos) << failure;
      }
      EXPECT_TRUE(worker.alive());
    });
}

// The same worker's memory is accepted when it is as it should be: the other tests refuse nothing else.
TEST_F(HostileMemory, ThatIsSealedIsAccepted) {
  with_hostile("honest", [](LocalWorker& worker) -> asio::awaitable<void> {
    const Text text = co_await worker.call<Text>("x");
    EXPECT_EQ(text.view(), "text");
  });
}

// It stays when the process has gone that made it.
TEST_F(HostileMemory, OutlivesItsWorker) {
  Text kept;
  with_hostile("honest", [&](LocalWorker& worker) -> asio::awaitable<void> { kept = co_await worker.call<Text>("x"); });
  EXPECT_EQ(kept.view(), "text");
}

// The worker exits in the middle of a result. The fixture looks for what is left of its memory.
TEST_F(HostileMemory, OfACutOffResultIsFreed) {
  with_hostile("cut off", [](LocalWorker& worker) -> asio::awaitable<void> {
    const Failure failure = co_await failure_of(worker.call<Text>("x"));
    EXPECT_EQ(failure, Errc::worker_exited) << failure;
  });
}

}  // namespace
