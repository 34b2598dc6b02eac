#pragma once

#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "support/callers.hpp"
#include "support/fleet.hpp"

/// What tests of elastic pools need.
namespace support {

inline PoolOptions elastic_pool(std::size_t size, std::size_t max_size, Duration idle_after,
                                std::vector<std::string> steps = {}) {
  PoolOptions options = call_pool(size, std::move(steps));
  options.max_size = max_size;
  options.idle_after = idle_after;
  return options;
}

inline asio::awaitable<void> until_ready(WorkerPool& pool, std::size_t count) {
  const bool ready = co_await soon([&] { return pool.stats().ready == count; });
  EXPECT_TRUE(ready) << pool.stats().ready << " workers are ready, not " << count;
}

/// Calls that keep a worker each until they are released.
class Blockers {
 public:
  Blockers(asio::any_io_executor executor, WorkerPool& pool, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      files_.push_back(folder_.file(std::to_string(i)));
      std::ofstream(files_.back()).close();
      calls_.emplace_back(
          executor, pool.call<std::string>("in_shell", "while test -e " + files_.back() + "; do sleep 0.01; done"));
    }
  }
  bool done(std::size_t at) const { return calls_[at].done(); }
  asio::awaitable<void> release(std::size_t at) {
    std::filesystem::remove(files_[at]);
    const Failure failure = co_await calls_[at].failure();
    EXPECT_FALSE(failure) << failure;
  }
  asio::awaitable<void> release_all() {
    for (const auto& file : files_) std::filesystem::remove(file);
    for (const auto& call : calls_) {
      const Failure failure = co_await call.failure();
      EXPECT_FALSE(failure) << failure;
    }
  }

 private:
  Folder folder_;
  std::vector<std::string> files_;
  std::vector<Task<std::string>> calls_;
};

// Bursts make the pool grow and shrink all the time.
inline asio::awaitable<void> burst(WorkerPool& pool, std::shared_ptr<Tally> tally, std::size_t calls) {
  const auto here = co_await asio::this_coro::executor;
  std::vector<Task<std::string>> several;
  for (std::size_t i = 0; i < calls; ++i) several.emplace_back(here, pool.call<std::string>("doze", 3));
  for (const auto& each : several) {
    const Failure failure = co_await each.failure();
    ++(failure ? tally->other : tally->good);
    if (failure) tally->text = failure.text;
  }
}

inline asio::awaitable<void> bursts(WorkerPool& pool, std::shared_ptr<Tally> tally, Duration pause, int times) {
  for (int i = 0; i < times; ++i) {
    co_await burst(pool, tally, 8);
    co_await pause_for(pause);
  }
  --tally->left;
}

}  // namespace support
